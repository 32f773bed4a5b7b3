"""Which torch `make` takes, and by what: stand-ins for pip and uv note what they are asked for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.loopback import Handler, served
from tests.workplace import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator
SCRIPT = REPOSITORY / "tools" / "install_torch.sh"
TORCH = next(
    line
    for line in (REPOSITORY / "constraints.txt").read_text(encoding="utf-8").splitlines()
    if line.startswith("torch==")
)
DRIVER = Path("/proc/driver/nvidia/version")
WITHOUT_GPU = "auto" if DRIVER.exists() else "cpu"
PYTHON = """#!/bin/sh
if [ "$1" != -m ]; then exec {real} -S "$@"; fi
echo "pip ${{*#-m pip --disable-pip-version-check }}" >> {folder}/calls
case "$*" in *" uv") cp {folder}/new-uv {folder}/venv/uv ;; esac
"""
UV = """#!/bin/sh
if [ "$3" = --help ]; then echo "{options}"; exit 0; fi
echo "uv $*" >> {folder}/calls
exit {code}
"""


class _Index(Handler):
    def answer(self) -> None:
        self.reply(200, b"")


@pytest.fixture
def index() -> Iterator[str]:
    """Something that answers where torch's index is looked for."""
    with served(_Index) as url:
        yield f"{url}/"


@dataclass(frozen=True)
class Place:
    """An environment without torch, whose pip and uv note what they are asked for."""

    folder: Path

    def put_uv(self, where: str, *, options: str = "--torch-backend", code: int = 0) -> None:
        text = UV.format(folder=self.folder, options=options, code=code)
        self.put(where, text)

    def put_python(self) -> None:
        self.put("venv/python", PYTHON.format(real=sys.executable, folder=self.folder))

    def install(self, index: str, **variables: str) -> tuple[list[str], str]:
        """The calls of pip and uv, and what was said."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith("UV_")}
        done = subprocess.run(
            [str(SCRIPT), str(self.folder / "venv" / "python")],
            env={**kept, "PATH": str(self.folder / "bin"), "TORCH_INDEX": index, **variables},
            capture_output=True,
            text=True,
            check=True,
        )
        calls = self.folder / "calls"
        return calls.read_text(encoding="utf-8").splitlines(), done.stdout + done.stderr

    def put(self, name: str, text: str) -> None:
        path = self.folder / name
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "venv").mkdir()
    (tmp_path / "bin").mkdir()
    for tool in ("sh", "grep", "dirname", "cp"):
        (tmp_path / "bin" / tool).symlink_to(shutil.which(tool) or tool)
    made = Place(tmp_path)
    made.put_python()
    made.put_uv("new-uv")
    return made


def by_uv(place: Place, backend: str = WITHOUT_GPU) -> str:
    python = place.folder / "venv" / "python"
    return (
        f"uv pip install --quiet --python {python} --constraint {SCRIPT.parent}/../constraints.txt"
        f" --torch-backend {backend} {TORCH}"
    )


BY_PIP = f"pip install --quiet --constraint {SCRIPT.parent}/../constraints.txt {TORCH}"


@pytest.mark.parametrize("gpu", [False, True])
def test_uv_takes_the_build_for_this_machine(place: Place, index: str, *, gpu: bool) -> None:
    place.put_uv("bin/uv")
    if gpu:
        place.put("bin/nvidia-smi", "#!/bin/sh\n")
    assert place.install(index) == ([by_uv(place, "auto" if gpu else WITHOUT_GPU)], "")


def test_the_build_can_be_chosen(place: Place, index: str) -> None:
    place.put_uv("bin/uv")
    calls, _ = place.install(index, UV_TORCH_BACKEND="cu130")
    assert calls == [by_uv(place, "cu130")]


@pytest.mark.parametrize("old", [False, True])
def test_without_a_uv_that_can_choose_one_is_installed(
    place: Place, index: str, *, old: bool
) -> None:
    if old:
        place.put_uv("bin/uv", options="--python")
    assert place.install(index) == (["pip install --quiet uv", by_uv(place)], "")


def test_where_the_index_does_not_answer_pip_takes_its_own_build(place: Place) -> None:
    place.put_uv("bin/uv")
    calls, said = place.install("http://127.0.0.1:9/")
    assert calls == [BY_PIP]
    assert said.startswith(f"{TORCH}: http://127.0.0.1:9/ does not answer; pip takes the build of")
    assert "several gigabytes" in said


def test_where_uv_fails_pip_takes_its_own_build(place: Place, index: str) -> None:
    place.put_uv("bin/uv", code=2)
    calls, said = place.install(index)
    assert calls == [by_uv(place), BY_PIP]
    assert said.startswith(f"{TORCH}: uv could not install it; pip takes")


def test_the_tested_torch_that_is_there_stays() -> None:
    done = subprocess.run(
        [str(SCRIPT), sys.executable], capture_output=True, text=True, check=True, timeout=60
    )
    assert (done.stdout, done.stderr) == ("", "")
