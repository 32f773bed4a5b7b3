"""`qbench export lm-eval`: lm-eval's own files, as its command and its readers have them."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from qbench.measures.tasks.index import BUNDLED_TASKS_FOLDER
from qbench.sources.bundled import bundled_models
from tests.measures.lm_eval_command import call_lm_eval
from tests.measures.own_tasks import write_own_tasks
from tests.record_factory import make_failure, make_metric, make_record
from tests.workplace import REPOSITORY, keep

if TYPE_CHECKING:
    from qbench.core.record import Record
    from tests.workplace import Workplace

PUBLISHED = str(REPOSITORY / "results" / "published" / "full")
SETTINGS = {"limit": 4, "few_shot": None, "batch": 4, "chat_template": False}
SEEDS = [0, 1234, 1234, 1234]


def task_record(
    precision: str = "nf4",
    task: str = "sums",
    scores: dict[str, list[float]] | None = None,
    measurement: str = "tasks",
    **more: Any,
) -> Record:
    """A record of a task of four items."""
    found = scores or {"acc": [1.0, 0.0, 1.0, 1.0]}
    params = {"task": {"name": task, "location": None, "fingerprint": "f"}, **SETTINGS}
    values: dict[str, Any] = {
        "slug": task,
        "params": params | {"seeds": SEEDS} | more.pop("params", {}),
        "series": {f"item_{name}": each for name, each in found.items()},
        "details": {
            "item_ids": [f"{at}:{at:012d}" for at in range(4)],
            "items": 4,
            "items_in_all": 9,
            "few_shot": 0,
            "task_version": "2",
            "samples_hash": "abc",
            "stderr": dict.fromkeys(found, 0.25),
            "data": {task: {"hub": True, "path": "a/sums", "name": None, "split": "test"}},
            "answers": {"acc": [3, 1, 0, 2]},
            **more.pop("details", {}),
        },
        "more_metrics": tuple(
            make_metric(f"{measurement}.{task}.{name}", sum(each) / len(each)).model_copy(
                update={"better": "higher"}
            )
            for name, each in found.items()
        ),
    }
    return make_record(precision, measurement, **(values | more))


def exported(place: Workplace, *arguments: str) -> dict[str, Any]:
    """Exports the place's records; the results files by their folder, in their order."""
    done = place.call_here("export", "lm-eval", "results", "--to", "out", *arguments)
    assert done.code == 0, done.errors
    return {
        path.parent.name: json.loads(path.read_text())
        for path in sorted((place.folder / "out").rglob("results_*.json"))
    }


def test_published_records_as_lm_eval_prints_them(workplace: Workplace) -> None:
    from lm_eval.utils import make_table

    done = workplace.call_here("export", "lm-eval", PUBLISHED, "--to", "out")
    assert done.code == 0, done.errors
    assert "wrote 36 files below out" in done.output
    (path,) = (workplace.folder / "out" / "tiny-mistral--nf4").glob("results_*.json")
    written = json.loads(path.read_text())
    shown = next(line for line in make_table(written).splitlines() if "stdlib-choice" in line)
    assert f"{written['results']['stdlib-choice']['acc,none']:.4f}".rstrip("0") in shown
    own = written["qbench"]
    assert (own["label"], own["reference"], own["suite"]) == ("nf4", False, "full")
    certainty = own["tasks"]["stdlib-choice"]["scores"]["acc,none"]
    score = written["results"]["stdlib-choice"]["acc,none"]
    assert certainty["low"] < score < certainty["high"]
    assert certainty["against"] == "fp32"
    assert certainty["change_low"] <= certainty["change"] <= certainty["change_high"]
    assert str(REPOSITORY) not in path.read_text()
    (samples,) = path.parent.glob("samples_stdlib-choice_*.jsonl")
    rows = [json.loads(line) for line in samples.read_text().splitlines()]
    assert sum(row["acc"] for row in rows) / len(rows) == score
    assert path.name.removeprefix("results_").removesuffix(".json") in samples.name


def test_twice_is_the_same_and_what_is_there_is_kept(workplace: Workplace) -> None:
    def export(*more: str) -> Any:
        chosen = (PUBLISHED, "--only", "nf4", "--to", "out")
        return workplace.call_here("export", "lm-eval", *chosen, *more)

    export()
    before = {path: path.read_bytes() for path in workplace.folder.rglob("*.json*")}
    refused = export()
    assert refused.code == 2
    assert "2 more of its files are there already" in refused.errors
    assert "--force" in refused.errors
    assert export("--force").code == 0
    assert {path: path.read_bytes() for path in workplace.folder.rglob("*.json*")} == before


def test_a_group_has_its_tasks_and_each_its_items(workplace: Workplace) -> None:
    from lm_eval.utils import make_table

    members = {"small": {"items": 3, "acc": 2 / 3}, "large": {"items": 1, "acc": 1.0}}
    ids = [
        f"{task}:{at}:{at:012d}"
        for task, at in (("small", 0), ("small", 1), ("small", 2), ("large", 0))
    ]
    group = task_record(
        task="all", details={"members": members, "item_ids": ids, "task_version": "3.0"}
    )
    keep(workplace.folder / "results", group)
    (written,) = exported(workplace).values()
    assert written["groups"] == {"all": written["results"]["all"]}
    assert written["group_subtasks"] == {"all": ["small", "large"]}
    assert written["results"]["small"]["acc,none"] == 2 / 3
    assert written["results"]["small"]["acc_stderr,none"] == "N/A"
    assert written["n-samples"]["large"] == {"original": None, "effective": 1}
    assert written["versions"] == {"all": "3.0"}
    assert "|all|" in make_table(written, "groups")
    lines = {
        path.name.split("_")[1]: path.read_text().splitlines()
        for path in (workplace.folder / "out").rglob("samples_*.jsonl")
    }
    assert {task: len(rows) for task, rows in lines.items()} == {"small": 3, "large": 1}


def test_the_data_of_a_task_are_named(workplace: Workplace) -> None:
    keep(workplace.folder / "results", task_record())
    (written,) = exported(workplace).values()
    assert written["configs"]["sums"]["dataset_path"] == "a/sums"
    assert written["qbench"]["tasks"]["sums"]["data"]["sums"]["split"] == "test"


def test_filters_scores_of_some_items_and_answers(workplace: Workplace) -> None:
    record = task_record(
        scores={
            "acc": [1.0, 0.0, 1.0, 1.0],
            "match@strict": [1.0, 0.0],
            "acc_norm": [0.0, 1.0, 1.0, 1.0],
        },
        details={"items_of": {"match@strict": [1, 3]}},
    )
    keep(workplace.folder / "results", record)
    (written,) = exported(workplace).values()
    assert set(written["results"]["sums"]) == {
        *("name", "alias", "sample_len", "acc,none", "acc_stderr,none", "match,strict"),
        *("match_stderr,strict", "acc_norm,none", "acc_norm_stderr,none"),
    }
    (path,) = (workplace.folder / "out").rglob("samples_*.jsonl")
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    strict = [row for row in rows if row["filter"] == "strict"]
    assert [(row["doc_id"], row["match"]) for row in strict] == [(1, 1.0), (3, 0.0)]
    plain = [row for row in rows if row["filter"] == "none"]
    assert [row["metrics"] for row in plain] == [["acc", "acc_norm"]] * 4
    assert [row["qbench"]["answers"] for row in plain] == [{"acc": at} for at in (3, 1, 0, 2)]
    assert [row["doc"] for row in plain] == [None] * 4


def test_tasks_of_other_settings_are_another_call(workplace: Workplace) -> None:
    for record in (
        task_record(),
        task_record(task="more"),
        task_record(slug="sums-2shot", params={"few_shot": 2}),
        make_failure("nf4", "tasks", "oom", "out of memory", slug="lost", suite="quickstart"),
    ):
        keep(workplace.folder / "results", record)
    done = workplace.call_here("export", "lm-eval", "results", "--to", "out")
    assert "left out: 1 task: oom (out of memory)" in done.errors
    runs = [json.loads(path.read_text()) for path in (workplace.folder / "out").rglob("results_*")]
    tasks = sorted(sorted(run["results"]) for run in runs)
    assert tasks == [["more", "sums"], ["sums"]]


def test_what_a_record_says_in_a_strange_form_is_null(workplace: Workplace) -> None:
    keep(workplace.folder / "results", task_record(params={"limit": "some", "seeds": "none"}))
    (written,) = exported(workplace).values()
    assert (written["config"]["limit"], written["config"]["random_seed"]) == (None, None)


def test_tasks_that_a_server_answered(workplace: Workplace) -> None:
    record = task_record(
        measurement="served_tasks", params={"endpoint": "chat", "chat_template": True}
    )
    keep(workplace.folder / "results", record)
    (written,) = exported(workplace).values()
    assert written["model_source"] == written["config"]["model"] == "local-chat-completions"
    assert written["results"]["sums"]["acc,none"] == 0.75
    assert (written["chat_template"], written["qbench"]["chat_template_used"]) == (None, True)


def test_a_score_without_a_value_keeps_its_reason(workplace: Workplace) -> None:
    metric = make_metric("tasks.sums.acc", None, reason="none of that length")
    keep(
        workplace.folder / "results",
        task_record(more_metrics=(metric,), series={}, details={"stderr": {}, "item_ids": None}),
    )
    (written,) = exported(workplace).values()
    assert written["results"]["sums"]["acc,none"] is None
    assert written["results"]["sums"]["acc_stderr,none"] == "N/A"
    told = written["qbench"]["tasks"]["sums"]["scores"]["acc,none"]
    assert (told["low"], told["reason"]) == (None, "none of that length")
    assert not list((workplace.folder / "out").rglob("samples_*"))


def test_names_that_lead_elsewhere_stay_in_the_folder(workplace: Workplace) -> None:
    keep(workplace.folder / "results", task_record(task="../../../etc/passwd", slug="wicked"))
    exported(workplace)
    out = (workplace.folder / "out").resolve()
    written = list(workplace.folder.rglob("samples_*"))
    assert written
    assert all(path.resolve().is_relative_to(out) for path in written)
    shutil.rmtree(out / "tiny-mistral--nf4")
    (workplace.folder / "elsewhere").mkdir()
    (out / "tiny-mistral--nf4").symlink_to(workplace.folder / "elsewhere")
    refused = workplace.call_here("export", "lm-eval", "results", "--to", "out", "--force")
    assert refused.code == 2
    assert "would lie outside that folder" in refused.errors
    assert not list((workplace.folder / "elsewhere").iterdir())


def test_what_cannot_be_exported_says_so(workplace: Workplace) -> None:
    def refused(*arguments: str) -> str:
        done = workplace.call_here("export", "lm-eval", *arguments)
        assert done.code == 2
        assert "Traceback" not in done.errors
        return done.errors

    keep(workplace.folder / "plain", make_record("nf4", metrics={"weights": 1.0}))
    assert "plain: found no scores of tasks" in refused("plain", "--to", "out")
    keep(workplace.folder / "failed", make_failure("nf4", "tasks", "oom", "no room", slug="sums"))
    failed = refused("failed", "--to", "out")
    assert "found no scores of tasks (left out: 1 task: oom (no room)); run them again" in failed
    (workplace.folder / "cut").mkdir()
    (workplace.folder / "cut" / "tasks-sums-0123.json").write_text("{")
    assert "cut short or damaged" in refused("cut", "--to", "out")
    keep(workplace.folder / "rehearsal", task_record(rehearsal=("one item",)))
    assert "rehearsal" in refused("rehearsal", "--to", "out")
    keep(workplace.folder / "results", task_record())
    workplace.write("file", "")
    assert "--to file: found a file" in refused("results", "--to", "file")
    assert "no-such" in refused("no-such", "--to", "out")
    assert "'int9'" in refused("results", "--to", "out", "--only", "int9")


@pytest.mark.slow
def test_the_files_are_those_of_the_lm_eval_command(workplace: Workplace) -> None:
    """The same model and tasks: the same table, keys, hashes and items."""
    from lm_eval.utils import handle_non_serializable, make_table

    own = workplace.folder / "tasks" / "own"
    own.mkdir(parents=True)
    write_own_tasks(own)
    tasks = ["stdlib-choice", "stdlib-completion", "small-sums", "arithmetic"]
    workplace.write(
        "suite.yaml",
        "models: [bundled:tiny-mistral]\nprecisions: [fp32]\nmeasure:\n"
        f"  tasks: {{names: [{', '.join(tasks)}], include: tasks/own, limit: 24}}\n",
    )
    done = workplace.call("run", "suite.yaml", "--device", "cpu")
    assert done.code == 0, done.errors
    (mine,) = exported(workplace).values()

    shutil.copytree(BUNDLED_TASKS_FOLDER, workplace.folder / "tasks" / "bundled")
    model = bundled_models()["tiny-mistral"]
    shared = ["run", "--model", "hf", "--model_args", f"pretrained={model},dtype=float32"]
    shared += ["--include_path", str(workplace.folder / "tasks"), "--limit", "24"]
    shared += ["--batch_size", "4", "--device", "cpu", "--log_samples"]
    # A task may stand in one call alone, or in a group.
    calls = {"plain": ",".join(tasks[:3]), "grouped": tasks[3]}
    call_lm_eval(
        [[*shared, "--tasks", named, "--output_path", out] for out, named in calls.items()],
        workplace.folder,
    )
    for out, column in (("plain", "results"), ("grouped", "groups")):
        (path,) = (workplace.folder / out).rglob("results_*.json")
        theirs = json.loads(path.read_text())
        assert set(mine) - {"qbench"} >= set(theirs)
        kept = {**mine, column: {name: mine[column][name] for name in theirs[column]}}
        if column == "results":
            kept["group_subtasks"] = {}
        assert make_table(kept, column) == make_table(theirs, column)
        for name, row in theirs[column].items():
            assert mine[column][name] == row
            assert (
                mine["higher_is_better"][name].items() <= theirs["higher_is_better"][name].items()
            )
            for key in ("versions", "n-shot"):
                assert mine[key][name] == theirs[key][name]
        if column == "groups":
            continue
        assert set(mine) - set(theirs) == {"qbench", "groups"}
        assert set(mine["config"]) == set(theirs["config"])
        assert set(mine["config"]["model_args"]) <= {*theirs["config"]["model_args"], "revision"}
        for name in ("n-samples", "task_hashes"):
            assert {task: mine[name][task] for task in theirs[name]} == theirs[name]
        same = (
            "model",
            "batch_size",
            "device",
            "limit",
            "gen_kwargs",
            "random_seed",
            "fewshot_seed",
        )
        assert {name: mine["config"][name] for name in same} == {
            name: theirs["config"][name] for name in same
        }
        json.dumps(mine, default=handle_non_serializable)
        for name in tasks[:3]:
            (lines,) = path.parent.glob(f"samples_{name}_*.jsonl")
            (held,) = (workplace.folder / "out").rglob(f"samples_{name}_*.jsonl")
            rows = sorted(
                map(json.loads, lines.read_text().splitlines()), key=lambda row: row["doc_id"]
            )
            for row, other in zip(
                map(json.loads, held.read_text().splitlines()), rows, strict=True
            ):
                assert set(row) - {"qbench"} == set(other)
                assert other["doc_hash"].startswith(row["qbench"]["doc_hash_begins"])
                assert {name: row[name] for name in row["metrics"]} == {
                    name: other[name] for name in other["metrics"]
                }


@pytest.mark.slow
def test_lm_evals_own_logger_takes_them(workplace: Workplace) -> None:
    """That of W&B, offline: the scores are what it logs."""
    from lm_eval.loggers import WandbLogger

    workplace.call_here("export", "lm-eval", PUBLISHED, "--only", "nf4", "--to", "out")
    (path,) = (workplace.folder / "out").rglob("results_*.json")
    results = json.loads(path.read_text())
    with workplace.entered():
        logger = WandbLogger({"mode": "offline", "dir": str(workplace.folder)})
        logger.post_init(results)
        logger.log_eval_result()
        logged = dict(logger.run.summary)
        logger.run.finish()
    assert logged["stdlib-choice/acc"] == results["results"]["stdlib-choice"]["acc,none"]
