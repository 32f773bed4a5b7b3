"""The section `cluster`: what jobs ask of Slurm, as sbatch writes it, and in no key."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from qbench.core.reading import InvalidValueError
from qbench.plan.plan import make_plan
from qbench.plan.rehearsal import rehearse
from qbench.plan.suite.cluster import GpuRequest, SlurmSection, gpu_request, minutes_of
from qbench.plan.suite.settings import read_settings
from qbench.plan.suite.suite import Suite, load_suite_text, make_suite
from qbench.plan.suite.written import read_text
from tests.workplace import REPOSITORY

SUITE = "models: bundled:tiny-mistral\nprecisions: [fp32, nf4]\nmeasure: [footprint]\n"
SECTION = "cluster: {slurm: {partition: gpu, time: 2-00:00:00, gpus: [h100, gpu:a100:4]}}\n"


def load(text: str) -> Suite:
    return load_suite_text(text, "suite.yaml", Path(__file__).parent)


def slurm_of(suite: Suite) -> SlurmSection:
    assert suite.cluster.slurm is not None
    return suite.cluster.slurm


@pytest.mark.parametrize(
    ("written", "minutes"),
    [
        (90, 90),
        ("90", 90),
        ("90:30", 91),
        ("4:00:00", 240),
        ("0:00:01", 1),
        ("1-12", 36 * 60),
        ("1-12:30", 36 * 60 + 30),
        ("2-00:00:01", 48 * 60 + 1),
    ],
)
def test_a_time_is_what_sbatch_reads(written: object, minutes: int) -> None:
    assert minutes_of(written) == minutes


@pytest.mark.parametrize("written", ["", "0", 0, -5, True, 1.5, "4h", "1:60:00", "0-0", "٣", None])
def test_what_is_no_time(written: object) -> None:
    with pytest.raises(InvalidValueError, match="as sbatch reads it"):
        minutes_of(written)


def test_gpus_by_type_and_number() -> None:
    assert gpu_request("h100") == GpuRequest("h100", None)
    assert gpu_request("gpu:h100:4") == GpuRequest("h100", 4)
    assert gpu_request("2") == GpuRequest(None, 2)
    assert [str(gpu_request(one)) for one in ("h100", "gpu:a100:2", "3")] == ["h100", "a100:2", "3"]


def test_the_section_is_read() -> None:
    slurm = slurm_of(load(SUITE + SECTION))
    assert (slurm.partition, slurm.time, slurm.gpus) == ("gpu", 2880, ("h100", "a100:4"))
    assert slurm_of(load(SUITE + "cluster: {slurm: {memory: 64G}}\n")).memory == 64 * 1024
    assert slurm_of(load(SUITE + "cluster: {slurm: {memory: 64GB}}\n")).memory == 61036
    assert slurm_of(load(SUITE + "cluster: {slurm: {memory: 500m}}\n")).memory == 500
    assert load(SUITE).cluster.slurm is None


def test_a_setting_makes_the_section() -> None:
    written = read_text(SUITE, "suite.yaml", Path())
    settings = read_settings(["cluster.slurm.partition=gpu", "cluster.slurm.time=4:00:00"])
    slurm = slurm_of(make_suite(written.set(settings)))
    assert (slurm.partition, slurm.time) == ("gpu", 240)


def test_it_is_in_no_key_and_stays_in_a_rehearsal(tmp_path: Path) -> None:
    plans = [make_plan(load(text), tmp_path, device="cpu") for text in (SUITE, SUITE + SECTION)]
    assert [task.key for task in plans[0].tasks] == [task.key for task in plans[1].tasks]
    assert slurm_of(rehearse(load(SUITE + SECTION))).partition == "gpu"


def test_the_page_lists_every_key() -> None:
    text = (REPOSITORY / "docs" / "slurm.md").read_text(encoding="utf-8")
    told = [
        key
        for row in re.findall(r"^\| (`.+?) \|", text, re.MULTILINE)
        for key in re.findall(r"`(\w+)`", row)
    ]
    assert told == list(SlurmSection.model_fields)
