"""A suite in shards, each on a machine of its own, gives joined what one run gives."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING

from qbench.core.store import write_record
from qbench.plan.shards import Shard
from tests.inline_runs import failing, pretended, run_inline
from tests.workplace import place_of, write_rows

if TYPE_CHECKING:
    from pathlib import Path

    from qbench.core.record import Record
    from tests.workplace import Workplace

TUNED = """\
models: [{model}]
precisions: [fp32]
finetune:
  data:
    dataset: rows.jsonl
    recipe: {{prompt: "{{{{ name }}}} is", completion: " {{{{ kind }}}}"}}
    train: 8
    validation: 2
    test: 4
  methods:
    - {{method: lora, name: one, precision: fp32, rank: 2, batch: 4, steps: 1}}
    - {{method: lora, name: two, precision: fp32, rank: 4, batch: 4, steps: 1}}
  deploy: [attached, merged]
measure: {{quality: {{text: text.txt, window: 32}}}}
"""
TIMED = ("latency", "load_time")
"""Beginnings of the metrics that differ from run to run."""


def in_shards(place: Workplace, count: int, **options: object) -> list[str]:
    """Runs each shard with a cache and results of its own; the names of their folders."""
    folders = []
    for number in range(1, count + 1):
        own = place.with_environment(QBENCH_CACHE=str(place.folder / f"cache-{number}"))
        run_inline(own, shard=Shard(number, count), **options)
        folders.append(f"shard-{number}")
        (place.folder / "results").rename(place.folder / folders[-1])
    return folders


def figures(records: dict[str, Record]) -> dict[str, dict[str, float | None]]:
    """What should not differ, by record."""
    return {
        name: {
            one.name: one.value
            for one in record.metrics
            if not one.name.startswith(TIMED) and one.varies_by != "process"
        }
        for name, record in records.items()
    }


def test_joined_shards_are_what_one_run_gives(workplace: Workplace) -> None:
    workplace.write_suite("fp32", "bf16", "nf4")
    folders = in_shards(workplace, 2)
    finished = workplace.call_here("merge", *folders, "--suite", "suite.yaml")
    assert finished.code == 0, finished.output
    joined = figures(workplace.records())
    planned = workplace.call_here("plan", "suite.yaml", "--device", "cpu")
    assert "12 measurements, 12 on disk" in planned.output
    shutil.rmtree(workplace.folder / "results")
    whole = figures(run_inline(workplace).after)
    assert joined == whole
    assert any("kl.mean" in one for one in whole.values())


def test_a_training_and_what_it_serves_are_taken_by_one_shard(workplace: Workplace) -> None:
    write_rows(workplace.folder)
    workplace.write("suite.yaml", TUNED.format(model=workplace.model))
    folders = in_shards(workplace, 3)
    trained = [
        {path.parent.name for path in (workplace.folder / folder).rglob("training-*.json")}
        for folder in folders
    ]
    assert sorted(map(len, trained)) == [0, 1, 1]
    assert workplace.call_here("merge", *folders, "--suite", "suite.yaml").code == 0
    joined = figures(workplace.records())
    shutil.rmtree(workplace.folder / "results")
    assert figures(run_inline(workplace).after) == joined


def test_what_a_shard_left_out_is_told_by_cell(workplace: Workplace) -> None:
    workplace.write_suite("fp32", "bf16", "nf4")
    first, second, third = in_shards(workplace, 3, work=pretended())
    finished = workplace.call_here("merge", first, third, "--suite", "suite.yaml")
    assert finished.code == 1
    assert "8 of 12 measurements have a record (8 ok)" in finished.output
    assert "tiny--bf16: all of its footprint model, latency b1-p4-n2 × 2" in finished.output
    assert "qbench run suite.yaml" in finished.output
    found = json.loads(
        workplace.call_here(
            "merge", second, "--suite", "suite.yaml", "--format", "json", "--dry-run"
        ).output
    )
    assert [one["missing"] for one in found["suites"]] == [[]]
    assert workplace.call_here("merge", second).code == 0
    checked = workplace.call_here("merge", "results", "--suite", "suite.yaml")
    assert (checked.code, "12 of 12" in checked.output) == (0, True)


def test_a_record_of_something_else_is_no_record_of_what_is_asked(workplace: Workplace) -> None:
    workplace.write_suite("fp32", "bf16")
    run_inline(workplace, work=pretended())
    assert workplace.call_here("merge", "results", "--suite", "suite.yaml").code == 0
    (text,) = workplace.folder.glob("*.txt")
    written = text.read_text(encoding="utf-8")
    text.write_text(f"{written}# more\n", encoding="utf-8")
    found = workplace.call_here("merge", "results", "--suite", "suite.yaml")
    assert found.code == 1
    assert "6 of 8 measurements have a record" in found.output
    assert "2 of the missing were measured otherwise" in found.output
    assert "(measured otherwise)" in found.output

    text.write_text(written, encoding="utf-8")
    for record in workplace.records().values():
        if record.item.measurement == "footprint":
            older = record.model_copy(update={"protocol": "1"})
            write_record(place_of(workplace.folder / "results", older), older)
    found = workplace.call_here("merge", "results", "--suite", "suite.yaml", "--format", "json")
    assert found.code == 1
    (one,) = json.loads(found.output)["suites"]
    assert one["statuses"] == {"ok": 6}
    assert {(lack["measurement"], lack["otherwise"]) for lack in one["missing"]} == {
        ("footprint", True)
    }
    told = workplace.call_here("merge", "results", "--suite", "suite.yaml", "--format", "csv")
    assert told.output.count("\nmeasured otherwise,") == 2


def test_rehearsals_do_not_count_and_that_is_told(workplace: Workplace) -> None:
    workplace.write_suite("fp32")
    run_inline(workplace, work=pretended())
    for record in workplace.records().values():
        rehearsed = record.model_copy(update={"rehearsal": ("the model is a small one",)})
        folder = workplace.folder / "a" / "rehearsal"
        write_record(place_of(folder, rehearsed), rehearsed)
    told = workplace.call_here("merge", "a", "--to", "b", "--suite", "suite.yaml")
    assert told.code == 1
    assert "0 of 4 measurements have a record" in told.output
    assert "4 records of a rehearsal, which does not count" in told.output


def test_a_dry_run_counts_what_a_failure_is_replaced_by(workplace: Workplace) -> None:
    workplace.write_suite("fp32")
    run_inline(workplace, work=pretended())
    for record in workplace.records().values():
        late = {"status": "oom", "reason": "full", "started_at": "2100-01-01T00:00:00+00:00"}
        failed = record.model_copy(update=late)
        write_record(place_of(workplace.folder / "b", failed), failed)
    asked = ("merge", "results", "--to", "b", "--suite", "suite.yaml", "--format", "json")
    for more in (["--dry-run"], []):
        found = json.loads(workplace.call_here(*asked, *more).output)
        assert [one["statuses"] for one in found["suites"]] == [{"ok": 4}]


def test_settings_are_those_of_a_suite(workplace: Workplace) -> None:
    workplace.write_suite("fp32")
    run_inline(workplace, work=pretended())
    refused = workplace.call_here("merge", "results", "--to", "all", "--set", "name=other")
    assert refused.code == 2
    assert "--set: found 'name=other' without --suite; expected the suite's file" in refused.errors
    assert not (workplace.folder / "all").exists()


def test_what_is_missing_is_told_for_each_device(workplace: Workplace) -> None:
    workplace.write_suite("fp32", "bf16")
    run_inline(workplace, work=pretended(failing("oom")))
    _as_of_another_device(workplace, keep="bf16")
    finished = workplace.call_here("merge", "results", "--suite", "suite.yaml", "--format", "json")
    assert finished.code == 1
    found = {one["device"]: one for one in json.loads(finished.output)["suites"]}
    assert len(found) == 2
    other = found.pop("nvidia-h200")
    (own,) = found.values()
    assert (own["missing"], own["statuses"]) == ([], {"oom": 8})
    assert {one["cell"] for one in other["missing"]} == {"tiny--fp32"}
    assert other["statuses"] == {"oom": 4}


def test_a_suite_without_a_record_and_one_that_cannot_be_read(workplace: Workplace) -> None:
    workplace.write_suite("fp32")
    run_inline(workplace, work=pretended())
    (workplace.folder / "results").rename(workplace.folder / "a")
    wrong = workplace.call_here("merge", "a", "--suite", "nothing.yaml")
    assert wrong.code == 2
    assert not (workplace.folder / "results").exists()  # told before anything is joined
    workplace.write_suite("fp32", name="other.yaml")
    told = workplace.call_here("merge", "a", "--suite", "other.yaml")
    assert told.code == 1
    assert "other on any device" in told.output
    assert "0 of 4 measurements have a record" in told.output
    setting = ("--set", "name=suite", "--set", "measure.latency.repeats=3")
    told = workplace.call_here("merge", "a", "--suite", "other.yaml", *setting)
    assert "tiny--fp32: latency b1-p4-n2" in told.output
    assert "4 of 5 measurements have a record" in told.output


def _as_of_another_device(place: Workplace, keep: str) -> None:
    """Writes the records of one cell again, as if a GPU had made them."""
    results: Path = place.folder / "results"
    for record in place.records().values():
        if record.cell.label == keep:
            gpu = {"device": "NVIDIA H200", "device_kind": "nvidia-h200", "device_type": "cuda"}
            environment = record.environment.model_copy(update=gpu)
            changed = record.model_copy(update={"environment": environment})
            write_record(place_of(results, changed), changed)
