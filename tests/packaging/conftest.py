"""The wheel and the sdist, and fresh environments that the wheel is installed into."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.light_packages import light_packages
from tests.workplace import REPOSITORY, Finished

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

BIN = Path(sys.executable).parent
CONSTRAINTS = REPOSITORY / "constraints.txt"
BUILT_FROM = ("pyproject.toml", "MANIFEST.in", "README.md", "CHANGELOG.md", "LICENSE")
_PATIENCE_S = 600


@dataclass(frozen=True)
class Fresh:
    """An environment of its own, and a folder far from any repository to call its qbench in."""

    python: Path
    folder: Path

    def call(self, *arguments: str) -> Finished:
        """Calls the installed `qbench` as a user does."""
        done = subprocess.run(
            [str(self.python.with_name("qbench")), *arguments],
            cwd=self.folder,
            env={
                **_without(os.environ),
                "PATH": "/usr/bin:/bin",
                "HOME": str(self.folder),
                "QBENCH_CACHE": str(self.folder / "cache"),
                "QBENCH_LOCKS": str(self.folder / "locks"),
                "HF_HUB_OFFLINE": "1",
                "CUDA_VISIBLE_DEVICES": "",
                "OMP_NUM_THREADS": "1",
                "COLUMNS": "200",
                "NO_COLOR": "1",
            },
            capture_output=True,
            text=True,
            check=False,
            timeout=_PATIENCE_S,
        )
        return Finished(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist, and the wheel that was built from it.

    QBENCH_DIST names one that is there already, as `make dist` does.
    """
    given = os.environ.get("QBENCH_DIST")
    if given:
        return REPOSITORY / given
    folder = tmp_path_factory.mktemp("build")
    source, out = folder / "source", folder / "dist"
    source.mkdir()
    for name in (*BUILT_FROM, CONSTRAINTS.name):
        shutil.copy2(REPOSITORY / name, source)
    for name in ("qbench", "suites", "tests"):  # links stay links, as in a clone
        shutil.copytree(
            REPOSITORY / name,
            source / name,
            symlinks=True,
            ignore=shutil.ignore_patterns("__pycache__"),
        )
    _run(sys.executable, "-m", "build", "--installer", "uv", "--outdir", str(out), str(source))
    return out


@pytest.fixture(scope="session")
def wheel(built: Path) -> Path:
    """The only wheel that was built."""
    (found,) = built.glob("*.whl")
    return found


@pytest.fixture(scope="session")
def sdist(built: Path) -> Path:
    """The only sdist that was built."""
    (found,) = built.glob("*.tar.gz")
    return found


@pytest.fixture(scope="session")
def plain(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fresh]:
    """What `pip install qbench-llm` gives on a CPU, in the tested versions."""
    made = _fresh(tmp_path_factory.mktemp("plain"))
    script = REPOSITORY / "tools" / "install_torch.sh"
    _run(str(script), str(made.python), UV_TORCH_BACKEND="cpu", PIP_NO_COMPILE="1")
    _install(made, str(wheel))
    yield made
    shutil.rmtree(made.python.parents[1])  # gigabytes, which pytest would keep for three runs


@pytest.fixture(scope="session")
def light(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fresh]:
    """What `docs/ci.md` has a job install that only gates."""
    made = _fresh(tmp_path_factory.mktemp("light"))
    _install(made, "--no-deps", str(wheel))
    _install(made, *light_packages())
    yield made
    shutil.rmtree(made.python.parents[1])


def _fresh(folder: Path) -> Fresh:
    place = folder / "place"
    place.mkdir()
    _run(str(BIN / "uv"), "venv", "--seed", "--python", sys.executable, str(folder / "venv"))
    return Fresh(folder / "venv" / "bin" / "python", place)


def _install(fresh: Fresh, *what: str) -> None:
    into = ("--python", str(fresh.python), "--constraint", str(CONSTRAINTS))
    _run(str(BIN / "uv"), "pip", "install", *into, *what)


def _without(environment: Mapping[str, str]) -> dict[str, str]:
    """Without what names another environment, or settings of a user of this one."""
    ours = ("PYTHON", "VIRTUAL_ENV", "HF_", "QBENCH_")
    return {name: value for name, value in environment.items() if not name.startswith(ours)}


def _run(*command: str, **more: str) -> None:
    """Runs a command that must succeed, with uv on its path, and more variables."""
    path = f"{BIN}:{os.environ['PATH']}"
    environment = {**_without(os.environ), "PATH": path, **more}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False, timeout=_PATIENCE_S
    )
    assert done.returncode == 0, done.stdout + done.stderr
