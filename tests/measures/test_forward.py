"""How the forward runs: each way does the same work, and computes the same as a plain loop."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from transformers import DynamicCache

from qbench.core.compilers import why_not_compiled_for_cpu
from qbench.core.errors import MeasurementError
from qbench.measures.forward.compiled import Compiler
from qbench.measures.forward.ways import open_way
from qbench.measures.latency import LATENCY, LatencyOptions
from qbench.measures.workload import make_workload
from qbench.predict.work import GridPoint
from tests.precisions.tiny_cells import TinyCells, Variant

if TYPE_CHECKING:
    from qbench.measures.loaded import LoadedModel, Outcome

BATCH, PROMPT, NEW = 2, 9, 8
WINDOW = 12
"""Of mistral: reached while tokens are decoded."""
SMALL = Variant("llama-small", "llama", {"layers": 1})
WINDOWED = Variant("mistral-window", "mistral", {"sliding_window": WINDOW})
CASES = [
    *((Variant("llama", "llama"), one) for one in ("fp32", "bf16", "int8", "nf4", "int4-g32")),
    (WINDOWED, "fp32"),
    (WINDOWED, "nf4"),
    (Variant("gpt2", "gpt2"), "fp32"),
    (Variant("qwen3", "qwen3"), "bf16"),
]
needs_compiler = pytest.mark.skipif(
    why_not_compiled_for_cpu() is not None, reason="no C++ compiler"
)


def point_of(**changes: Any) -> GridPoint:
    return GridPoint(**{"batch": BATCH, "prompt_tokens": PROMPT, "new_tokens": NEW, **changes})


def plain_loop(loaded: LoadedModel, ids: torch.Tensor) -> torch.Tensor:
    """Logits after each new token, (new, batch, vocabulary): a loop that shares no code."""
    logits, cache = [], DynamicCache(config=loaded.model.config)
    with torch.no_grad():
        loaded.model(ids[:, :PROMPT], past_key_values=cache)
        for at in range(PROMPT, ids.shape[1]):
            found = loaded.model(ids[:, at : at + 1], past_key_values=cache)
            logits.append(found.logits[:, -1].clone())
    return torch.stack(logits)


def of_way(loaded: LoadedModel, forward: str, rounds: int = 2) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits as `plain_loop` has them, of the last of several rounds, and the ids."""
    point = point_of(forward=forward)
    workload = make_workload(loaded.model, point, 3)
    with open_way(loaded, workload, point) as way, torch.inference_mode():
        for _ in range(rounds):
            logits: list[torch.Tensor] = []

            def step(**given: Any) -> Any:
                output = way.step(**given)
                logits.append(output.logits[:, -1].clone())  # noqa: B023 - called in this round
                return output

            workload.decode(step, workload.prefill(way.model, way.new_cache()))
    return torch.stack(logits), torch.cat([workload.prompt, workload.continuation], dim=1)


def check_same(loaded: LoadedModel, forward: str) -> None:
    logits, ids = of_way(loaded, forward)
    expected = plain_loop(loaded, ids)
    assert logits.shape == expected.shape == (NEW, BATCH, expected.shape[-1])
    apart = torch.linalg.vector_norm(logits.float() - expected.float())
    rounding = 1e-5 if loaded.model.dtype == torch.float32 else 0.03
    assert float(apart / torch.linalg.vector_norm(expected.float())) <= rounding
    best = expected.float().topk(2, dim=-1).values
    clear = best[..., 0] - best[..., 1] > 2 * (logits.float() - expected.float()).abs().max()
    assert clear.any()
    assert torch.equal(logits.argmax(-1)[clear], expected.argmax(-1)[clear])


@pytest.mark.parametrize("forward", ["eager", "static"])
@pytest.mark.parametrize(("variant", "precision"), CASES)
def test_logits_are_those_of_a_plain_loop(
    variant: Variant, precision: str, forward: str, cells: TinyCells
) -> None:
    check_same(cells.load(variant, precision), forward)


@needs_compiler
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:bf16 and fp16 are mixed")  # of Inductor, for LLM.int8
@pytest.mark.parametrize(("variant", "precision"), CASES)
def test_compiled_logits_are_those_of_a_plain_loop(
    variant: Variant, precision: str, cells: TinyCells
) -> None:
    check_same(cells.load(variant, precision), "compile")


@pytest.mark.parametrize("forward", ["eager", "static"])
def test_the_work_is_that_of_a_plain_loop(forward: str, cells: TinyCells) -> None:
    """As many forwards, over as many tokens each, with as many in the cache."""
    loaded = cells.load(SMALL, "fp32")
    seen: list[tuple[int, ...]] = []

    def note(_module: Any, _args: Any, given: dict[str, Any], _output: Any) -> None:
        if given.get("input_ids") is not None:
            seen.append(tuple(given["input_ids"].shape))

    hook = loaded.model.register_forward_hook(note, with_kwargs=True)
    try:
        outcome = measure(loaded, forward=forward, min_iterations=4, min_seconds=1e-4)
    finally:
        hook.remove()
    iteration = [(BATCH, PROMPT), *[(BATCH, 1)] * NEW]
    assert len(seen) % len(iteration) == 0
    assert seen == iteration * (len(seen) // len(iteration))
    iterations = outcome.details["iterations"] + outcome.details["warmup_iterations"]
    others = {"eager": 1, "static": 3}[forward]  # watched; compared with the eager one
    assert len(seen) == len(iteration) * (iterations + others)


def measure(loaded: LoadedModel, **options: Any) -> Outcome:
    given: dict[str, Any] = {
        "batch": BATCH,
        "prompt_tokens": PROMPT,
        "new_tokens": NEW,
        "repeats": 1,
        "min_iterations": 2,
        "min_seconds": 0.001,
    }
    (item,) = LATENCY.items(LatencyOptions(**(given | options)), loaded.resolved, Path())
    return LATENCY.measure(loaded, item)


def test_a_static_forward_tells_that_it_computes_the_same(cells: TinyCells) -> None:
    details = measure(cells.load(WINDOWED, "fp32"), forward="static").details
    assert details["as_eager"]["tokens"] == details["as_eager"]["same_tokens"] == BATCH * NEW
    assert details["as_eager"]["logits_apart"] < 1e-5
    assert details["attention_ran"]


@pytest.mark.parametrize(
    ("kernel", "ran"), [("eager", {"eager"}), ("sdpa", {"sdpa: flash", "sdpa: math"})]
)
def test_the_kernel_that_ran_is_told(kernel: str, ran: set[str], cells: TinyCells) -> None:
    loaded = cells.load(SMALL, "fp32")
    own = loaded.model.config._attn_implementation
    details = measure(loaded, attention=kernel).details
    assert set(details["attention_ran"]) <= ran
    assert loaded.model.config._attn_implementation == own


@pytest.mark.slow
@needs_compiler
def test_a_compiled_forward_tells_what_compiling_took(cells: TinyCells) -> None:
    outcome = measure(cells.load(SMALL, "fp32"), forward="compile")
    details = outcome.details
    found = {metric.name: metric.value for metric in outcome.metrics}
    assert found["latency.compile"] == details["compile_s"]
    # Far more than the rest of such a decode, whatever the machine does beside.
    compile_s, decode_s = found["latency.compile"], found["latency.decode"]
    assert compile_s is not None
    assert decode_s is not None
    assert compile_s > NEW * decode_s
    assert (found["latency.compile.memory"] or 0) > 0
    assert details["graphs"] == details["compiled_frames"] == 1
    assert details["graph_breaks"] == details["recompiled_while_timed"] == 0
    assert details["compiling_iterations"] == 1
    assert details["as_eager"]["same_tokens"] == BATCH * NEW
    assert details["as_eager"]["logits_apart"] < 1e-5
    assert details["compile_mode"] == "default"
    # Nothing is left for the next item.
    assert not torch._dynamo.utils.counters["frames"]


NO_COMPILER = {"cpp.cxx": (None, "no-such-compiler")}


@pytest.mark.parametrize("silent", [False, True])
def test_what_the_compiler_cannot_do_is_a_reason_and_no_more(
    *, silent: bool, cells: TinyCells
) -> None:
    """An item of the same model goes on after it. Torch may be told to go on eagerly in silence."""
    loaded = cells.load(SMALL, "fp32")
    told = pytest.raises(MeasurementError, match=r"torch\.compile \(mode default\) failed")
    without = torch._inductor.config.patch(NO_COMPILER)
    with without, torch._dynamo.config.patch(suppress_errors=silent), told:
        measure(loaded, forward="compile")
    assert measure(loaded, forward="static").details["as_eager"]["same_tokens"] == BATCH * NEW


def test_a_window_is_no_part_of_a_cuda_graph(cells: TinyCells) -> None:
    """Told before anything is captured, on any device."""
    with pytest.raises(MeasurementError, match="sliding window"):
        measure(cells.load(WINDOWED, "fp32"), forward="cuda-graphs")


def test_what_cannot_be_captured_is_a_reason(cells: TinyCells) -> None:
    if torch.cuda.is_available():
        pytest.skip("a graph can be captured")
    with pytest.raises(MeasurementError, match="no CUDA graph can be captured"):
        measure(cells.load(SMALL, "fp32"), forward="cuda-graphs")


def test_what_torch_compiled_nothing_of_is_no_compiled_forward(cells: TinyCells) -> None:
    loaded = cells.load(SMALL, "fp32")
    told = pytest.raises(MeasurementError, match=r"torch\.compile made no graph of the model")
    with torch._dynamo.config.patch(disable=True), told:
        measure(loaded, forward="compile")


def test_graph_breaks_are_counted_by_their_reasons(cells: TinyCells) -> None:
    """Torch keeps them apart by what it says below the first line."""
    with Compiler(cells.load(SMALL, "fp32").model, "default") as compiler:
        told = torch._dynamo.utils.counters["graph_break"]
        told |= {"one\n  here": 2, "two\n  here": 3, "one\n  there": 2}
        details = compiler.details()
    assert details["graph_breaks"] == 7
    assert details["graph_break_reasons"] == ["one", "two"]


def test_points_name_how_they_run_and_keep_the_names_that_they_had(cells: TinyCells) -> None:
    options = LatencyOptions(
        forward=("eager", "static", "compile"),
        attention=("sdpa", "eager"),
        compile_mode="max-autotune",
        repeats=1,
    )
    items = LATENCY.items(options, cells.load(SMALL, "fp32").resolved, Path())
    size = "b1-p128-n32"
    assert [item.slug for item in items] == [
        f"{size}-sdpa",
        f"{size}-eager",
        f"{size}-static-sdpa",
        f"{size}-static-eager",
        f"{size}-compile-max-autotune-sdpa",
        f"{size}-compile-max-autotune-eager",
    ]
    (item,) = LATENCY.items(
        LatencyOptions(forward="eager", repeats=1), cells.load(SMALL, "fp32").resolved, Path()
    )
    assert item.slug == size
    assert item.params.keys() == {
        *("batch", "prompt_tokens", "new_tokens", "min_iterations", "min_seconds", "seed")
    }
