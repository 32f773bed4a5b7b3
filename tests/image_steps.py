"""The steps of a Dockerfile taken without Docker, in folders that stand for an image's root.

Only what the project's own Dockerfile holds is known here. Each stage is a layer over the one that
it comes from, mounted over a folder that stands for the base image: it needs root.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import stat
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_ENTER = """\
set -e
mount -t overlay overlay -o "lowerdir=$LOWER,upperdir=$UPPER,workdir=$WORK" "$ROOT"
mount --rbind /proc "$ROOT/proc"
mount --rbind /dev "$ROOT/dev"
for pair in $BINDS; do
    here=${pair%%=*} there=$ROOT${pair#*=}
    if [ -d "$here" ]; then mkdir -p "$there"; else mkdir -p "${there%/*}"; touch "$there"; fi
    mount --bind "$here" "$there"
done
exec chroot "$ROOT" setpriv --reuid "$USER_ID" --regid "$GROUP_ID" --clear-groups "$@"
"""


@dataclass
class Stage:
    """A stage of a Dockerfile: its instructions, and what those have set that were taken."""

    name: str
    base: str
    instructions: list[tuple[str, str]] = field(default_factory=list)
    environment: dict[str, str] = field(default_factory=lambda: {"PATH": PATH, "HOME": "/root"})
    folder: str = "/"
    user: str = "0:0"
    entrypoint: list[str] = field(default_factory=list)
    volumes: list[str] = field(default_factory=list)
    layers: list[Path] = field(default_factory=list)
    """Its own first, then those below it."""

    def begin(self, below: Stage | None, place: Path) -> None:
        """Takes what the stage below has set, and a new layer over its own."""
        if below is not None:
            self.environment = dict(below.environment)
            self.folder, self.user, self.layers = below.folder, below.user, list(below.layers)
            self.entrypoint, self.volumes = below.entrypoint, list(below.volumes)
        self.layers.insert(0, place / self.name)
        self.layers[0].mkdir(parents=True)


def read_stages(dockerfile: Path) -> dict[str, Stage]:
    """The stages of a Dockerfile by their names, in its order."""
    text = re.sub(r"^\s*#.*\n", "", dockerfile.read_text(encoding="utf-8"), flags=re.MULTILINE)
    stages: dict[str, Stage] = {}
    for line in text.replace("\\\n", " ").splitlines():
        word, _, rest = line.strip().partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            stages[name] = Stage(name, base)
        elif word:
            next(reversed(stages.values())).instructions.append((word, rest.strip()))
    return stages


def context_files(repository: Path, to: Path) -> None:
    """What .dockerignore, a list of what is let through, leaves of the repository."""
    rules = (repository / ".dockerignore").read_text(encoding="utf-8").split("\n")
    assert "*" in rules
    left_out = shutil.ignore_patterns(*(r.removeprefix("**/") for r in rules if r[:3] == "**/"))
    for name in (rule[1:] for rule in rules if rule.startswith("!")):
        source = repository / name
        if source.is_dir():
            shutil.copytree(source, to / name, symlinks=True, ignore=left_out)
        elif source.is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(source, to / name)


@dataclass
class Builder:
    """Takes the steps of stages, each in its own layer."""

    stages: Mapping[str, Stage]
    base: Path
    """A folder that stands for the base image."""
    context: Path
    """What `docker build` is given."""
    place: Path
    """Where the layers are made; on a disk, not in another overlay."""
    binds: Mapping[Path, str] = field(default_factory=dict)
    """What of this machine the steps see, and where, such as caches."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """More of the environment of RUN, such as how pip reaches its index."""

    def build(self, name: str) -> Stage:
        """The stage with its layers, after those that it is made of."""
        stage = self.stages[name]
        if not stage.layers:
            below = self.build(stage.base) if stage.base in self.stages else None
            stage.begin(below, self.place / "layers")
            for word, rest in stage.instructions:
                self._take(stage, word, rest)
        return stage

    def run(
        self, stage: Stage, *command: str, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        """A command within the stage, in its working folder, as its user."""
        for name in ("work", "root"):
            (self.place / name).mkdir(exist_ok=True)
        user_id, _, group_id = stage.user.partition(":")
        given = {**stage.environment, **variables}
        return subprocess.run(
            [
                *("unshare", "--mount", "sh", "-c", _ENTER, "sh"),
                *("env", "-i", *(f"{name}={value}" for name, value in given.items())),
                *("sh", "-c", f"cd {shlex.quote(stage.folder)} && exec {shlex.join(command)}"),
            ],
            env={
                "PATH": PATH,
                "LOWER": ":".join(map(str, [*stage.layers[1:], self.base])),
                "UPPER": str(stage.layers[0]),
                "WORK": str(self.place / "work"),
                "ROOT": str(self.place / "root"),
                "BINDS": " ".join(f"{here}={there}" for here, there in self.binds.items()),
                "USER_ID": user_id,
                "GROUP_ID": group_id,
            },
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )

    def _take(self, stage: Stage, word: str, rest: str) -> None:
        match word:
            case "ENV" | "ARG":
                for pair in shlex.split(rest):
                    name, _, value = pair.partition("=")
                    stage.environment[name] = Template(value).substitute(stage.environment)
            case "WORKDIR":
                (stage.layers[0] / rest.lstrip("/")).mkdir(parents=True, exist_ok=True)
                stage.folder = rest
            case "COPY":
                self._copy(stage, *shlex.split(rest))
            case "RUN":
                command = re.sub(r"--mount=\S+\s+", "", rest)
                done = self.run(stage, "sh", "-c", command, **self.variables)
                said = f"{done.stdout[-2000:]}{done.stderr[-4000:]}"
                assert done.returncode == 0, f"{stage.name}: RUN {command}\n{said}"
            case "USER":
                stage.user = rest
            case "ENTRYPOINT":
                stage.entrypoint = json.loads(rest)
            case "VOLUME":
                stage.volumes.append(rest)
            case "CMD":
                pass
            case _:
                raise AssertionError(f"{word} {rest}: how this step is taken is not known here")

    def _copy(self, stage: Stage, *words: str) -> None:
        """Folders give what they hold, files come into a folder."""
        *sources, target = (word for word in words if not word.startswith("--"))
        to = stage.layers[0] / os.path.join(stage.folder, target).lstrip("/")  # noqa: PTH118
        other = next(
            (word.removeprefix("--from=") for word in words if word[:7] == "--from="), None
        )
        if other is None:
            for source in sources:
                here = self.context / source
                if here.is_dir():
                    shutil.copytree(here, to, symlinks=True, dirs_exist_ok=True)
                else:
                    to.mkdir(parents=True, exist_ok=True)
                    shutil.copy2(here, to)
            return
        to.mkdir(parents=True, exist_ok=True)
        for layer in reversed(self.build(other).layers):
            for source in sources:
                _link_layer(layer / source.lstrip("/"), to)


def _link_layer(layer: Path, to: Path) -> None:
    """Puts a layer over what those below it gave, by links: no layer is written in again."""
    for folder, folders, names in os.walk(layer):
        place = to / Path(folder).relative_to(layer)
        place.mkdir(parents=True, exist_ok=True)
        for name in (*names, *(one for one in folders if Path(folder, one).is_symlink())):
            source, target = Path(folder, name), place / name
            if target.is_dir() and not target.is_symlink():
                shutil.rmtree(target)
            target.unlink(missing_ok=True)
            status = source.lstat()
            # What a layer has removed is such a device in it.
            if not (stat.S_ISCHR(status.st_mode) and status.st_rdev == 0):
                os.link(source, target, follow_symlinks=False)
