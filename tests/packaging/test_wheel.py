"""The wheel and the sdist: what is in them, and what they do where there is no repository."""

from __future__ import annotations

import json
import tarfile
from importlib.metadata import version
from typing import TYPE_CHECKING
from zipfile import ZipFile

import pytest

from tests.record_factory import quickstart_records
from tests.workplace import REPOSITORY, Workplace, keep

if TYPE_CHECKING:
    from pathlib import Path

    from tests.packaging.conftest import Fresh

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]

LARGEST_BYTES = 20 * 2**20
SUITES = {
    str(path.relative_to(REPOSITORY / "suites")): path.read_bytes()
    for path in (REPOSITORY / "suites").rglob("*")
    if path.is_file()
}


def suites_in(files: dict[str, bytes], folder: str) -> dict[str, bytes]:
    return {
        name.removeprefix(folder): content
        for name, content in files.items()
        if name.startswith(folder)
    }


def test_the_wheel_has_the_package_and_the_suites_once(wheel: Path) -> None:
    with ZipFile(wheel) as file:
        names = [entry.filename for entry in file.infolist() if not entry.is_dir()]
        files = {name: file.read(name) for name in names}
    assert len(names) == len(files)
    assert {name.split("/")[0].split("-")[0] for name in names} == {"qbench", "qbench_llm"}
    assert suites_in(files, "qbench/bundled/suites/") == SUITES
    assert not any("__pycache__" in name for name in names)
    # A licence lies beside each text that it is for.
    contents = [one for name, one in files.items() if "LICENSE" not in name and len(one) > 4096]
    assert len(contents) == len(set(contents))
    assert wheel.stat().st_size < LARGEST_BYTES


def test_the_sdist_has_files_for_links_and_no_tests(sdist: Path) -> None:
    with tarfile.open(sdist) as file:
        members = [one for one in file.getmembers() if not one.isdir()]
        assert all(one.isfile() for one in members)
        files = {
            one.name.partition("/")[2]: opened.read()
            for one in members
            if (opened := file.extractfile(one)) is not None
        }
    assert len(files) == len(members)
    assert suites_in(files, "qbench/bundled/suites/") == SUITES
    for folder in ("tests/", "results/", "reports/", "suites/"):
        assert not suites_in(files, folder)
    assert "constraints.txt" in files
    assert sdist.stat().st_size < LARGEST_BYTES


def test_a_suite_is_run_by_its_name_and_reported_in_a_fresh_environment(plain: Fresh) -> None:
    assert plain.call("--version").output == f"qbench {version('qbench-llm')}\n"
    ran = plain.call(
        *("run", "quickstart", "--only", "fp32", "--only", "nf4", "--quiet"),
        *("--set", "measure={footprint: {}, quality: {window: 64, limit: 16}}"),
    )
    assert ran.code == 0, ran.output + ran.errors
    assert len([*plain.folder.glob("results/quickstart/*/tiny-mistral--*/*.json")]) == 6
    assert plain.call("recommend", "quickstart", "--max-perplexity-increase", "50%").code == 0
    assert plain.call("report", "quickstart", "--reports", "again").code == 0
    assert [*plain.folder.glob("again/*.html")]
    assert [*plain.folder.glob("reports/*.md")]
    suites = json.loads(plain.call("list", "suites", "--format", "json").output)["suites"]
    assert {f"{one['name']}.yaml" for one in suites} == {
        name for name in SUITES if name.endswith(".yaml")
    }
    # A path in a suite starts where the suite lies.
    assert "llama-1b-two-blocks" in plain.call("plan", "kernels").output


def test_a_job_that_only_gates_installs_the_light_packages(light: Fresh, tiny_model: Path) -> None:
    with_all = Workplace(light.folder, tiny_model)
    for record in quickstart_records():
        keep(light.folder / "results", record)
    installed = {path.name for path in light.python.parents[1].glob("lib/*/site-packages/*")}
    assert not installed & {"torch", "transformers", "pandas", "lm_eval"}
    assert light.call("baseline", "quickstart").code == 0
    for command in (
        ["gate", "quickstart", "--baseline", "results/baselines", "--format", "json"],
        ["compare", "tiny-mistral--nf4", "tiny-mistral--fp32", "--format", "json"],
        ["recommend", "quickstart", "--max-perplexity-increase", "2%", "--format", "json"],
        ["report", "quickstart", "--format", "json", "--output", "-"],
        ["claims", "--format", "json"],
    ):
        there, here = light.call(*command), with_all.call_here(*command)
        assert (there.code, there.output) == (here.code, here.output), there.errors
    published = REPOSITORY / "results" / "published" / "quickstart"
    told = light.call("reproduce", str(published), "--to", "again")
    assert told.code == 0, told.errors
    assert "found no torch" in " ".join(told.output.split())
    ran = light.call("run", "quickstart")
    assert ran.code == 2
    assert ran.errors.endswith("pip install qbench-llm\n")
    assert len(ran.errors.splitlines()) == 1
