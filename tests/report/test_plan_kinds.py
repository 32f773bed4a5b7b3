"""`qbench plan --kinds`: what the bytes and peaks are made of."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tests.workplace import Workplace

SUITE = """\
models: ['random:Mistral-7B-Instruct-v0.2']
precisions: [bf16, nf4-dq]
finetune:
  data: {recipe: reverse-instruction}
  methods:
    - {name: qlora, method: lora, precision: nf4-dq, rank: 64, optimizer: paged_adamw_32bit}
  deploy: [merged]
measure:
  footprint:
  memory: {batch: 4, prompt_tokens: 1024, new_tokens: 1}
"""


def in_one_line(output: str) -> str:
    return " ".join(output.split())


def test_static_bytes_and_peaks_by_kind(workplace: Workplace) -> None:
    workplace.write("suite.yaml", SUITE)
    plain = in_one_line(workplace.call_here("plan", "suite.yaml", "--gpu", "h100").output)
    assert "Bytes by kind" not in plain
    finished = workplace.call_here("plan", "suite.yaml", "--gpu", "h100", "--kinds")
    assert finished.code == 0, finished.errors
    text = in_one_line(finished.output).partition("Bytes by kind")[2]
    # Four bits a weight of 6,979,321,856; a byte for each of 109,051,904 blocks, four for each of
    # 425,984 nested ones; for each of 224 layers an offset and two tables of 16 and 256 numbers.
    state = 109_051_904 + 4 * 425_984 + 224 * (4 + 64 + 1024)
    assert f"linear {6_979_321_856 // 2:,}, quantization state {state:,}," in text
    assert f"embeddings and head {2 * 2 * 32_000 * 4096:,}, norms {2 * 266_240:,}" in text
    # 1,024 tokens of 4 sequences, 131,072 bytes each, are half a GiB.
    assert "kv cache 512.00 MiB" in text
    # 27,262,976 weights of four bytes; two moments of each, all but small tensors' in pages.
    assert "adapters 104.00 MiB, gradients 104.00 MiB, optimizer state 208.00 MiB" in text
    assert "can be paged out" in text
    assert "training on 512 tokens a sequence, " in text
    # A model that was merged holds what one that was never tuned does.
    assert "--qlora-nf4-dq--merged static, 14,483,464,704 bytes" in text


def test_what_is_skipped_is_not_asked_for_its_peak(workplace: Workplace) -> None:
    """It has a reason of its own, and a second one would be wrong."""
    text = "models: ['bundled:tiny-mistral']\nprecisions: [fp32, stored]\nmeasure: [memory]\n"
    workplace.write("suite.yaml", text)
    found = in_one_line(workplace.call_here("plan", "suite.yaml").output)
    assert "--stored: skipped: the checkpoint is not quantized" in found
    assert "peak not known" not in found
