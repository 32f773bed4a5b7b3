"""What packages outside add, and what is said of those that cannot be used."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import pytest

from qbench.core import plugins
from qbench.core.errors import UsageError
from qbench.core.plugins import with_plugins
from qbench.core.spec import PrecisionRef
from qbench.finetune import methods
from qbench.finetune.method import Method
from qbench.measures import measures
from qbench.measures.measurement import Measurement
from qbench.precisions import precisions
from qbench.precisions.precision import Precision
from qbench.report.format import Format
from qbench.report.formats import OWN, formats
from tests.record_factory import make_environment

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Install = Callable[..., None]

GROUPS: dict[str, tuple[type, Callable[[], dict[str, Any]]]] = {
    "qbench.precisions": (Precision, precisions),
    "qbench.measures": (Measurement, measures),
    "qbench.finetune": (Method, methods),
    "qbench.reports": (Format, formats),
}
PARTS = {
    "qbench.precisions": ("storage", "load", "verify"),
    "qbench.measures": ("summary", "metrics", "items", "measure"),
    "qbench.finetune": ("summary", "deployments", "prepare"),
    "qbench.reports": ("suffix", "summary", "page", "records"),
}
"""Some of what each must have."""
PARAMETERS = """
from qbench.plugin import Frozen, Item, Measurement, MetricDefinition, Outcome, make_metric

METRICS = (MetricDefinition(name="count", unit="1", better="neither", title="count", formula="n"),)

class Counted(Measurement):
    name = {name!r}
    summary = "number of parameters"
    metrics = METRICS

    def items(self, options, model, base):
        return [Item(measurement=self.name, slug="all")]

    def measure(self, loaded, item):
        return Outcome((make_metric(METRICS, "count", 1.0),))
{more}
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Puts a package with one module and one entry point where Python finds it."""

    def put(module: str, group: str, text: str) -> None:
        place = tmp_path / module
        told = place / f"{module}-1.0.dist-info"
        told.mkdir(parents=True)
        (place / f"{module}.py").write_text(text, encoding="utf-8")
        (told / "METADATA").write_text(f"Name: {module}\nVersion: 1.0\n", encoding="utf-8")
        (told / "entry_points.txt").write_text(f"[{group}]\nit = {module}:IT\n", encoding="utf-8")
        monkeypatch.syspath_prepend(place)
        monkeypatch.delitem(sys.modules, module, raising=False)  # that of another test
        plugins._installed.cache_clear()

    yield put
    monkeypatch.undo()
    plugins._installed.cache_clear()


def read(group: str, own: tuple[Any, ...] = ()) -> dict[str, Any]:
    return with_plugins(group, GROUPS[group][0], own)


def test_an_object_or_several_are_added(install: Install) -> None:
    install("qbench_one", "qbench.measures", PARAMETERS.format(name="one", more="IT = Counted()"))
    several = "class Other(Counted):\n    name = 'other'\nIT = (Counted(), Other())"
    install("qbench_two", "qbench.measures", PARAMETERS.format(name="two", more=several))
    found = read("qbench.measures")
    assert set(found) == {"one", "two", "other"}
    one = found["one"]
    assert (one.needs, one.trusts_kernels, one.misfit(one.options(), None)) == ((), True, None)


NORMS = """
from qbench.plugin import Method, Trainable

class Norms(Method):
    name = "norms"
    summary = "trains the norms alone"
    needs = ("peft",)

    def deployments(self, precision):
        return ("merged",)

    def prepare(self, model, options, *, precision, seed, folder):
        return Trainable(model, model.save_pretrained)

IT = Norms()
"""


def test_a_method_has_answers_to_start_from(install: Install) -> None:
    install("qbench_norms", "qbench.finetune", NORMS)
    norms = read("qbench.finetune")["norms"]
    ref = PrecisionRef(label="p", name="p")
    options = norms.options(steps=3)
    assert options.steps == 3
    assert norms.conflicts(ref, options) is None
    assert norms.load_precision(ref, options) is ref
    without = make_environment(versions={"peft": None})
    assert norms.unavailable(options, without) == "needs peft: pip install qbench-llm"


@pytest.mark.parametrize("group", GROUPS)
def test_what_lacks_everything_is_named_with_what_is_missing(group: str, install: Install) -> None:
    install("qbench_none", group, "class Nothing:\n    name = 'nothing'\nIT = Nothing()\n")
    with pytest.raises(UsageError) as caught:
        read(group)
    said = str(caught.value)
    named = GROUPS[group][0].__name__
    assert f"the plug-in it (qbench_none:IT) of qbench_none is no {named}: it has no " in said
    missing = said.partition("it has no ")[2].partition(";")[0].split(", ")
    assert set(PARTS[group]) <= set(missing)
    assert "name" not in missing
    assert f"uninstall qbench_none, or see qbench.plugin.{named} if it is yours" in said


@pytest.mark.parametrize("group", GROUPS)
def test_what_raises_as_it_is_imported(group: str, install: Install) -> None:
    install("qbench_raising", group, "raise SystemExit('no')\n")
    with pytest.raises(UsageError, match=r"of qbench_raising cannot be loaded: SystemExit: no; up"):
        read(group)


@pytest.mark.parametrize("group", GROUPS)
def test_own_names_are_taken(group: str, install: Install) -> None:
    _, table = GROUPS[group]
    taken = next(iter(table()))
    text = f"""
from qbench.plugin import NoOptions

class Same:
    name = {taken!r}
    options = NoOptions

    def __getattr__(self, part):
        return lambda *_, **__: None

IT = Same()
"""
    install("qbench_same", group, text)
    with pytest.raises(UsageError, match=rf"called '{taken}', as one of qbench itself is; unins"):
        read(group, tuple(table().values()))


def test_two_packages_with_one_name(install: Install) -> None:
    text = PARAMETERS.format(name="same", more="IT = Counted()")
    install("qbench_first", "qbench.measures", text)
    install("qbench_second", "qbench.measures", text)
    with pytest.raises(UsageError, match="called 'same', as one of qbench_") as caught:
        read("qbench.measures")
    assert "qbench_first" in str(caught.value)
    assert "qbench_second" in str(caught.value)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ("IT = Counted", "it is a class, not an object of it, such as Counted()"),
        ("IT = Counted()\nCounted.name = 7", "its name is 7, not a text"),
        ("IT = Counted()\nCounted.options = {}", "its options are {}, not a class below Frozen"),
        (
            "class Told(Frozen):\n    length: int\nIT = Counted()\nCounted.options = Told",
            "its options length have no default",
        ),
        (
            "IT = Counted()\nCounted.measure = lambda self: None",
            "its measure cannot be called as (loaded, item)",
        ),
        ("IT = Counted()\nCounted.items = 3", "its items cannot be called as a method"),
        (
            "class Half(Measurement):\n    name = 'half'\n    metrics = ()\nIT = Half()",
            "cannot be loaded: TypeError: Can't instantiate abstract class Half",
        ),
        ("IT = None", "it has no name, summary, needs"),
    ],
)
def test_what_is_wrong_with_a_part_is_told(more: str, words: str, install: Install) -> None:
    install("qbench_wrong", "qbench.measures", PARAMETERS.format(name="wrong", more=more))
    with pytest.raises(UsageError) as caught:
        read("qbench.measures")
    assert words in str(caught.value)


def test_own_ones_are_what_is_asked_of_others() -> None:
    for group, (expected, table) in GROUPS.items():
        own = OWN if group == "qbench.reports" else tuple(table().values())
        assert [fault for one in own if (fault := plugins._fault(one, expected))] == []
