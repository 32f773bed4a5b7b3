"""The files that `qbench reproduce` writes, as texts: suites, versions, and a script.

What records say is a stranger's: it is quoted for the shell, kept to one line in comments, and what
is no version, or no variable that qbench knows, is left out.
"""

from __future__ import annotations

import re
import shlex
from typing import TYPE_CHECKING

from qbench.core.environment import variables_known
from qbench.core.packages import DISTRIBUTION, EXTRAS
from qbench.core.units import counted
from qbench.core.untrusted import in_one_line
from qbench.plan.keys import IDENTITY_PACKAGES
from qbench.plan.reproduction import environment_of
from qbench.plan.suite.yaml_lines import write_yaml

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from qbench.core.record import Environment, Record
    from qbench.plan.reproduction import Reproduction
    from qbench.plan.suite.restated import Restated

CONSTRAINTS, SCRIPT, MEASURED = "constraints.txt", "reproduce.sh", "measured.json.gz"
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_VERSION = re.compile(r"[0-9][A-Za-z0-9.!+_-]*")
_TORCH_BUILD = re.compile(r"\+(cpu|cu[0-9]+|rocm[0-9.]+)$")
_TORCH_INDEX = "https://download.pytorch.org/whl"
_UNKNOWN_VERSION = "0+unknown"


def suite_name(at: int) -> str:
    """The file of the suite at that place, from 0."""
    return "suite.yaml" if at == 0 else f"suite-{at + 1}.yaml"


def suite_text(restated: Restated, *, trust_code: bool = False) -> str:
    """The suite's file, which begins with what it asks again for."""
    count = counted(len(restated.records), "record")
    devices = ", ".join(_each(one.environment.device for one in restated.records))
    lines = [
        f"Asks again for {count} of {restated.name}, measured on {devices}.",
        *(f"{one.place}: {one.what}, of {one.was}" for one in restated.supplied.values()),
        *(f"needs leave to run code: {one}" for one in restated.runs_code if not trust_code),
    ]
    head = "".join(f"# {in_one_line(line)}\n" for line in lines)
    return head + write_yaml(restated.stated(trust_code=trust_code))


def constraints_text(records: Sequence[Record]) -> str:
    """The versions of the records' packages, for `pip install -c`; of the newest where several."""
    environments = [environment_of(record) for record in records]
    newest = environments[-1]
    said = {"CUDA": newest.cuda, "cuDNN": newest.cudnn, "driver": newest.driver}
    lines = [
        f"Python {newest.python}, {newest.platform}, {newest.device}",
        *(f"{name} {value}" for name, value in said.items() if value is not None),
        "Versions of the packages that decide the numbers; others are not fixed.",
    ]
    pinned = _pinned(newest)
    for environment in environments:
        others = _pinned(environment).items()
        lines += [f"some records: {k}=={v}" for k, v in others if pinned.get(k) != v]
    head = "".join(f"# {in_one_line(line)}\n" for line in _each(lines))
    return head + "".join(f"{name}=={version}\n" for name, version in pinned.items())


def script_text(made: Sequence[Reproduction], *, compared: bool) -> str:
    """The script: an environment, the runs, and where the old records are here the comparison."""
    records = [record for one in made for record in one.restated.records]
    environment = environment_of(records[-1])
    installed = "\n".join(f"  {line}" for line in install_lines(records))
    exports = "".join(f"{line}\n" for line in export_lines(records))
    needed = _each(place for one in made for place in one.restated.supplied)
    checks = "".join(f"needs {shlex.quote(place)}\n" for place in needed)
    runs = "\n".join(
        "run " + " ".join(run_words(suite_name(at), one)) for at, one in enumerate(made)
    )
    end = f'"$QBENCH" {compare_words(made)}\n' if compared else ""
    return f"""\
#!/usr/bin/env bash
# Measures again what README.md names. With QBENCH=/path/to/qbench it installs nothing.
set -euo pipefail
cd "$(dirname "$0")"

needs() {{ [ -e "$1" ] || {{ echo "$1 is not here: README.md says what it is" >&2; exit 2; }}; }}
{checks}
if [ -z "${{QBENCH:-}}" ]; then
  python{_minor(environment.python)} -m venv venv
{installed}
  QBENCH=venv/bin/qbench
fi

{exports}
# A run exits with 1 where cells fail, as cells of the records may have.
run() {{ "$QBENCH" run "$@" --results results --reports reports || [ $? -eq 1 ]; }}
{runs}
{end}"""


def install_lines(records: Sequence[Record]) -> list[str]:
    """The commands that install the records' versions, the build of torch first."""
    environment = environment_of(records[-1])
    torch = _pinned(environment).get("torch", "")
    build = _TORCH_BUILD.search(torch)
    lines = []
    if build is not None:
        lines.append(f"venv/bin/pip install torch=={torch} --index-url {_TORCH_INDEX}/{build[1]}")
    needed = dict.fromkeys(
        package for record in records for package in environment_of(record).versions
    )
    own = [EXTRAS[name] for name in needed if name in EXTRAS and name not in IDENTITY_PACKAGES]
    extras = f"[{','.join(_each(own))}]" if own else ""
    version = environment.qbench
    exact = f"=={version}" if version != _UNKNOWN_VERSION and _VERSION.fullmatch(version) else ""
    lines.append(f"venv/bin/pip install -c {CONSTRAINTS} '{DISTRIBUTION}{extras}{exact}'")
    return lines


def run_words(suite: str, one: Reproduction) -> list[str]:
    """The words of `qbench run` after its name, quoted for a shell."""
    only = [word for slug in one.only for word in ("--only", shlex.quote(slug))]
    rehearse = ["--rehearse"] if one.restated.rehearsal else []
    return [suite, *rehearse, *only]


def compare_words(made: Sequence[Reproduction]) -> str:
    """The words of `qbench` that hold the new records against the old ones, quoted for a shell."""
    return f"compare {shlex.quote(f'results/{made[0].restated.name}')} {MEASURED}"


def export_lines(records: Sequence[Record]) -> list[str]:
    """The commands that set the records' variables which change numbers, quoted for a shell.

    Where records differ, those of the newest.
    """
    newest = environment_of(records[-1])
    set_there = {
        name: newest.variables[name] for name in variables_known() if name in newest.variables
    }
    threads = next(
        (one.identity.get("threads") for one in records if "threads" in one.identity), None
    )
    if isinstance(threads, int):
        set_there.setdefault("OMP_NUM_THREADS", str(threads))
    return [f"export {name}={shlex.quote(value)}" for name, value in set_there.items()]


def _pinned(environment: Environment) -> dict[str, str]:
    return {
        name: version
        for name, version in environment.versions.items()
        if version is not None and _NAME.fullmatch(name) and _VERSION.fullmatch(version)
    }


def _minor(version: str) -> str:
    found = re.match(r"3\.[0-9]+", version)
    return "3" if found is None else found[0]


def _each(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))
