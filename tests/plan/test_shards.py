"""Shards of a suite: what each takes, whatever lies on its disk, and what it takes beside."""

from __future__ import annotations

import os
import sys
from itertools import combinations, pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qbench.core.errors import UsageError
from qbench.plan.missing import jobs_to_run
from qbench.plan.plan import RETRIED, Plan, make_plan
from qbench.plan.shards import Shard, cells_of_shard, cut, parse_shard
from qbench.plan.suite.suite import Suite, load_suite_text
from tests.inline_runs import pretended, run_inline
from tests.tiny_models import make_tiny_model

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from qbench.plan.cells import PlannedCell
    from tests.workplace import Workplace

SUITE = """\
models: [./small, ./large, {source: ./small, name: again}]
reference: bf16
precisions:
  - bf16
  - int8-wo
  - nf4
  - {mixed: {budget: 7 bits, from: [nf4, int8-wo, bf16]}, name: mix-7}
  - {mixed: {budget: 9 bits, from: [nf4, int8-wo, bf16]}, name: mix-9}
finetune:
  data: {recipe: instruction}
  methods: [{method: lora, precision: [bf16, nf4]}]
  seeds: [0, 1]
  deploy: [attached, merged]
measure:
  footprint:
  quality: {text: text.txt, window: 32}
  latency: {prompt_tokens: 4, new_tokens: 2, repeats: 2}
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what the suite names."""
    folder = tmp_path_factory.mktemp("shards")
    make_tiny_model(folder / "small", "llama", hidden=32)
    make_tiny_model(folder / "large", "llama", hidden=64)
    (folder / "text.txt").write_text("def add(first): return first + 1\n" * 20, encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def suite(base: Path) -> Suite:
    return load_suite_text(SUITE, "suite.yaml", base)


@pytest.fixture(scope="module")
def whole(base: Path, suite: Suite) -> Plan:
    return make_plan(suite, base / "results", device="cpu")


@pytest.fixture(scope="module")
def every_cell(whole: Plan) -> Callable[[], Sequence[PlannedCell]]:
    """Tells them when it is called: hypothesis writes its arguments out, and they are long."""
    return lambda: whole.every


@given(st.integers(1, 50), st.sets(st.integers(0, 50), max_size=45))
def test_shards_share_the_cells_out_and_keep_together_what_needs_each_other(
    every_cell: Callable[[], Sequence[PlannedCell]], count: int, left_out: set[int]
) -> None:
    assert len(every_cell()) == 51
    cells = [cell for at, cell in enumerate(every_cell()) if at not in left_out]
    parts = [cells_of_shard(Shard(number, count), cells) for number in range(1, count + 1)]

    every = [slug for part in parts for slug in part.slugs]
    assert sorted(every) == sorted(cell.cell.slug for cell in cells)
    assert len({part.split for part in parts}) == 1
    filled = [bool(part.slugs) for part in parts]
    assert filled == sorted(filled, reverse=True)  # those that are left over are the last
    assert sum(filled) == min(count, parts[0].groups)

    shard_of = {slug: part.shard.number for part in parts for slug in part.slugs}
    for one, other in combinations(cells, 2):
        if one.model.ref != other.model.ref:
            continue
        tuned = one.artifact_key is not None and one.artifact_key == other.artifact_key
        mixes = one.sensitivities_key is not None and (
            one.sensitivities_key == other.sensitivities_key
            or one.sensitivities_key in {task.key for task in other.tasks}
        )
        if tuned or mixes:
            assert shard_of[one.cell.slug] == shard_of[other.cell.slug]


def test_neighbours_of_a_model_share_a_shard(whole: Plan) -> None:
    parts = [cells_of_shard(Shard(number, 3), whole.every) for number in (1, 2, 3)]
    models = [{slug.partition("--")[0] for slug in part.slugs} for part in parts]
    # Of three models, each cut falls within one at most.
    assert sum(map(len, models)) <= 3 + 2


@given(st.lists(st.integers(0, 20), min_size=1, max_size=8), st.integers(1, 9))
def test_no_other_cut_has_a_smaller_largest_stretch(work: list[int], count: int) -> None:
    ends = cut(work, count)
    assert len(ends) == min(count, len(work))
    assert _largest(work, ends) == min(
        _largest(work, [*inner, len(work)])
        for inner in combinations(range(1, len(work)), min(count, len(work)) - 1)
    )
    assert cut([], count) == []


def _largest(work: Sequence[int], ends: Sequence[int]) -> int:
    stretches = [work[begin:end] for begin, end in pairwise((0, *ends))]
    assert all(stretches)
    assert sum(map(len, stretches)) == len(work)
    return max(map(sum, stretches))


def test_a_large_model_weighs_more_than_a_small_one(base: Path) -> None:
    text = "models: [./small, ./large]\nprecisions: [bf16, fp32, fp16, nf4]\nmeasure: {footprint: }"
    suite = load_suite_text(text, "suite.yaml", base)
    weights = {"small": 0, "large": 0}
    for cell in make_plan(suite, base / "results", device="cpu").every:
        assert cell.model.shape is not None
        weights[cell.model.ref.name] = cell.model.shape.weights
    assert weights["large"] > 1.5 * weights["small"]
    second = make_plan(suite, base / "results", device="cpu", shard=Shard(2, 2))
    assert {cell.model.ref.name for cell in second.cells} == {"large"}
    assert len(second.cells) < 4


def test_the_split_is_the_same_whatever_was_measured_before(workplace: Workplace) -> None:
    workplace.write_suite("fp32", "bf16", "nf4", "int8")
    (measured,) = run_inline(workplace, work=pretended(), shard=Shard(2, 3)).result.plans
    before = [_selected(measured)]
    run_inline(workplace, work=pretended())
    for number in (1, 2, 3):
        with workplace.entered():
            suite = load_suite_text(
                (workplace.folder / "suite.yaml").read_text(encoding="utf-8"),
                "suite.yaml",
                workplace.folder,
            )
            made = make_plan(
                suite, workplace.folder / "results", device="cpu", shard=Shard(number, 3)
            )
        assert jobs_to_run(made, RETRIED, fresh=False) == []
        before.append(_selected(made))
    assert before[0] == before[2]
    assert sum(map(len, before[1:])) == 4


def test_the_split_is_the_same_in_each_process(workplace: Workplace) -> None:
    workplace.write_suite("fp32", "bf16", "nf4", "int8")
    program = (
        "from pathlib import Path; from qbench.plan.plan import make_plan;"
        "from qbench.plan.suite.suite import load_suite; from qbench.plan.shards import Shard;"
        "made = make_plan(load_suite(Path('suite.yaml')), Path('r'), device='cpu',"
        " shard=Shard(2, 3)); print(made.shard.split, sorted(made.selected))"
    )
    told = {
        workplace.with_environment(
            PYTHONHASHSEED=seed, PYTHONPATH=os.pathsep.join(sys.path)
        ).output_of(program)
        for seed in ("1", "2")
    }
    assert len(told) == 1


def test_a_shard_takes_the_reference_for_its_cells_where_its_cache_lacks_it(
    workplace: Workplace,
) -> None:
    workplace.write_suite("fp32", "bf16", "nf4")
    second = run_inline(workplace, work=pretended(), shard=Shard(2, 3))
    assert second.taken_items == [
        "bf16 footprint",
        "bf16 latency",
        "bf16 latency",
        "bf16 quality",
        "fp32 quality",
    ]
    assert second.result.taken_beside == 1
    assert not second.result.failed
    third = run_inline(workplace, work=pretended(), shard=Shard(3, 3))
    assert {one.partition(" ")[0] for one in third.taken_items} == {"nf4"}  # the states are there
    first = run_inline(workplace, work=pretended(), shard=Shard(1, 3))
    assert first.taken_items == ["fp32 footprint", "fp32 latency", "fp32 latency"]
    assert run_inline(workplace, work=pretended()).taken == set()


def test_shards_are_of_what_only_picks(base: Path, suite: Suite) -> None:
    picked = [
        _selected(
            make_plan(
                suite, base / "results", device="cpu", only=["again--*"], shard=Shard(number, 2)
            )
        )
        for number in (1, 2)
    ]
    every = make_plan(suite, base / "results", device="cpu", only=["again--*"])
    assert picked[0] | picked[1] == _selected(every)
    assert all(picked)


def test_a_shard_that_is_left_over_does_nothing_and_is_fine(workplace: Workplace) -> None:
    workplace.write_suite("fp32", "bf16")
    finished = workplace.call_here("run", "suite.yaml", "--device", "cpu", "--shard", "3/9")
    assert finished.code == 0
    assert "shard 3/9: nothing to do: the 2 cells make 2 parts" in finished.output
    assert "no records, 0 taken now" in finished.output
    assert workplace.records() == {}
    planned = workplace.call_here("plan", "suite.yaml", "--device", "cpu", "--shard", "3/9")
    assert (planned.code, "nothing is left to take" in planned.output) == (0, True)


def test_a_plan_tells_of_its_shard(workplace: Workplace) -> None:
    workplace.write_suite("fp32", "bf16", "nf4")
    told = workplace.call_here("plan", "suite.yaml", "--device", "cpu", "--shard", "1/2")
    assert "shard 1/2: 2 of 3 cells, shared out by measurements × weights" in told.output
    assert "nf4" not in told.output


@pytest.mark.parametrize("text", ["0/5", "6/5", "5", "x", "2/", "-1/5", "1/0", "٢/٥", "1/9999999"])
def test_what_is_no_shard_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"--shard: found .*; expected NUMBER/COUNT"):
        parse_shard(text)
    assert parse_shard("2/5") == Shard(2, 5)


def _selected(plan: Plan) -> frozenset[str]:
    return frozenset(cell.cell.slug for cell in plan.cells)
