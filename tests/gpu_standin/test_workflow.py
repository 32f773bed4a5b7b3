"""The workflow for GPU runners: the first run makes a baseline, the next are compared with it."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest
import yaml

from tests.gpu_standin.machines import with_gpus
from tests.workplace import QBENCH, REPOSITORY

if TYPE_CHECKING:
    from tests.workplace import Workplace

pytestmark = pytest.mark.slow

WORKFLOW = REPOSITORY / ".github" / "workflows" / "gpu-regression.yml"
SUITE = """\
models: [{}]
precisions: [fp32, bf16]
measure: [footprint]
gate: {{memory.static: {{max_increase: 1%}}}}
"""
FILE = "results/baselines/suite-gpu.json.gz"


def gate_step() -> str:
    jobs = yaml.safe_load(WORKFLOW.read_text(encoding="utf-8"))["jobs"]
    (step,) = [one for one in jobs["gate"]["steps"] if "qbench gate" in one.get("run", "")]
    return str(step["run"])


def take(place: Workplace, **environment: str) -> subprocess.CompletedProcess[str]:
    variables = {"SUITE": "suite.yaml", "BASELINE": "", "MEASURED": "success", **environment}
    summary = place.folder / "summary.md"
    return subprocess.run(
        ["bash", "-e", "-o", "pipefail", "-c", gate_step()],
        cwd=place.folder,
        env={**place.environment, **variables, "GITHUB_STEP_SUMMARY": str(summary)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_first_run_proposes_a_baseline_and_the_next_is_gated(workplace: Workplace) -> None:
    place = with_gpus(workplace, "h100")
    place.write("suite.yaml", SUITE.format(place.model))
    command = place.folder / ".venv" / "bin" / "qbench"
    command.parent.mkdir(parents=True)
    command.symlink_to(QBENCH)
    assert place.call("run", "suite.yaml", "--device", "cuda").code == 0

    unfinished = take(place, MEASURED="failure")
    assert unfinished.returncode == 1
    assert not (place.folder / FILE).exists()

    first = take(place)
    assert first.returncode == 0, first.stderr
    assert f"take {FILE} from the artifact" in first.stdout
    assert first.stdout.count("::warning title=No baseline yet::") == 1
    assert "commit it" in (place.folder / "summary.md").read_text(encoding="utf-8")
    assert (place.folder / FILE).is_file()

    gated = take(place)
    assert gated.returncode == 0, gated.stdout + gated.stderr
    assert (place.folder / "gate.xml").is_file()

    mistyped = take(place, BASELINE="results/baselines/sweet.json.gz")
    assert mistyped.returncode == 2
    assert not (place.folder / "results" / "baselines" / "sweet.json.gz").exists()
