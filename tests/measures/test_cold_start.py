"""Cold starts: phases that add up to the whole, from where they say; what fails says so."""

from __future__ import annotations

import dataclasses
import math
import mmap
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from qbench.compare.comparable import find_gap
from qbench.compare.selection import select
from qbench.compare.speed import why_not_served
from qbench.core.checkpoint import Checkpoint
from qbench.core.errors import NonFiniteError, WrongKernelError
from qbench.core.marks import Marks, read_marks
from qbench.core.page_cache import file_system_of
from qbench.measures import measures
from qbench.measures.cold_start.cold_start import modules_of
from qbench.measures.cold_start.definitions import METRICS, PHASES, TOTAL
from qbench.measures.cold_start.files import Prepared, model_files
from qbench.measures.loaded import UnbuiltCell, make_metric
from qbench.plan.items import why_not_taken
from qbench.precisions.floating import Floating
from qbench.precisions.verification import Verification
from qbench.report.cold_start import cold_start_charts, cold_start_tables
from qbench.report.overview import overview_page
from qbench.report.report_page import report_page
from qbench.report.terminal import as_text
from qbench.running.alone.first_token import start
from qbench.sources.models.model_files import read_files, stored_weights
from tests.inline_runs import run_inline
from tests.precisions.tiny_cells import make_job, resolve
from tests.record_factory import make_environment, make_record
from tests.report.charts.specs import charts_of
from tests.tiny_models import make_tiny_model
from tests.workplace import Workplace

if TYPE_CHECKING:
    from qbench.core.record import Record
    from qbench.core.spec import ResolvedModel
    from qbench.plan.job import Job

SUITE = """\
models: [{model}]
precisions: [fp32]
measure:
  cold_start: {{prompt_tokens: 8, repeats: 1}}
"""
ON_CPU = {f"cold_start.{phase}" for phase in PHASES if phase != "cuda"}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    folder = tmp_path_factory.mktemp("starts")
    model = make_tiny_model(folder / "model", "llama", hidden=256, layers=4)
    place = Workplace(folder, model)
    place.write("suite.yaml", SUITE.format(model=model))
    return place


@pytest.fixture(scope="module")
def started(place: Workplace) -> dict[str, Record]:
    """A start of each kind, in true processes, by where the files were."""
    ran = run_inline(place)
    records = {one.item.params["read_from"]: one for one in ran.after.values()}
    assert {one.status for one in records.values()} == {"ok"}, ran.output
    return records


def why(record: Record) -> str:
    """Why there is no time of it."""
    found = record.metric(TOTAL)
    return str(None if found is None else found.reason)


@pytest.mark.slow
@pytest.mark.parametrize("read_from", ["disk", "page-cache"])
def test_the_phases_add_up_to_the_whole(started: dict[str, Record], read_from: str) -> None:
    record = started[read_from]
    total = record.value(TOTAL)
    if total is None:
        pytest.skip(why(record))
    phases = {name: record.value(name) for name in ON_CPU}
    assert None not in phases.values()
    assert all(value > 0 for value in phases.values() if value is not None)
    assert math.isclose(total, sum(filter(None, phases.values())), rel_tol=1e-12)
    assert (record.value("cold_start.weights.cpu") or 0) > 0
    # The measurement lasts longer: it looks at the files before, and verifies the layers after.
    assert total < (record.duration_s or 0)
    assert record.value("cold_start.cuda") is None
    assert {metric.name for metric in record.metrics} == {one.name for one in METRICS}
    assert record.details["loaded"]["faults"] == []
    assert record.details["how_weights_came"].startswith("read, and converted where")


def first_token(folder: Path, prompt_tokens: int) -> int:
    """The one that the model gives by itself."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    drawn = (1, prompt_tokens + 1)
    ids = torch.randint(model.config.vocab_size, drawn, generator=torch.Generator().manual_seed(0))
    return int(model(ids[:, :prompt_tokens]).logits[0, -1].argmax())


@pytest.mark.slow
def test_both_give_the_token_that_the_model_gives(
    started: dict[str, Record], place: Workplace
) -> None:
    tokens = {record.details["token"] for record in started.values()}
    assert tokens == {first_token(place.model, 8)}


@pytest.mark.slow
def test_from_disk_the_weights_are_read_and_from_the_page_cache_nothing(
    started: dict[str, Record], place: Workplace
) -> None:
    cold, warm = started["disk"], started["page-cache"]
    size = sum(path.stat().st_size for path in place.model.glob("*.safetensors"))
    assert {one.value("cold_start.weight_bytes") for one in started.values()} == {size}
    assert warm.value("cold_start.cached_share") == 1
    if cold.value(TOTAL) is None:
        pytest.skip(f"{file_system_of(place.model)}: {why(cold)}")
    assert cold.value("cold_start.cached_share") == 0
    read, in_memory = (one.value("cold_start.read_bytes") for one in (cold, warm))
    if read is None or in_memory is None:
        pytest.skip("this system does not tell what a process reads from storage")
    assert read >= size
    assert in_memory < size / 20


@pytest.mark.slow
def test_the_report_has_both_below_one_another_and_a_picture_of_each(
    started: dict[str, Record],
) -> None:
    page = report_page(list(started.values()))
    (records,) = select(list(started.values())).tables
    (table,) = cold_start_tables(records)
    assert table.title == "Cold start, 8 prompt tokens"
    assert [row.figures[0].word for row in table.rows] == ["disk", "page cache"]
    shown = {column.key: at for at, column in enumerate(table.columns)}
    for row, record in zip(table.rows, started.values(), strict=True):
        assert row.figures[shown[TOTAL]].value == record.value(TOTAL)
    shown_in_terminal = as_text(overview_page(list(started.values())))
    assert re.search(r"fp32 \(ref\) +disk .*\n.*fp32 \(ref\) +page cache ", shown_in_terminal)
    assert "CUDA" not in shown_in_terminal
    drawn = [chart.title for chart in charts_of(page.parts)]
    for chart in cold_start_charts(records):
        assert chart.title in drawn
        values = chart.spec["data"]["values"]
        assert [one["kind"] for one in values] == [
            title for phase, title in PHASES.items() if phase != "cuda"
        ]


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> ResolvedModel:
    return resolve(make_tiny_model(tmp_path_factory.mktemp("models") / "tiny", "llama"))


def start_here(job: Job, folder: Path) -> tuple[list[str], dict[str, Any]]:
    """What the process of a start does, in this one: the phases that it entered, what it told."""
    place = str(job.model.folder)
    request = {"job": job.model_dump(mode="json"), "base": place, "loaded_from": place}
    marks = folder / "marks"
    told = start({**request, "modules": [], "prompt_tokens": 4, "seed": 0}, Marks(str(marks)))
    return [mark.phase for mark in read_marks(marks).marks], told


def test_the_layers_are_verified_after_the_token(tiny: ResolvedModel, tmp_path: Path) -> None:
    phases, told = start_here(make_job(tiny, "nf4"), tmp_path)
    assert phases == ["imports", "qbench", *list(PHASES)[-4:], "verify"]
    assert told["loaded"]["quantized_modules"] == 14
    assert told["has_tokenizer"]


def test_the_token_is_the_one_that_the_model_gives(tiny: ResolvedModel, tmp_path: Path) -> None:
    told = start_here(make_job(tiny, "fp32"), tmp_path)[1]
    assert told["token"] == first_token(Path(str(tiny.folder)), 4)


def test_a_wrong_kernel_fails_the_start(
    tiny: ResolvedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = Verification(details={}, faults=("layers.0.q_proj (8×8): off by 0.4",))
    monkeypatch.setattr(Floating, "verify", lambda *_: found)
    with pytest.raises(WrongKernelError, match=r"layers\.0\.q_proj"):
        start_here(make_job(tiny, "fp32"), tmp_path)
    assert read_marks(tmp_path / "marks").phase == "verify"


def test_logits_that_are_no_numbers_fail_the_start(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file, save_file

    folder = make_tiny_model(tmp_path / "nan", "llama")
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"] = torch.full_like(tensors["model.norm.weight"], math.nan)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(NonFiniteError, match="first token is nan"):
        start_here(make_job(resolve(folder), "fp32"), tmp_path)
    assert read_marks(tmp_path / "marks").phase == "forward"


def test_a_model_without_a_tokenizer_starts_too(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "plain", "llama", tokenizer=False)
    assert not start_here(make_job(resolve(folder), "fp32"), tmp_path)[1]["has_tokenizer"]


def test_files_are_those_that_loading_reads(tiny: ResolvedModel, tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "tiny", "llama", max_shard_size="50KB")
    (folder / "pytorch_model.bin").write_bytes(bytes(100))
    (folder / "consolidated.safetensors").write_bytes(bytes(100))
    found = {path.name for path in read_files(folder)}
    assert "config.json" in found
    assert "tokenizer.json" in found
    shards = {path.name for path in folder.glob("model-*.safetensors")}
    assert len(shards) > 1
    assert {path.name for path in stored_weights(folder)} == shards
    assert found.isdisjoint({"pytorch_model.bin", "consolidated.safetensors"})
    files = model_files([folder], [folder])
    assert files.weight_bytes == sum((folder / name).stat().st_size for name in shards)
    assert {path.name for path in files.every} == found


@pytest.mark.parametrize(
    ("read_from", "share", "read", "words"),
    [
        ("disk", 0.0, 0, None),
        ("disk", 0.4, 0, None),
        ("disk", 0.6, 10**9, "60% of the model's files .* stay in the page cache"),
        ("disk", 1.0, None, "the file system does not do that, or another process"),
        ("disk", None, 600, None),
        ("disk", None, 400, "it is not known whether"),
        ("disk", None, None, "it is not known whether"),
        ("page-cache", 1.0, 10**9, None),
        ("page-cache", 0.6, None, None),
        ("page-cache", 0.4, None, "only 40% of the model's files .* too little memory"),
        ("page-cache", None, None, None),
    ],
)
def test_a_start_that_is_not_what_it_is_called_gives_no_times(
    read_from: Any, share: float | None, read: int | None, words: str | None, tmp_path: Path
) -> None:
    files = dataclasses.replace(model_files([tmp_path], []), every=(tmp_path,), weight_bytes=1000)
    prepared = Prepared(read_from, share, files)
    reason = prepared.why_not or prepared.why_unknown(read)
    assert (reason is None) if words is None else re.search(words, reason or "")
    warned = share is not None and (share if read_from == "disk" else 1 - share) > 0.02
    assert bool(prepared.warnings) == warned


def test_files_that_another_process_holds_give_no_start_from_disk(tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / "held", "llama")
    files = model_files([folder], [folder])
    if files.prepared("disk").share != 0:
        pytest.skip("this file system keeps files in memory")
    with (
        (folder / "model.safetensors").open("rb") as file,
        mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped,
    ):
        assert len(bytes(mapped)) == len(mapped)  # every page of it is touched
        assert "another process" in (files.prepared("disk").why_not or "")
    assert files.prepared("disk").why_not is None


def test_items_and_options(tiny: ResolvedModel, tmp_path: Path) -> None:
    cold_start = measures()["cold_start"]
    items = cold_start.items(cold_start.options(), tiny, tmp_path)
    assert [(item.slug, item.repeat) for item in items] == [
        (slug, repeat) for slug in ("disk-p128", "page-cache-p128") for repeat in range(3)
    ]
    one = cold_start.options.model_validate({"read_from": "page-cache", "repeats": 2})
    assert {item.params["read_from"] for item in cold_start.items(one, tiny, tmp_path)} == {
        "page-cache"
    }
    for wrong in ([], ["tape"], "tape"):
        with pytest.raises(ValueError, match="read_from"):
            cold_start.options.model_validate({"read_from": wrong})
    problem = cold_start.misfit(cold_start.options(), tiny)
    assert problem is not None
    assert problem.place == "prompt_tokens"


def test_random_weights_are_made_and_not_read(tiny: ResolvedModel, tmp_path: Path) -> None:
    cold_start = measures()["cold_start"]
    item = cold_start.items(cold_start.options(), tiny, tmp_path)[0]
    cell = make_job(tiny, "fp32").cell
    assert why_not_taken(cell, item) is None
    random = cell.model_copy(update={"model": cell.model.model_copy(update={"kind": "random"})})
    assert "they are made, not read" in (why_not_taken(random, item) or "")


def test_packages_are_imported_in_a_phase_of_their_own_whoever_needs_them(
    tiny: ResolvedModel,
) -> None:
    def of(model: ResolvedModel, precision: str) -> list[str]:
        job = make_job(model, precision)
        checkpoint = Checkpoint(Path(str(model.folder)), "cpu")
        return modules_of(UnbuiltCell(job.cell, model, checkpoint, "cpu", {}))

    assert of(tiny, "fp32") == []
    assert "bitsandbytes" in of(tiny, "nf4")
    assert "optimum.quanto" in of(tiny, "quanto-int8")
    quantized = tiny.model_copy(update={"quantization": "bitsandbytes"})
    assert "bitsandbytes" in of(quantized, "stored")


def test_two_devices_do_not_compare_and_only_what_a_format_decides_is_marked() -> None:
    names = (TOTAL, "cold_start.imports", "cold_start.weight_bytes")
    metrics = tuple(make_metric(METRICS, name, 9.0) for name in names)
    here = make_record("nf4", "cold_start", slug="disk-p8", more_metrics=metrics)
    other = make_environment(device="another")
    there = here.model_copy(update={"environment": other})
    for name in names:
        assert find_gap([here], [here], name) is None
        gap = find_gap([here], [there], name)
        assert gap is not None
        assert "one device model only" in gap.reason
    loaded = {"loaded": {"unlike_served": "emulated"}}
    emulated = here.model_copy(update={"details": loaded})
    marked = {name: why_not_served([emulated], name) for name in names}
    assert marked == {
        TOTAL: "emulated",
        "cold_start.imports": None,
        "cold_start.weight_bytes": None,
    }
