"""A mix as a checkpoint: transformers alone loads what qbench measured, or it is said why not."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.workplace import Workplace

SUITE = """\
name: mixes
models: [{model}]
reference: bf16
precisions:
  - bf16
  - {{mixed: {{layers: {{{layers}}}}}, name: mix}}
measure: {{footprint: {{}}}}
"""
EXPORTED = {
    "torchao": '"*.down_proj": int8-wo, "*.q_proj": fp8, "*.k_proj": int4-g32, "*.o_proj": w8a8',
    "bitsandbytes": '"*.down_proj": nf4-dq, "*.1.*.q_proj": nf4-dq',
    "bitsandbytes, 8 bits": '"*.down_proj": int8',
}


@pytest.fixture
def suite(workplace: Workplace, request: pytest.FixtureRequest) -> Path:
    return workplace.write("mixes.yaml", SUITE.format(model=workplace.model, layers=request.param))


@pytest.mark.slow
@pytest.mark.parametrize("suite", EXPORTED.values(), ids=EXPORTED, indirect=True)
def test_what_transformers_loads_is_the_mix_that_was_measured(
    suite: Path, workplace: Workplace
) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    from qbench.core.checkpoint import Checkpoint
    from qbench.plan.plan import check_suite, make_plan
    from qbench.plan.suite.written import read_file
    from qbench.precisions import options_of, precisions

    folder = workplace.folder / "exported"
    finished = workplace.call("export", "mix", suite.name, "mix", "--to", "exported")
    assert finished.code == 0, finished.errors
    assert "wrote exported" in finished.output
    found = AutoModelForCausalLM.from_pretrained(folder, device_map="cpu")
    for module in found.modules():  # see qbench.precisions.bnb4bit.keep_codes
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    AutoTokenizer.from_pretrained(folder)
    plan = make_plan(check_suite(read_file(suite)), workplace.folder / "results")
    mix = plan.every[1].cell.precision
    expected = precisions()[mix.name].load(Checkpoint(workplace.model, "cpu"), options_of(mix))
    ids = torch.arange(3, 35)[None]
    with torch.inference_mode():
        assert torch.equal(found(ids).logits, expected(ids).logits)
    coded = {name for name, layer in expected.named_modules() if hasattr(layer, "held_by_member")}
    assert coded
    config = json.loads((folder / "config.json").read_text())["quantization_config"]
    assert config["quant_method"] in finished.output
    # Codes take fewer bytes than the numbers that they stand for.
    plain = sum(file.stat().st_size for file in workplace.model.glob("*.safetensors"))
    assert sum(file.stat().st_size for file in folder.glob("*.safetensors")) < plain
    again = workplace.call("export", "mix", suite.name, "mix", "--to", "exported")
    assert again.code == 2
    assert "name a folder that is not" in again.errors


@pytest.mark.slow
@pytest.mark.parametrize(
    ("suite", "said"),
    [
        ('"*.down_proj": hqq4', "has a configuration for them"),
        ('"*.down_proj": nf4, "*.q_proj": int8-wo', "as the only quantized format"),
        ('"*.down_proj": bf16', "no layer of the mix is quantized"),
    ],
    indirect=["suite"],
)
def test_what_no_library_holds_is_said(suite: Path, said: str, workplace: Workplace) -> None:
    finished = workplace.call("export", "mix", suite.name, "mix", "--to", "exported")
    assert finished.code == 2
    assert said in finished.errors
    assert "Traceback" not in finished.errors
    assert sorted(workplace.folder.glob("*export*")) == []


@pytest.mark.parametrize("suite", ['"*.down_proj": int8'], indirect=True)
def test_a_name_of_no_mix_is_told_with_those_there_are(suite: Path, workplace: Workplace) -> None:
    finished = workplace.call_here("export", "mix", suite.name, "bf16", "--to", "exported")
    assert finished.code == 2
    assert "no mix is called so" in finished.errors
    assert "--mix" in finished.errors
    (workplace.folder / "there").mkdir()
    finished = workplace.call_here("export", "mix", suite.name, "mix", "--to", "there")
    assert finished.code == 2
    assert "it is there already" in finished.errors


def test_a_suite_without_a_mix_is_told(workplace: Workplace) -> None:
    suite = workplace.write_suite("fp32", "nf4")
    finished = workplace.call_here("export", "mix", suite.name, "nf4", "--to", "exported")
    assert finished.code == 2
    assert "has no mix to export" in finished.errors
