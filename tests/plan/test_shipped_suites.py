"""Every suite in the repository, and the starter of `qbench init`, is valid as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from qbench.cli.starter import STARTER
from qbench.core.store import read_folder
from qbench.plan.plan import make_plan
from qbench.plan.suite.schema import suite_schema
from qbench.plan.suite.suite import Suite, load_suite, load_suite_text
from qbench.plan.suite.yaml_lines import read_yaml
from qbench.predict.bf16 import bf16_warning
from qbench.predict.devices import parse_memory
from qbench.predict.training import trained_bytes
from qbench.sources.models.known_configs import HUB_IDS, QUANTIZED
from qbench.sources.models.resolve import resolve_model
from tests.pages import whole_report
from tests.workplace import REPOSITORY

FOLDER = REPOSITORY / "suites"
SUITES = sorted(FOLDER.glob("**/*.yaml"))
PUBLISHED = REPOSITORY / "results" / "published"


def errors_by_schema(text: str) -> list[str]:
    top, problems = read_yaml(text, "suite.yaml")
    assert top is not None
    assert problems == []
    errors = Draft202012Validator(suite_schema()).iter_errors(top.plain())
    return [error.message for error in errors]


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.name)
def test_shipped_suite(path: Path) -> None:
    suite = load_suite(path)
    assert suite.name == path.stem
    assert suite.cells()
    text = path.read_text(encoding="utf-8")
    assert errors_by_schema(text) == []
    schema = re.search(r"yaml-language-server: \$schema=(\S+)", text)
    assert schema is not None
    assert (path.parent / schema[1]).is_file()


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.name)
def test_shipped_suite_is_planned_without_a_network(
    path: Path, shared_cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("QBENCH_CACHE", str(shared_cache))
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    suite = load_suite(path)
    plan = make_plan(suite, tmp_path, device="cpu")
    assert {cell.cell.slug for cell in plan.cells} == {cell.slug for cell in suite.cells()}
    assert all(cell.tasks for cell in plan.cells)
    untuned = [cell for cell in plan.cells if cell.cell.tuning is None]
    # What a published checkpoint holds is in its files, which the hub has.
    unknown = [cell for cell in untuned if cell.predicted is None]
    assert {cell.cell.precision.name for cell in unknown} <= {"stored"}
    assert all("hub cannot be asked" in (cell.model.shape_unknown or "") for cell in unknown)


class TestMistral:
    """The demonstration's setting, and arithmetic that is published."""

    @pytest.fixture(scope="class")
    def suite(self) -> Suite:
        return load_suite(FOLDER / "mistral.yaml")

    def test_is_pinned_and_held_in_five_precisions(self, suite: Suite) -> None:
        (model,) = suite.models
        assert model.location == "mistralai/Mistral-7B-Instruct-v0.2"
        assert re.fullmatch("[0-9a-f]{40}", model.revision or "")
        assert [one.name for one in suite.precisions] == ["fp32", "bf16", "int8", "nf4", "nf4-dq"]

    def test_tunes_with_the_setting_of_the_demonstration(self, suite: Suite) -> None:
        assert suite.finetune is not None
        assert suite.finetune.data.dataset == "vicgalle/alpaca-gpt4"
        assert suite.finetune.data.recipe == "reverse-instruction"
        tuned: dict[tuple[str, str], list[str]] = {}
        for one in suite.finetune.tunings:
            assert one.options["optimizer"] == "paged_adamw_32bit"
            assert one.options["max_tokens"] == 2048
            if one.method == "full":
                continue
            tuned.setdefault((one.options["target"], one.method), []).append(one.precision.name)
            assert one.options["rank"] == 64
            assert one.options["alpha"] == 128
            assert one.options["dropout"] == 0.1
            assert one.options["compute"] == "bf16"
        every = ["bf16", "int8", "nf4", "nf4-dq"]
        assert tuned == {("default", "lora"): every, ("all-linear", "lora"): every}

    def test_trains_as_many_weights_as_published(self, suite: Suite) -> None:
        model = resolve_model(load_suite(FOLDER / "mistral-shape.yaml").models[0])
        assert model.shape is not None
        assert suite.finetune is not None
        counts = {}
        for one in suite.finetune.tunings:
            if one.method == "lora":
                bytes_of_fp32 = trained_bytes(model.shape, model.architecture, one)
                assert bytes_of_fp32 is not None
                counts[one.options["target"]] = bytes_of_fp32 // 4
        # r · (in + out) of each target, over 32 layers: q 4096 → 4096, v 4096 → 1024; with k as v,
        # o as q, gate and up 4096 → 14336, down 14336 → 4096.
        query_value = 64 * 32 * (4096 + 4096 + 4096 + 1024)
        rest = 64 * 32 * (4096 + 1024 + 4096 + 4096 + 3 * (4096 + 14336))
        assert (query_value, query_value + rest) == (27_262_976, 167_772_160)
        assert counts == {"default": query_value, "all-linear": query_value + rest}

    def test_full_tuning_is_refused_by_name_where_it_does_not_fit(self, tmp_path: Path) -> None:
        suite = load_suite(FOLDER / "mistral-shape.yaml")
        plan = make_plan(suite, tmp_path, device="cpu", gpu=parse_memory("24GB"))
        skips = {cell.cell.label: cell.skip for cell in plan.cells if cell.skip}
        assert "does not fit: a training step needs" in skips["full-bf16"]
        assert "24GB has 22.4 GiB (24,000,000,000 bytes)" in skips["full-bf16"]
        assert skips["full-bf16--merged"].startswith("its training full-bf16 does not fit")
        assert not {"bf16", "nf4", "qlora-qv-nf4-dq-max_tokens=2048"} & skips.keys()
        large = make_plan(suite, tmp_path, device="cpu", gpu=parse_memory("h200"))
        assert [cell.cell.label for cell in large.cells if cell.skip] == []


def test_the_suite_for_a_free_gpu_fits_it_and_computes_in_what_it_multiplies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    suite = load_suite(FOLDER / "colab.yaml")
    plan = make_plan(suite, tmp_path, device="cpu", gpu=parse_memory("t4"))
    assert len(plan.open_tasks) == len(plan.tasks) > 0
    assert all(cell.predicted is not None for cell in plan.cells if cell.cell.training is None)
    assert [bf16_warning(cell.cell, plan.environment) for cell in plan.cells] == [None] * 5
    demonstration = load_suite(FOLDER / "mistral.yaml")
    assert suite.models == demonstration.models
    assert suite.finetune is not None
    [tuning] = suite.finetune.tunings
    assert (tuning.method, tuning.options["rank"]) == ("lora", 64)
    assert suite.finetune.data.recipe == "reverse-instruction"


class TestDeploy7B:
    """What a person would consider for a 7B on 24 GB."""

    @pytest.fixture(scope="class")
    def suite(self) -> Suite:
        return load_suite(FOLDER / "deploy-7b.yaml")

    def test_checkpoints_are_pinned_and_held_against_the_original(self, suite: Suite) -> None:
        original, *published = suite.models
        assert all(re.fullmatch("[0-9a-f]{40}", one.revision or "") for one in suite.models)
        assert {one.original for one in published} == {original.name}
        kinds = {one.location: QUANTIZED[one.location] for one in published}
        assert {method for _, method in kinds.values()} == {"awq", "gptq", "compressed-tensors"}
        assert {name for name, _ in kinds.values()} == {HUB_IDS[original.location]}
        held = {cell.precision.name for cell in suite.cells() if cell.model.original}
        assert held == {"stored"}

    def test_all_but_the_published_are_planned_on_24_gb(
        self, suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
        plan = make_plan(suite, tmp_path, device="cpu", gpu=parse_memory("24GB"))
        sizes = {
            cell.cell.label: cell.predicted.total
            for cell in plan.cells
            if cell.predicted is not None and cell.cell.model.original is None
        }
        # Bytes of the .gguf files that are published of it, less their tables of tokens.
        published = {"gguf-q8_0": 8.10e9, "gguf-q6_k": 6.25e9, "gguf-q4_k_m": 4.68e9}
        for label, size in published.items():
            assert sizes[label] == pytest.approx(size, rel=0.003)
        assert all(size < 24e9 for size in sizes.values())
        assert suite.recommend is not None
        assert suite.recommend.gpu == "24GB"


@pytest.mark.parametrize(
    ("name", "deployments"),
    [("quickstart", ("", "--attached")), ("full", ("", "--merged", "--attached"))],
)
def test_the_quickstart_is_what_the_readme_promises(
    name: str, deployments: tuple[str, ...]
) -> None:
    suite = load_suite(FOLDER / f"{name}.yaml")
    cells = suite.cells()
    names = ["fp32", "bf16", "fp16", "int8", "fp4", "nf4", "nf4-dq"]
    tuned = [
        "full-bf16",
        "full-bf16--merged",
        *(f"{arm}{deployed}" for arm in ("lora-bf16", "qlora-nf4") for deployed in deployments),
    ]
    assert [cell.slug for cell in cells] == [f"tiny-mistral--{name}" for name in (*names, *tuned)]
    assert {cell.model.kind for cell in cells} == {"bundled"}
    assert suite.reference == "fp32"
    assert list(suite.measure)[:5] == [
        "footprint",
        "memory",
        "latency",
        "weight_error",
        "quality",
    ]


def test_the_starter_is_valid() -> None:
    suite = load_suite_text(STARTER, "my-suite.yaml", Path(__file__).parent)
    assert suite.name == "my-suite"
    assert {model.kind for model in suite.models} == {"bundled"}
    assert errors_by_schema(STARTER) == []


def test_what_the_starter_shows_in_comments_is_valid_too() -> None:
    """Takes the `#` off the settings in comments, and every one of them must be right."""
    setting = re.compile(r"^( *)# ((?:- |name: |include: |exclude: |timeout_s: ).*)$", re.MULTILINE)
    text, count = setting.subn(r"\1\2", STARTER)
    assert count == 10
    suite = load_suite_text(text, "file.yaml", Path(__file__).parent)
    assert suite.name == "my-suite"
    labels = [precision.label for precision in suite.precisions]
    assert {"int8-threshold=5", "nf4-compute_dtype=fp32", "nf4-exact"} < set(labels)


@pytest.mark.parametrize(
    "folder", sorted(PUBLISHED.glob("*/*")), ids=lambda path: f"{path.parent.name}-{path.name}"
)
def test_the_published_report_is_made_from_the_published_records(folder: Path) -> None:
    records, unreadable = read_folder(folder)
    assert not unreadable
    assert {record.environment.device_kind for record in records} == {folder.name}
    report = REPOSITORY / "reports" / "published" / f"{folder.parent.name}-{folder.name}.md"
    assert report.read_text(encoding="utf-8") == whole_report(records)


@pytest.mark.parametrize(
    "name", ["quickstart", "full", "finetune", "integers", "formats", "claims"]
)
def test_the_published_records_are_all_of_the_suite(name: str) -> None:
    records, _ = read_folder(PUBLISHED / name)
    suite = load_suite(FOLDER / f"{name}.yaml")
    assert {record.cell.slug for record in records} == {cell.slug for cell in suite.cells()}
    tuned = {"training", "completion", "adapters"} if suite.finetune else set()
    assert {record.item.measurement for record in records} == set(suite.measure) | tuned
    assert {record.status for record in records} == {"ok"}
