"""`qbench fit`: as a user calls it, and what its forms hold."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING

import pytest

from qbench.predict.devices import RESERVED_BYTES

if TYPE_CHECKING:
    from tests.workplace import Workplace

MISTRAL = "Mistral-7B-Instruct-v0.2"
FEW = ("--precision", "nf4-dq", "--length", "512")
BOTH = ("--precision", "nf4-dq", "--precision", "bf16", "--length", "512", "--length", "2048")


def test_a_known_model_needs_neither_hub_nor_gpu(workplace: Workplace) -> None:
    finished = workplace.call_here("fit", MISTRAL, "--gpu", "24GB", *BOTH)
    assert finished.code == 0, finished.errors
    assert f"What fits of {MISTRAL} into 24GB (22.4 GiB)" in finished.output
    rows = dict(
        re.findall(
            r"^ *(\S+(?: \+ckpt)? +(?:nf4-dq|bf16)) +(.+?) *$", finished.output, re.MULTILINE
        )
    )
    rows = {" ".join(name.split()): values.split() for name, values in rows.items()}
    assert set(rows) == {
        "inference bf16", "inference nf4-dq", "full bf16", "full +ckpt bf16", "LoRA bf16",
        "LoRA +ckpt bf16", "QLoRA nf4-dq", "QLoRA +ckpt nf4-dq",
    }  # fmt: skip
    # 7.2 B weights with gradients and states: 16 bits of each are 8 bytes a weight.
    assert rows["full bf16"][1:] == ["-", "-", "-"]
    assert int(rows["inference nf4-dq"][1]) > int(rows["inference bf16"][1]) > 10


def test_by_hub_id_in_any_case(workplace: Workplace) -> None:
    finished = workplace.call_here("fit", "mistralai/mistral-7b-instruct-v0.2", "--gpu", "t4", *FEW)
    assert finished.code == 0, finished.errors
    assert f"What fits of {MISTRAL} into t4" in finished.output


def test_of_a_mixture_all_experts_must_fit(workplace: Workplace) -> None:
    few = ("--precision", "bf16", "--length", "512")
    finished = workplace.call_here("fit", "Mixtral-8x7B", "--gpu", "h200", *few, "--format", "json")
    found = json.loads(finished.output)
    assert found["weights"] == 46_702_792_704
    assert found["weights_read"] == 12_748_853_248
    (row,) = [row for row in found["rows"] if row["use"] == "inference"]
    assert row["least_bytes"] > 2 * found["weights"]
    assert row["batches"]["512"] > 0
    shown = " ".join(
        workplace.call_here("fit", "Mixtral-8x7B", "--gpu", "h200", *few).output.split()
    )
    assert "a token reads 12,748,853,248 (2 of 8 experts a layer); all of them must fit" in shown


def test_over_two_gpus(workplace: Workplace) -> None:
    one, two = (
        workplace.call_here("fit", MISTRAL, "--gpu", gpu, *FEW, "--format", "json")
        for gpu in ("12GB", "2x12GB")
    )
    first, both = json.loads(one.output), json.loads(two.output)
    assert both["gpu"] == {"name": "2x12GB", "bytes": 24 * 10**9, "count": 2}
    assert both["kept_free_bytes"] == 2 * first["kept_free_bytes"] == 2 * RESERVED_BYTES
    batches = [found["rows"][0]["batches"]["512"] for found in (first, both)]
    assert batches[1] > 2 * batches[0] > 0
    shown = workplace.call_here("fit", MISTRAL, "--gpu", "2x12GB", *FEW)
    assert "Laid over 2 GPUs (device_map: auto)" in " ".join(shown.output.split())


def test_fp16_goes_before_bf16_where_nothing_multiplies_it(workplace: Workplace) -> None:
    names = ("--precision", "bf16", "--precision", "fp16", "--precision", "nf4", "--length", "512")
    found = {}
    for gpu in ("t4", "a10"):
        done = workplace.call_here("fit", MISTRAL, "--gpu", gpu, *names, "--format", "json")
        rows = [row for row in json.loads(done.output)["rows"] if row["use"] == "inference"]
        found[gpu] = [row["precision"] for row in rows]
    assert found == {"t4": ["fp16", "nf4", "bf16"], "a10": ["bf16", "fp16", "nf4"]}
    shown = workplace.call_here("fit", MISTRAL, "--gpu", "t4", *names)
    assert "t4 does not multiply bf16" in " ".join(shown.output.split())


def test_of_a_folder_and_of_a_bundled_model(workplace: Workplace) -> None:
    for model in (str(workplace.model), "bundled:tiny-mistral"):
        finished = workplace.call_here(
            "fit", model, "--gpu", "h100", "--precision", "nf4", "--length", "64"
        )
        assert finished.code == 0, finished.errors
        assert "≥4096" in finished.output


def test_json_holds_bytes_and_counts(workplace: Workplace) -> None:
    finished = workplace.call_here("fit", MISTRAL, "--gpu", "80GB", *BOTH, "--format", "json")
    found = json.loads(finished.output)
    assert found["model"] == MISTRAL
    assert found["weights"] == 7_241_732_096
    assert found["gpu"] == {"name": "80GB", "bytes": 80 * 10**9, "count": 1}
    assert found["kept_free_bytes"] == RESERVED_BYTES
    inference = next(
        row for row in found["rows"] if (row["use"], row["precision"]) == ("inference", "bf16")
    )
    # Weights (and two rotary buffers), the cache of 512 tokens, what is kept free, and a little.
    floor = 14_483_464_192 + 512 * 131_072 + RESERVED_BYTES
    assert floor < inference["least_bytes"] < 1.02 * floor
    assert inference["batches"]["512"] > inference["batches"]["2048"] > 100
    assert inference["longest"] == found["context_tokens"] == 32768
    trained = {(row["use"], row["checkpointing"]): row for row in found["rows"]}
    assert trained["QLoRA", True]["batches"]["512"] > trained["QLoRA", False]["batches"]["512"]


def test_markdown_is_written_to_a_file(workplace: Workplace) -> None:
    finished = workplace.call_here(
        "fit", MISTRAL, "--gpu", "24GB", *FEW, "--format", "markdown", "-o", "out/fit.md"
    )
    assert finished.code == 0, finished.errors
    assert "wrote out/fit.md" in finished.output
    text = (workplace.folder / "out/fit.md").read_text(encoding="utf-8")
    assert text.startswith(f"# What fits of {MISTRAL} into 24GB (22.4 GiB)\n")
    assert re.search(r"^\| QLoRA \+ckpt +\| nf4-dq ", text, re.MULTILINE)
    assert "Predicted from shapes, nothing measured" in text


def test_rank_and_targets_take_more(workplace: Workplace) -> None:
    least = []
    for options in (("--rank", "8"), ("--rank", "64", "--target", "all-linear")):
        finished = workplace.call_here(
            "fit", MISTRAL, "--gpu", "h100", "--precision", "nf4-dq", "--length", "512",
            "--format", "json", *options,
        )  # fmt: skip
        rows = json.loads(finished.output)["rows"]
        least.append(next(row["least_bytes"] for row in rows if row["use"] == "QLoRA"))
    # 16 bytes a trained weight at least: 3.4 M on q and v against 167.8 M.
    assert least[1] - least[0] > 16 * 160e6


def test_a_precision_whose_layers_are_not_known_is_named(workplace: Workplace) -> None:
    finished = workplace.call_here(
        "fit", MISTRAL, "--gpu", "h100", "--precision", "fp16", "--length", "512"
    )
    assert finished.code == 0, finished.errors
    assert "Not shown: LoRA in fp16" in " ".join(finished.output.split())


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ["Mistral-7B", "--gpu", "h100", "--target", "q_projj,v_proj"],
            ["--target 'q_projj'", "did you mean 'q_proj'?", "all-linear"],
        ),
        (["Mistral-7B", "--gpu", "24"], ["--gpu '24'", "24GB or 24GiB"]),
        ([MISTRAL, "--gpu", "a100"], ["a100-40gb or a100-80gb"]),
        ([MISTRAL, "--gpu", "h10"], ["did you mean", "h100"]),
        ([MISTRAL], ["no GPU", "--gpu 24GB"]),
        ([MISTRAL, "--gpu", "t4", "--precision", "nf5"], ["'nf5'", "did you mean 'nf4"]),
        ([MISTRAL, "--gpu", "t4", "--kv-cache", "int5"], ["'int5'", "There is fp8, int8, int4"]),
        ([MISTRAL, "--gpu", "t4", "--format", "xml"], ["'xml'", "markdown, html, json"]),
        (["./nowhere", "--gpu", "t4"], ["nowhere", "no such folder"]),
        (["Mistrel-7B", "--gpu", "t4"], ["did you mean 'Mistral-7B", "cannot be reached"]),
        (["random:Mistral-8B", "--gpu", "t4"], ["Mistral-8B", "did you mean"]),
    ],
)
def test_what_is_wrong_is_told_with_what_to_do(
    workplace: Workplace, arguments: list[str], words: list[str]
) -> None:
    finished = workplace.call_here("fit", *arguments)
    assert finished.code == 2
    assert "Traceback" not in finished.errors
    told = " ".join(finished.errors.split())
    assert all(word in told for word in words), told


def test_a_quantized_cache_leaves_room_for_more_tokens(workplace: Workplace) -> None:
    asked = ("Llama-3.1-8B", "--gpu", "24GB", "--precision", "nf4", "--length", "4096")
    caches = [part for kind in ("fp8", "int4", "quanto-int4") for part in ("--kv-cache", kind)]
    finished = workplace.call_here("fit", *asked, *caches, "--format", "json")
    assert finished.code == 0, finished.errors
    found = json.loads(finished.output)["rows"]
    rows = {row["precision"]: row for row in found if row["use"] == "inference"}
    longest = [rows[name]["longest"] for name in ("nf4", "nf4--kv-fp8", "nf4--kv-int4")]
    assert 50_000 < longest[0] < longest[1] < longest[2]
    assert rows["nf4--kv-int4"]["kv_cache"] == "int4"
    assert rows["nf4--kv-quanto-int4"]["longest"] is None
    shown = workplace.call_here("fit", *asked, *caches)
    text = " ".join(shown.output.split())
    assert "Not shown: nf4--kv-quanto-int4: what quanto takes" in text
    assert "--kv-…: with a quantized KV cache" in text
    windowed = workplace.call_here("fit", "Mistral-7B-v0.1", *asked[1:], "--kv-cache", "int4")
    assert "layers of sliding attention" in " ".join(windowed.output.split())


def test_the_help_has_examples(workplace: Workplace) -> None:
    finished = workplace.call_here("fit", "--help")
    assert finished.code == 0
    assert "qbench fit Mistral-7B-Instruct-v0.2 --gpu 24GB" in " ".join(finished.output.split())


def test_both_figures_are_shown_where_the_floating_model_must_fit(workplace: Workplace) -> None:
    asked = ("--precision", "int4-g32", "--precision", "int4-g32-gptq", "--length", "512")
    finished = workplace.call_here("fit", MISTRAL, "--gpu", "24GB", *asked)
    text = " ".join(finished.output.split())
    assert "made in GiB: int4-g32-gptq must see text" in text
    shown = workplace.call_here("fit", MISTRAL, "--gpu", "24GB", *asked, "--format", "json")
    rows = {
        row["precision"]: row
        for row in json.loads(shown.output)["rows"]
        if row["use"] == "inference"
    }
    nearest, chosen = rows["int4-g32"], rows["int4-g32-gptq"]
    assert nearest["loading_bytes"] is None
    assert chosen["least_bytes"] == nearest["least_bytes"]
    assert chosen["loading_bytes"] == 14_483_464_192 + 2 * 64 * 4 + RESERVED_BYTES
    assert f"{chosen['loading_bytes'] / 2**30:.2f}" in finished.output


def test_int4_is_told_as_it_is_served_and_its_simulation_beside(workplace: Workplace) -> None:
    found = {}
    for gpu in ("24GB", "t4"):
        finished = workplace.call_here(
            "fit", "mistralai/Mistral-7B-v0.1", "--gpu", gpu, "--precision", "int4-g32",
            "--precision", "integer", "--length", "512", "--format", "json",
        )  # fmt: skip
        (row,) = (
            one
            for one in json.loads(finished.output)["rows"]
            if (one["use"], one["precision"]) == ("inference", "int4-g32")
        )
        found[gpu] = row
    rest = 2 * (2 * 32000 * 4096 + 65 * 4096)
    linear = 32 * (2 * 4096**2 + 2 * 4096 * 1024 + 3 * 4096 * 14336)
    above = RESERVED_BYTES + 512 * 131_072
    # Packed by torchao's kernel: 4 bytes for 32 codes.
    least = linear // 2 + 4 * linear // 32 + rest + above
    assert least < found["24GB"]["least_bytes"] < 1.02 * least
    assert found["24GB"]["simulated_bytes"] is None
    # That multiplies bf16, which a T4 does not: there the codes are simulated in bytes.
    least = linear // 2 + 2 * linear // 32 + rest + above
    assert least < found["t4"]["least_bytes"] < 1.02 * least
    assert found["t4"]["simulated_bytes"] > found["t4"]["least_bytes"] + linear // 2
    shown = workplace.call_here("fit", MISTRAL, "--gpu", "t4", "--precision", "int4-g32")
    assert "of packed codes, as they are served" in " ".join(shown.output.split())
