"""The plug-in of `examples/plugin`, installed as anyone installs it: the precision e5m2."""

from __future__ import annotations

import ast
import importlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

import qbench.plugin
from tests.workplace import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

    from tests.workplace import Workplace

EXAMPLE = REPOSITORY / "examples" / "plugin"
OUTSIDE = [EXAMPLE / "qbench_e5m2.py", *sorted((REPOSITORY / "tests" / "plugins").rglob("*.py"))]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the package is installed into."""
    folder = tmp_path_factory.mktemp("installed")
    source = shutil.copytree(EXAMPLE, folder / "source")  # building leaves files beside it
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    there = ["--no-deps", "--no-index", "--no-build-isolation", "--target", str(folder / "site")]
    subprocess.run([*install, *there, str(source)], check=True, capture_output=True)
    return folder / "site"


@pytest.fixture
def place(workplace: Workplace, site: Path) -> Workplace:
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH")]))
    return workplace.with_environment(PYTHONPATH=path)


@pytest.fixture
def e5m2(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """Its module."""
    monkeypatch.syspath_prepend(EXAMPLE)
    yield importlib.import_module("qbench_e5m2")
    sys.modules.pop("qbench_e5m2")


@pytest.mark.parametrize("path", OUTSIDE, ids=lambda path: path.stem)
def test_a_plugin_imports_nothing_of_qbench_but_what_is_for_it(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    froms = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    modules = {str(node.module) for node in froms}
    modules |= {
        one.name for node in ast.walk(tree) if isinstance(node, ast.Import) for one in node.names
    }
    assert {name for name in modules if name.split(".")[0] == "qbench"} == {"qbench.plugin"}
    taken = {one.name for node in froms if node.module == "qbench.plugin" for one in node.names}
    assert taken <= set(qbench.plugin.__all__)


def test_what_is_for_plugins_is_listed_and_there() -> None:
    imported = {
        alias.asname or alias.name
        for node in ast.parse(Path(qbench.plugin.__file__).read_text("utf-8")).body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert sorted(imported) == sorted(qbench.plugin.__all__)
    assert all(hasattr(qbench.plugin, name) for name in qbench.plugin.__all__)


def test_the_example_of_the_docstring_works() -> None:
    from qbench.plugin import Heading, Page, Words

    code = str(qbench.plugin.__doc__).split("as a whole:\n")[1].split("\nand what its")[0]
    names: dict[str, Any] = {}
    exec("\n".join(line.removeprefix("    ") for line in code.splitlines()), names)
    page = Page("title", (Heading("first"), Words("words"), Heading("second")))
    assert names["OUTLINE"].page(page) == "first\nsecond\n"


def test_the_code_of_the_documents_works() -> None:
    from qbench.core.plugins import _fault

    text = (REPOSITORY / "docs" / "extending.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    for block in text.split("```python\n")[1:]:
        exec(block.split("```")[0], names)
    assert _fault(names["LAYERS"], qbench.plugin.Measurement) is None
    assert _fault(names["OUTLINE"], qbench.plugin.Format) is None
    loaded = SimpleNamespace(model=SimpleNamespace(modules=lambda: [1, 2, 3]))
    (item,) = names["LAYERS"].items(None, None, None)
    assert names["LAYERS"].measure(loaded, item).metrics[0].value == 3
    assert names["OUTLINE"].page(qbench.plugin.Page("title", ())) == "title: 0 rows\n"


def naive_codes(values: Any) -> Any:
    """Each value as the nearest of all numbers of E5M2, those of even code where two are near."""
    import numpy as np

    numbers = np.array(
        [
            (code & 3) * 2.0**-16 if code < 4 else (1 + (code & 3) / 4) * 2.0 ** ((code >> 2) - 15)
            for code in range(124)  # 124 is infinity
        ]
    )
    assert numbers[-1] == 57344
    distance = np.abs(np.abs(values)[..., None] - numbers)
    nearest = distance.min(axis=-1, keepdims=True)
    even = np.where(distance == nearest, np.arange(124) % 2, 2).argmin(axis=-1)
    return even | np.where(np.signbit(values), 128, 0)


def test_codes_are_the_nearest_and_scales_the_largest_of_a_row(e5m2: ModuleType) -> None:
    import numpy as np
    import torch

    weight = torch.randn(40, 96, generator=torch.Generator().manual_seed(1)) * 0.05
    weight[3] = 0
    weight[4, :3] = torch.tensor([57344.0, 18.0, 2.0**-16])  # 18 lies between 16 and 20
    weight[4, 3:] = 2.0**-17 * torch.arange(93)
    codes, scales = e5m2.quantize(weight)
    largest = np.abs(weight.numpy()).max(axis=1, keepdims=True)
    assert np.allclose(scales.numpy(), np.maximum(largest / 57344, np.finfo(np.float32).tiny))
    scaled = weight.numpy() / scales.numpy()
    assert (codes.numpy() == naive_codes(scaled)).all()
    assert codes[4, 1] == 0x4C  # 16: the even one


def test_its_layer_computes_what_the_codes_say_and_a_broken_one_is_told(e5m2: ModuleType) -> None:
    import torch

    plain = torch.nn.Linear(96, 40)
    with torch.no_grad():
        plain.bias.fill_(0.5)
    layer = e5m2.layer_class()(plain)
    inputs = torch.randn(5, 96)
    expected = inputs @ e5m2.by_definition(layer, slice(None)).T + 0.5
    torch.testing.assert_close(layer(inputs), expected, rtol=1e-5, atol=1e-6)
    assert e5m2.state_fault(layer) is None
    layer.weight[0, :2] = 0xFF
    assert e5m2.state_fault(layer) == "holds 2 codes that are no finite number"


def test_it_is_listed_explained_and_fitted(place: Workplace) -> None:
    listed = json.loads(place.call("list", "--format", "json").output)["precisions"]
    names = [one["name"] for one in listed]
    assert names.index("int8") < names.index("e5m2") < names.index("fp4")
    fitted = place.call(
        "fit", "Mistral-7B-v0.1", "--gpu", "80GB", "--precision", "e5m2", "--length", "512",
        "--format", "json",
    )  # fmt: skip
    assert fitted.code == 0, fitted.errors
    assert '"inference"' in fitted.output
    explained = place.call("explain", "e5m2", "--set", "dtype=fp32", "--format", "json")
    data = json.loads(explained.output)
    assert data["bits_per_weight"]["stored"] == pytest.approx(8 + 32 / 576)
    assert 0.02 < data["error"]["relative"] < 0.0722  # at most half a step of 2^-2: 1/8, uniform


def test_what_cannot_be_trained_on_it_is_skipped_with_a_reason(place: Workplace) -> None:
    place.write(
        "suite.yaml",
        """
models: ["bundled:tiny-mistral"]
precisions: [fp32, e5m2]
measure: [footprint]
finetune:
  data: {dataset: "bundled:stdlib-instruct", train: 24, validation: 8, test: 8}
  methods:
    - {method: full, precision: e5m2, steps: 2}
    - {method: lora, precision: e5m2, steps: 2, init: pissa}
""",
    )
    planned = place.call("plan", "suite.yaml", "--format", "markdown")
    assert planned.code == 0, planned.errors
    for reason in (
        "those of e5m2 are codes, which have no gradient",
        "init pissa takes its part out of the weights, and e5m2 holds codes",
    ):
        assert reason in planned.output


@pytest.mark.slow
def test_its_suite_runs_and_what_was_planned_is_what_is_loaded(place: Workplace) -> None:
    suite = shutil.copy(EXAMPLE / "suite.yaml", place.folder / "suite.yaml")
    ran = place.call("run", str(suite))
    assert ran.code == 0, ran.errors
    records = place.records().values()
    assert {record.status for record in records} == {"ok"}
    held = {
        (record.cell.label, metric.name): metric.value
        for record in records
        for metric in record.metrics
    }
    for label in (
        "e5m2",
        "e5m2-dtype=fp32",
        "lora-e5m2--attached",
        "lora-e5m2--merged-requantized",
    ):
        assert held[label, "memory.static"] == held[label, "memory.static.predicted"]
    assert held["e5m2", "memory.static"] < 0.35 * held["fp32", "memory.static"]
    change = held["e5m2", "perplexity"] / held["fp32", "perplexity"]
    assert 0.99 < change < 1.02
    assert any(name.startswith("lora-e5m2--attached") for name, _ in held)
    (report,) = (place.folder / "reports").glob("*.md")
    assert "QLoRA on E5M2" in report.read_text(encoding="utf-8")
    assert f"{len(records)} measurements, {len(records)} on disk" in (
        place.call("plan", str(suite)).output
    )


@pytest.mark.slow
def test_the_contract_of_precisions_holds_for_it(place: Workplace) -> None:
    tests = REPOSITORY / "tests" / "precisions" / "test_contract.py"
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tests), "-k", "e5m2"],
        cwd=REPOSITORY,
        env=place.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stdout
    assert " passed" in ran.stdout
