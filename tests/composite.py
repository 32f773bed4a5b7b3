"""What GitHub does with a composite action: its steps, one after the other, on this machine.

Steps that `run` are run in bash, as the runner does it. Steps that use another action are noted,
with what they were given. Expressions are read as GitHub's documentation has them; what is unknown
there (an input that is not declared, a step that has no such name) is an error here.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import yaml

from tests.workplace import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

ACTION = REPOSITORY / "action.yml"
_EXPRESSION = re.compile(r"\$\{\{(.+?)\}\}", re.DOTALL)
_TOKEN = re.compile(r"\s*('(?:[^']|'')*'|&&|\|\||==|!=|!|\(|\)|,|[A-Za-z_][\w.-]*)\s*")
_SIGNS = {"&&": " and ", "||": " or ", "!": " not "}
_STATUS = re.compile(r"\b(always|success|failure|cancelled)\(\)")


def read_action() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(ACTION.read_text(encoding="utf-8"))
    return found


@dataclass
class Step:
    """What became of a step."""

    outcome: str = "skipped"
    outputs: dict[str, str] = field(default_factory=dict)
    given: dict[str, str] = field(default_factory=dict)
    """`with` of one that uses another action."""
    code: int = 0
    log: str = ""


@dataclass
class Composite:
    """One use of the action in a job."""

    folder: Path
    """The workspace."""
    temporary: Path
    environment: Mapping[str, str]
    outputs_of_others: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """What the actions that are used put out, by the step's id."""
    steps: dict[str, Step] = field(default_factory=dict)
    """By id, or by name where there is none."""

    def call(self, only: Sequence[str] = (), /, **inputs: str) -> bool:
        """Runs the steps, or those named; whether all went well. The rest succeeds unseen."""
        action = read_action()
        given = {name.replace("_", "-"): value for name, value in inputs.items()}
        assert set(given) <= set(action["inputs"])
        self.inputs = {}
        for name, about in action["inputs"].items():
            assert name in given or not about.get("required")
            self.inputs[name] = given.get(name, self.text(str(about.get("default", ""))))
        self.steps.clear()
        for told in action["runs"]["steps"]:
            name = told.get("id", told["name"])
            step = self.steps[name] = Step()
            if only and name not in only:
                step.outcome, step.outputs = "success", dict(self.outputs_of_others.get(name, {}))
            elif self._is_wanted(str(told.get("if", "success()"))):
                self._take(step, told, name)
        self.outputs = {
            name: self.text(about["value"]) for name, about in action["outputs"].items()
        }
        return not self.failed

    @property
    def failed(self) -> bool:
        return any(step.outcome == "failure" for step in self.steps.values())

    @property
    def log(self) -> str:
        return "\n".join(step.log for step in self.steps.values())

    @property
    def summary(self) -> str:
        path = self.temporary / "summary.md"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    def text(self, value: str) -> str:
        """The value with its expressions replaced."""
        return _EXPRESSION.sub(lambda found: _written(self._value(found[1])), value)

    def _take(self, step: Step, told: Mapping[str, Any], name: str) -> None:
        if "uses" in told:
            step.given = {key: self.text(str(value)) for key, value in told["with"].items()}
            step.outcome, step.outputs = "success", dict(self.outputs_of_others.get(name, {}))
            return
        assert told["shell"] == "bash"
        variables = {key: self.text(str(value)) for key, value in told.get("env", {}).items()}
        script, output = self.temporary / "script.sh", self.temporary / "output"
        script.write_text(told["run"], encoding="utf-8")
        output.write_text("", encoding="utf-8")
        done = subprocess.run(
            ["bash", "--noprofile", "--norc", "-e", "-o", "pipefail", script],
            cwd=self.folder,
            env={
                **self.environment,
                "GITHUB_ACTION_PATH": str(REPOSITORY),
                "GITHUB_WORKSPACE": str(self.folder),
                "GITHUB_OUTPUT": str(output),
                "GITHUB_STEP_SUMMARY": str(self.temporary / "summary.md"),
                "RUNNER_TEMP": str(self.temporary),
                **variables,
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        step.code, step.log = done.returncode, done.stdout
        step.outcome = "failure" if done.returncode else "success"
        step.outputs = _outputs(output.read_text(encoding="utf-8"))

    def _is_wanted(self, condition: str) -> bool:
        found = _EXPRESSION.fullmatch(condition.strip())
        bare = found[1] if found else condition
        wanted = bool(self._value(bare))
        return wanted and (bool(_STATUS.search(bare)) or not self.failed)

    def _value(self, expression: str) -> Any:
        """The expression as one of Python; `!` before a comparison is not needed and not read."""
        source, at = "", 0
        while at < len(expression):
            token = _TOKEN.match(expression, at)
            assert token, f"cannot be read: {expression[at:]}"
            at = token.end()
            source += self._python(token[1], is_call=expression[at : at + 1] == "(")
        return eval(source, {"call": self._call, "at": self._at})

    def _python(self, token: str, *, is_call: bool) -> str:
        if token.startswith("'"):
            return repr(token[1:-1].replace("''", "'"))
        if token[0].isalpha() or token[0] == "_":
            return f"call[{token!r}]" if is_call else f"at({token!r})"
        return _SIGNS.get(token, token)

    @property
    def _call(self) -> dict[str, Any]:
        return {
            "success": lambda: not self.failed,
            "failure": lambda: self.failed,
            "always": lambda: True,
            "cancelled": lambda: False,
            "hashFiles": lambda *patterns: f"hash-of-{'-'.join(patterns)}",
        }

    def _at(self, name: str) -> str:
        match name.split("."):
            case ["inputs", key]:
                return self.inputs[key]
            case ["steps", step, "outputs", key]:
                return self.steps[step].outputs.get(key, "")
            case ["steps", step, "outcome"]:
                return self.steps[step].outcome
            case ["github", "token"]:
                return "token-of-the-job"
            case ["runner", "os"]:
                return "Linux"
            case ["env", key]:
                return self.environment.get(key, "")
        raise KeyError(name)


def _written(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _outputs(text: str) -> dict[str, str]:
    """What a step wrote into its $GITHUB_OUTPUT: `name=value`, or lines between two marks."""
    found, lines = {}, iter(text.splitlines())
    for line in lines:
        if (block := re.fullmatch(r"([\w-]+)<<(.+)", line)) is None:
            name, _, value = line.partition("=")
        else:
            name, within = block[1], []
            while (one := next(lines)) != block[2]:
                within.append(one)
            value = "\n".join(within)
        found[name] = value
    return found
