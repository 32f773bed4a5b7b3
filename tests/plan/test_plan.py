"""The plan: what decides a record's key, the order of work, and everything wrong at once."""

from __future__ import annotations

import hashlib
import json
import math
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import qbench.plan.keys
from qbench.core.environment import detect_environment
from qbench.core.errors import DeviceError, SuiteError, UsageError
from qbench.core.record import STATUSES
from qbench.core.store import NewerRecordError, write_record
from qbench.plan.keys import IDENTITY_PACKAGES
from qbench.plan.plan import RETRIED, Plan, damaged_records, make_plan
from qbench.plan.suite.suite import load_suite_text
from tests.tiny_models import make_tiny_model
from tests.workplace import write_text

if TYPE_CHECKING:
    from qbench.core.record import Environment

Identity = tuple[str, str, str, int]
"""Cell, measurement, item and repeat."""

SUITE = """\
models: [./model]
precisions: [fp32, nf4]
measure:
  footprint:
  latency: {prompt_tokens: 8, new_tokens: 4, repeats: 3}
  quality: {text: text.txt, window: 64}
"""


@pytest.fixture
def base(tmp_path: Path, tiny_model: Path) -> Path:
    """A folder with a model and a text, for a test to change."""
    shutil.copytree(tiny_model, tmp_path / "model")
    write_text(tmp_path)
    return tmp_path


def plan(base: Path, text: str = SUITE, file: str = "suite.yaml", **options: Any) -> Plan:
    suite = load_suite_text(text, file, base)
    return make_plan(suite, base / "results", device="cpu", **options)


def keys(made: Plan) -> dict[Identity, str]:
    return {
        (cell.cell.precision.label, task.item.measurement, task.item.slug, task.item.repeat): (
            task.key
        )
        for cell in made.cells
        for task in cell.tasks
    }


def changed(before: dict[Identity, str], after: dict[Identity, str]) -> set[Identity]:
    assert before.keys() == after.keys()
    return {identity for identity in before if before[identity] != after[identity]}


def in_environment(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Lets plans be made as if on a machine that differs in this."""
    here = detect_environment("cpu")

    def detect(device: str) -> Environment:
        return here.model_copy(update=changes)

    monkeypatch.setattr(qbench.plan.plan, "detect_environment", detect)


class TestKeys:
    def test_a_key_is_the_hash_of_the_identity_and_part_of_the_file_name(self, base: Path) -> None:
        for task in plan(base).tasks:
            canonical = json.dumps(task.identity, sort_keys=True, separators=(",", ":"))
            assert task.key == hashlib.sha256(canonical.encode()).hexdigest()[:16]
            assert task.path.endswith(f"-{task.key}.json")

    def test_all_keys_and_places_differ(self, base: Path) -> None:
        tasks = plan(base).tasks
        assert len(tasks) == 2 * (1 + 3 + 1)
        assert len({task.key for task in tasks}) == len({task.path for task in tasks}) == len(tasks)

    def test_they_are_the_same_in_another_plan(self, base: Path) -> None:
        assert keys(plan(base)) == keys(plan(base))

    def test_names_and_places_do_not_count(self, base: Path) -> None:
        """Another suite name, file, model folder and place of the text: the same measurements."""
        elsewhere = base / "elsewhere"
        elsewhere.mkdir()
        (base / "model").rename(elsewhere / "other-name")
        before = keys(plan_at(base, elsewhere / "other-name", base / "text.txt"))
        (elsewhere / "other-name").rename(base / "third-name")
        shutil.move(base / "text.txt", elsewhere / "text.txt")
        text = SUITE.replace("./model", str(base / "third-name"))
        text = text.replace("text.txt", str(elsewhere / "text.txt"))
        after = keys(plan(elsewhere, f"name: other\ntimeout_s: 5\n{text}", "b.yaml"))
        assert changed(before, after) == set()

    @pytest.mark.parametrize("name", ["model.safetensors", "config.json", "tokenizer.json"])
    def test_the_models_contents_count(self, base: Path, name: str) -> None:
        before = keys(plan(base))
        path = base / "model" / name
        contents = bytearray(path.read_bytes())
        if name == "model.safetensors":
            contents[-1] ^= 1
        else:
            contents += b"\n"
        path.write_bytes(contents)
        assert changed(before, keys(plan(base))) == set(before)

    def test_whether_the_models_own_code_runs_counts(self, base: Path) -> None:
        text = SUITE.replace("./model", "{source: ./model, trust_remote_code: true}")
        before = keys(plan(base))
        assert changed(before, keys(plan(base, text))) == set(before)

    def test_a_precisions_option_counts_for_that_precision(self, base: Path) -> None:
        text = SUITE.replace("nf4", "{nf4: {compute_dtype: fp16}, name: nf4}")
        before = keys(plan(base))
        differing = changed(before, keys(plan(base, text)))
        assert differing == {identity for identity in before if identity[0] == "nf4"}

    def test_a_precisions_label_does_not_count(self, base: Path) -> None:
        renamed = keys(plan(base, SUITE.replace("nf4", "{nf4: , name: other}")))
        assert set(renamed.values()) == set(keys(plan(base)).values())

    @pytest.mark.parametrize(
        "option", ["min_iterations: 7", "min_seconds: 0.5", "seed: 1", "batch: 2"]
    )
    def test_an_option_counts_for_its_measurement(self, base: Path, option: str) -> None:
        before = keys(plan(base))
        after = keys(plan(base, SUITE.replace("repeats: 3", f"repeats: 3, {option}")))
        assert {k for i, k in before.items() if i[1] != "latency"} <= set(after.values())
        assert not {k for i, k in before.items() if i[1] == "latency"} & set(after.values())

    def test_more_repeats_and_points_keep_those_there_are(self, base: Path) -> None:
        before = set(keys(plan(base)).values())
        wider = SUITE.replace("repeats: 3", "repeats: 4, batch: [1, 2]")
        after = set(keys(plan(base, wider)).values())
        assert before < after
        assert len(after) == 2 * (1 + 2 * 4 + 1)

    def test_a_texts_contents_count_for_quality(self, base: Path) -> None:
        before = keys(plan(base))
        with (base / "text.txt").open("a", encoding="utf-8") as file:
            file.write("!")
        differing = changed(before, keys(plan(base)))
        assert differing == {identity for identity in before if identity[1] == "quality"}

    def test_the_protocol_counts(self, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        before = keys(plan(base))
        monkeypatch.setattr(qbench.plan.keys, "PROTOCOL_VERSION", "another")
        assert changed(before, keys(plan(base))) == set(before)

    @pytest.mark.parametrize("package", IDENTITY_PACKAGES)
    def test_the_versions_count(
        self, base: Path, monkeypatch: pytest.MonkeyPatch, package: str
    ) -> None:
        before = keys(plan(base))
        here = detect_environment("cpu").versions
        in_environment(monkeypatch, versions={**here, package: "99.9"})
        assert changed(before, keys(plan(base))) == set(before)

    def test_the_device_counts(self, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        before = keys(plan(base))
        in_environment(monkeypatch, device="Another CPU (96 cores)")
        assert changed(before, keys(plan(base))) == set(before)

    def test_what_decides_no_number_does_not_count(
        self, base: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        before = keys(plan(base))
        versions = {**detect_environment("cpu").versions, "datasets": "99.9"}
        in_environment(monkeypatch, versions=versions, qbench="9", git_revision="abc", threads=9)
        assert changed(before, keys(plan(base))) == set()


def plan_at(base: Path, model: Path, text: Path) -> Plan:
    return plan(base, SUITE.replace("./model", str(model)).replace("text.txt", str(text)))


class TestOrder:
    def test_the_reference_comes_first_and_repeats_are_interleaved(self, base: Path) -> None:
        text = SUITE.replace("[fp32, nf4]", "[nf4, bf16, fp32]\nreference: fp32")
        jobs = plan(base, text).jobs(lambda _: True)
        order = [
            (job.cell.precision.label, {task.item.repeat for task in job.tasks}) for job in jobs
        ]
        round_of = [("fp32", 0), ("nf4", 0), ("bf16", 0), ("fp32", 1), ("nf4", 1), ("bf16", 1)]
        round_of += [("fp32", 2), ("nf4", 2), ("bf16", 2)]
        assert order == [(label, {repeat}) for label, repeat in round_of]
        assert [job.reference for job in jobs] == [label == "fp32" for label, _ in round_of]

    def test_the_first_round_takes_what_has_no_repeats(self, base: Path) -> None:
        jobs = plan(base).jobs(lambda _: True)
        taken = [[task.item.measurement for task in job.tasks] for job in jobs]
        assert taken == [["footprint", "latency", "quality"]] * 2 + [["latency"]] * 4

    def test_every_model_has_its_reference_first(self, base: Path) -> None:
        make_tiny_model(base / "gpt", "gpt2")
        text = SUITE.replace("[./model]", "[./model, ./gpt]").replace("[fp32, nf4]", "[nf4, fp32]")
        cells = plan(base, text).cells
        assert [cell.cell.slug for cell in cells] == [
            "model--fp32", "model--nf4", "gpt--fp32", "gpt--nf4",
        ]  # fmt: skip

    def test_only_what_is_wanted_is_in_the_jobs(self, base: Path) -> None:
        made = plan(base)
        wanted = made.cells[1].tasks[2].key
        (job,) = made.jobs(lambda task: task.key == wanted)
        assert job.cell == made.cells[1].cell
        assert [task.key for task in job.tasks] == [wanted]
        assert made.jobs(lambda _: False) == []

    def test_only_some_cells(self, base: Path) -> None:
        assert [cell.cell.slug for cell in plan(base, only=["nf*"]).cells] == ["model--nf4"]
        with pytest.raises(UsageError, match=r"'nf5'.*nf4"):
            plan(base, only=["nf5"])


class TestPrediction:
    def test_bytes_of_fp32_are_four_an_element_of_the_checkpoint(self, base: Path) -> None:
        contents = (base / "model" / "model.safetensors").read_bytes()
        header = json.loads(contents[8 : 8 + int.from_bytes(contents[:8], "little")])
        header.pop("__metadata__", None)
        elements = {name: math.prod(tensor["shape"]) for name, tensor in header.items()}
        linear = sum(n for name, n in elements.items() if "_proj" in name)
        fp32, nf4 = (cell.predicted for cell in plan(base).cells)
        assert fp32 is not None
        assert nf4 is not None
        assert fp32.linear == 4 * linear
        assert fp32.total - fp32.buffers == 4 * sum(elements.values())
        assert nf4.linear == linear // 2

    def test_a_cell_that_cannot_run_here_is_skipped_with_its_reason(
        self, base: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        versions = {**detect_environment("cpu").versions, "bitsandbytes": None}
        in_environment(monkeypatch, versions=versions)
        made = plan(base)
        ((job, reason),) = made.skipped()
        assert job.cell.precision.label == "nf4"
        assert "bitsandbytes" in reason
        assert "pip install" in reason
        assert len(job.tasks) == len(made.cells[1].tasks)
        assert {job.cell.precision.label for job in made.jobs(lambda _: True)} == {"fp32"}


class TestProblems:
    def test_everything_is_told_at_once_with_its_line(self, base: Path) -> None:
        text = """\
models:
  - ./model
  - ./absent
precisions: [fp32]
measure:
  latency:
    prompt_tokens: 120
    new_tokens: 50
  quality:
    text: absent.txt
  memory: {prompt_tokens: 500}
"""
        with pytest.raises(SuiteError) as caught:
            plan(base, text)
        told = [(problem.line, problem.place) for problem in caught.value.problems]
        assert sorted(told) == [
            (3, "models[1]"),
            (7, "measure.latency.prompt_tokens"),
            (10, "measure.quality.text"),
            (11, "measure.memory.prompt_tokens"),
        ]
        lines = str(caught.value).splitlines()
        assert len(lines) == 4
        assert all(line.startswith("suite.yaml:") for line in lines)
        assert "absent: no such folder" in str(caught.value)
        assert "at most 128 together, the context of model" in str(caught.value)
        assert "absent.txt: no such file" in str(caught.value)

    def test_a_window_beyond_the_context(self, base: Path) -> None:
        with pytest.raises(SuiteError, match=r"suite.yaml:6: measure.quality.window: .*128"):
            plan(base, SUITE.replace("window: 64", "window: 129"))

    def test_a_problem_of_two_models_is_told_for_each(self, base: Path) -> None:
        make_tiny_model(base / "short", "gpt2", context=16)
        text = SUITE.replace("[./model]", "[./model, ./short]")
        with pytest.raises(SuiteError) as caught:
            plan(base, text)
        (problem,) = caught.value.problems
        assert "16, the context of short" in str(problem)

    @pytest.mark.parametrize("device", ["cuda:77", "tpu", "cuda:x"])
    def test_a_device_that_is_not_there(self, base: Path, device: str) -> None:
        suite = load_suite_text(SUITE, "suite.yaml", base)
        with pytest.raises(DeviceError, match=device):
            make_plan(suite, base, device=device)


class TestOnDisk:
    def test_what_is_there_is_found(self, base: Path) -> None:
        made = plan(base)
        task = made.tasks[0]
        assert made.records.record(task) is None
        record = made.jobs(lambda _: True)[0].record(task, "ok")
        write_record(Path(task.path), record)
        assert made.records.record(task) == record

    def test_a_damaged_record_counts_as_none_and_is_told(self, base: Path) -> None:
        made = plan(base)
        path = Path(made.tasks[0].path)
        path.parent.mkdir(parents=True)
        path.write_text("{", encoding="utf-8")
        assert made.records.record(made.tasks[0]) is None
        (damage,) = damaged_records(made)
        assert str(path) in str(damage)

    def test_a_newer_record_stops_the_work(self, base: Path) -> None:
        made = plan(base)
        path = Path(made.tasks[0].path)
        path.parent.mkdir(parents=True)
        path.write_text('{"schema_version": 2}', encoding="utf-8")
        for read in (lambda: made.records.record(made.tasks[0]), lambda: damaged_records(made)):
            with pytest.raises(NewerRecordError):
                read()

    def test_planning_writes_nothing(self, base: Path) -> None:
        before = {path for path in base.rglob("*") if "cache" not in path.parts}
        plan(base)
        assert {path for path in base.rglob("*") if "cache" not in path.parts} == before


def test_what_is_tried_again_by_itself() -> None:
    assert set(STATUSES) - RETRIED == {"ok", "skipped", "oom", "nan"}
