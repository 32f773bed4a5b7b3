"""The Dockerfile: what it promises, and its steps taken without Docker."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.image_steps import Builder, Stage, context_files, read_stages
from tests.workplace import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

DOCKERFILE = REPOSITORY / "Dockerfile"
MOST_STEPS_S = 900
MOST_BYTES = 8 * 2**30
SETTINGS = ("cert", "constraint", "extra-index-url", "find-links", "index-url", "proxy")
"""Of pip's own, what says where packages are had."""


def set_by(stages: dict[str, Stage], name: str, word: str) -> list[str]:
    """What the instructions of that word say, in the stage and in those below it."""
    stage = stages[name]
    below = set_by(stages, stage.base, word) if stage.base in stages else []
    return [*below, *(rest for kind, rest in stage.instructions if kind == word)]


def test_the_base_has_a_tag_and_is_named_once() -> None:
    stages = read_stages(DOCKERFILE)
    outside = [stage.base for stage in stages.values() if stage.base not in stages]
    assert len(outside) == 1
    assert re.fullmatch(r"python:3\.1[123]\.\d+-slim-\w+", outside[0])


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_an_image_has_a_user_with_a_number_a_cache_and_a_place_to_work(target: str) -> None:
    stages = read_stages(DOCKERFILE)
    assert set_by(stages, target, "USER") == ["10001:10001"]
    assert set_by(stages, target, "VOLUME") == ["/cache"]
    assert set_by(stages, target, "WORKDIR") == ["/work"]
    assert set_by(stages, target, "ENTRYPOINT") == ['["qbench"]']
    variables = " ".join(set_by(stages, target, "ENV"))
    assert {"QBENCH_CACHE=/cache/qbench", "HF_HOME=/cache/huggingface"} <= set(variables.split())


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_what_builds_stays_out_of_an_image(target: str) -> None:
    stages = read_stages(DOCKERFILE)
    (copied,) = set_by(stages, target, "COPY")
    assert copied == f"--from={target}-environment /opt/qbench /opt/qbench"
    installed = re.findall(r"install --yes \S+ (.*?) &&", " ".join(set_by(stages, target, "RUN")))
    assert installed == ["libgomp1"]


def test_nothing_is_given_to_the_builder_but_what_the_wheel_is_made_of(tmp_path: Path) -> None:
    context_files(REPOSITORY, tmp_path)
    given = {path.name for path in tmp_path.iterdir()}
    assert {"pyproject.toml", "constraints.txt", "README.md", "LICENSE", "qbench"} <= given
    assert not given & {".git", ".venv", "results", "reports", "tests"}
    assert not list(tmp_path.rglob("__pycache__"))


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for 100,000 small files: in memory, where there is room."""
    memory = Path("/dev/shm")
    fits = memory.is_dir() and shutil.disk_usage(memory).free > MOST_BYTES
    folder = Path(tempfile.mkdtemp(dir=memory if fits else tmp_path_factory.getbasetemp()))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="module")
def debian(place: Path) -> Path:
    """A bare Debian with Python, in the place of the base image, which comes from one too."""
    if os.geteuid() != 0 or not all(map(shutil.which, ("debootstrap", "unshare", "setpriv"))):
        pytest.skip("needs root, and the Debian packages debootstrap and util-linux")
    folder = place / "debian"
    release = next(iter(read_stages(DOCKERFILE).values())).base.rpartition("-")[2]
    packages = "ca-certificates,python3,python3-venv"
    done = subprocess.run(
        ["debootstrap", "--variant=minbase", f"--include={packages}", release, folder],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        pytest.skip(f"debootstrap made no Debian: {done.stdout[-200:]}{done.stderr[-200:]}")
    (folder / "usr/local/bin/python").symlink_to("/usr/bin/python3")
    return folder


@pytest.fixture(scope="module")
def builder(debian: Path, place: Path) -> Builder:
    context_files(REPOSITORY, place / "context")
    told = {**dict(pip_settings()), "PIP_NO_COMPILE": "1"}
    seen = [Path("/etc/resolv.conf"), Path("/etc/hosts"), *places_in(told.values())]
    binds = {one: str(one) for one in seen if one.exists()}
    cache = Path(pip("cache", "dir").strip())
    if cache.is_dir():
        binds[cache] = "/root/.cache/pip"
    return Builder(read_stages(DOCKERFILE), debian, place / "context", place, binds, told)


def pip(*arguments: str) -> str:
    command = [sys.executable, "-m", "pip", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def pip_settings() -> Iterator[tuple[str, str]]:
    """Where this machine's pip has its packages from, as variables."""
    for line in pip("config", "list").splitlines():
        name, _, value = line.partition("=")
        setting = name.rpartition(".")[2].strip(":")
        if setting in SETTINGS:
            yield f"PIP_{setting.upper().replace('-', '_')}", value.strip("'")
    for name, value in os.environ.items():
        if name.lower().endswith("_proxy"):
            yield name, value


def places_in(values: Iterable[str]) -> Iterator[Path]:
    """Files and folders of this machine that settings name."""
    for word in " ".join(values).split():
        if word.startswith("file://"):
            yield Path(word.removeprefix("file://")).parent  # the files of an index lie beside it
        elif word.startswith("/"):
            yield Path(word)


@pytest.mark.slow
@pytest.mark.timeout(MOST_STEPS_S)
def test_the_steps_make_an_image_that_measures_as_another_user_than_root(builder: Builder) -> None:
    image = builder.build("cpu")
    assert image.user == "10001:10001"
    version = builder.run(image, *image.entrypoint, "--version")
    assert (version.returncode, version.stderr) == (0, "")
    assert version.stdout.startswith("qbench ")
    ran = builder.run(
        image, *image.entrypoint, "run", "bundled:tiny-mistral", "--quick",
        *("--precisions", "fp32,nf4", "--measure", "quality", "--only", "fp32"),
    )  # fmt: skip
    assert ran.returncode == 0, ran.stdout + ran.stderr
    work, cache = (image.layers[0] / name for name in ("work", "cache"))
    assert list((work / "results").rglob("*.json"))
    assert list((work / "reports").glob("*.html"))
    written = [path for folder in (work, cache) for path in folder.rglob("*")]
    assert {path.stat().st_uid for path in written} == {10001}
    compilers = builder.run(image, "sh", "-c", "command -v gcc g++ cc make")
    assert compilers.stdout == ""
