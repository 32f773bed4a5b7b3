"""A run with quantized KV caches: what its records hold and what the report shows of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.inline_runs import run_inline

if TYPE_CHECKING:
    from tests.workplace import Workplace

SUITE = """\
models: [bundled:tiny-mistral]
precisions: [bf16]
kv_cache: [fp8, int4]
measure:
  memory: {prompt_tokens: 40, new_tokens: 3}
  latency: {prompt_tokens: 8, new_tokens: 2, repeats: 1, min_iterations: 1, min_seconds: 0.001}
  decoded: {limit: 20, prompt_tokens: 24, new_tokens: 3}
  generation: {count: 2, new_tokens: 12}
  tasks: {names: stdlib-completion, limit: 4}
gate:
  decoded.kl: {max: 1.0e-9, cells: "*--kv-*"}
"""


@pytest.mark.slow
def test_what_reads_the_cache_is_measured_with_each_kind(workplace: Workplace) -> None:
    place = workplace
    place.write("suite.yaml", SUITE)
    ran = run_inline(place)
    assert not ran.result.failed
    records = {(one.cell.label, one.item.measurement): one for one in ran.result.records}
    cells = ("bf16", "bf16--kv-fp8", "bf16--kv-int4")
    assert len(records) == 15
    held = {cell: records[cell, "memory"].value("memory.kv_cache") for cell in cells}
    # 4 layers, 2 heads of 32, keys and values, 43 tokens: 16 bits; 8 and a scale a tensor; 4 bits
    # with two constants of 16 bits for 32 codes, and 3 tokens in 16 bits.
    elements = 4 * 2 * 32 * 2
    assert held == {
        "bf16": elements * 43 * 2,
        "bf16--kv-fp8": elements * 43 + 4 * 2 * 4,
        "bf16--kv-int4": elements * 40 * 5 / 8 + elements * 3 * 2,
    }
    for cell in cells:
        found = records[cell, "memory"]
        assert found.value("memory.kv_cache.predicted") == held[cell]
        told = records[cell, "latency"].details["loaded"]["unlike_served"]
        assert (told is not None) == (cell != "bf16")
    texts = {str(records[cell, "generation"].details["generated"]) for cell in cells}
    assert len(texts) > 1
    kl = {cell: records[cell, "decoded"].value("decoded.kl.mean") or 0.0 for cell in cells}
    assert kl["bf16"] == 0 < kl["bf16--kv-fp8"] < kl["bf16--kv-int4"] * 10

    report = place.call_here("report", "results/suite", "--format", "markdown", "-o", "-")
    assert report.code == 0, report.errors
    assert (
        "Quality of decoded positions: stdlib-heldout, 3 tokens decoded after 24" in report.output
    )
    assert "| bf16--kv-int4" in report.output
    assert "KL decoded" in report.output
    assert "there is no record" not in report.output
    assert "dequantizes a quantized KV cache at each step" in report.output
    gate = place.call_here("gate", "suite.yaml", "--device", "cpu")
    assert gate.code == 1
    assert "decoded.kl.mean" in gate.output
