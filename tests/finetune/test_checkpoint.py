"""A training that is killed and started again ends as if it had not been."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
import torch

from qbench.core.errors import NotKeptError
from qbench.finetune.artifact import artifact_folder, checkpoint_folder, has_artifact
from qbench.finetune.train.checkpoint import CheckpointRule
from tests.finetune.trainings import KEY, Done, StoppedHereError, train
from tests.workplace import REPOSITORY

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

ARMS: list[tuple[str, str, dict[str, Any]]] = [
    ("lora", "fp32", {"dropout": 0.1}),
    ("lora", "nf4", {"dropout": 0.1, "validate_every": 2}),
    ("lora", "int8", {"optimizer": "adamw_8bit", "target": "all-linear", "rank": 64}),
    ("lora", "fp32", {"init": "pissa"}),
    ("full", "fp32", {"dropout": None}),
    ("full", "fp32", {"dropout": None, "optimizer": "adamw_8bit"}),
    ("full", "bf16", {"dropout": None, "optimizer": "paged_adamw_8bit", "master_weights": "bf16"}),
]


def options(chosen: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in chosen.items() if value is not None}


def check_equal(one: Done, other: Done) -> None:
    first, second = one.training.progress, other.training.progress
    assert second.losses == first.losses
    assert second.learning_rates == first.learning_rates
    assert second.validation == first.validation
    assert set(one.weights) == set(other.weights)
    assert all(torch.equal(weight, other.weights[name]) for name, weight in one.weights.items())


@pytest.fixture(scope="module")
def through(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Done:
    """The training that nothing stopped."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("QBENCH_CACHE", str(tmp_path_factory.mktemp("through")))
        return train(base, key="through")


@pytest.mark.parametrize(("method", "precision", "chosen"), ARMS)
def test_ends_as_if_it_had_not_been_stopped(
    base: Path, method: str, precision: str, chosen: dict[str, Any]
) -> None:
    through = train(base, method, precision, key="through", **options(chosen))
    with pytest.raises(StoppedHereError):
        train(base, method, precision, every_steps=2, stop_after=5, **options(chosen))
    assert not has_artifact(KEY)
    again = train(base, method, precision, every_steps=2, **options(chosen))
    assert again.training.progress.resumed_at == [4]
    check_equal(through, again)
    saved = [
        (artifact_folder(key) / name).read_bytes()
        for key in ("through", KEY)
        for name in ["adapter_model.safetensors" if method == "lora" else "model.safetensors"]
    ]
    assert saved[0] == saved[1]
    assert not checkpoint_folder(KEY).exists()


@pytest.mark.parametrize("stop_after", [1, 2, 3, 4, 5])
def test_at_whatever_step_it_is_stopped(base: Path, through: Done, stop_after: int) -> None:
    with pytest.raises(StoppedHereError):
        train(base, every_steps=1, stop_after=stop_after)
    again = train(base, every_steps=1)
    assert again.training.progress.resumed_at == [stop_after]
    assert stop_after in again.training.progress.untimed
    assert again.training.progress.memory == through.training.progress.memory
    check_equal(through, again)


def test_stopped_again_and_again(base: Path, through: Done) -> None:
    for stop_after in (2, 4):
        with pytest.raises(StoppedHereError):
            train(base, every_steps=2, stop_after=stop_after)
    again = train(base, every_steps=2)
    assert again.training.progress.resumed_at == [2, 4]
    check_equal(through, again)


def test_without_a_checkpoint_it_begins_anew(base: Path, through: Done) -> None:
    with pytest.raises(StoppedHereError):
        train(base, stop_after=3)
    again = train(base)
    assert again.training.progress.resumed_at == []
    check_equal(through, again)


@pytest.mark.parametrize("file", ["weights.safetensors", "state.pt", "progress.json"])
@pytest.mark.parametrize("damage", ["missing", "cut", "foreign", "flipped"])
def test_a_damaged_checkpoint_is_not_believed(
    base: Path, through: Done, file: str, damage: str
) -> None:
    with pytest.raises(StoppedHereError):
        train(base, every_steps=2, stop_after=4)
    (path,) = checkpoint_folder(KEY).glob(f"*/{file}")
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    elif damage == "flipped":
        contents = bytearray(path.read_bytes())
        contents[-5] ^= 1
        path.write_bytes(contents)
    else:
        path.write_text("{}")
    again = train(base)
    assert again.training.progress.resumed_at == []
    check_equal(through, again)


def test_the_checkpoint_of_another_training_is_not_believed(base: Path, through: Done) -> None:
    with pytest.raises(StoppedHereError):
        train(base, key="other", seed=1, every_steps=2, stop_after=4)
    checkpoint_folder(KEY).parent.mkdir(parents=True)
    checkpoint_folder("other").rename(checkpoint_folder(KEY))
    again = train(base)
    assert again.training.progress.resumed_at == []
    check_equal(through, again)


@contextmanager
def no_file_beyond(limit_bytes: int) -> Iterator[None]:
    """Like a disk that is full at some size, but for the name of the error."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_without_room_for_a_checkpoint_the_training_goes_on(base: Path) -> None:
    through = train(base, key="through")
    weights = artifact_folder("through") / "adapter_model.safetensors"
    # Adam's two moments, in torch's file, take twice what the weights do.
    with no_file_beyond(int(1.5 * weights.stat().st_size)):
        tight = train(base, every_steps=2)
    check_equal(through, tight)
    (note,) = tight.training.warnings
    assert note.startswith("no checkpoint could be written after step 2")
    assert "cannot be kept in the cache" in note
    assert has_artifact(KEY)


def test_without_room_for_the_weights_it_is_told_so(base: Path) -> None:
    with no_file_beyond(4000), pytest.raises(NotKeptError, match="free space"):
        train(base)
    assert not has_artifact(KEY)
    assert not list(artifact_folder(KEY).glob("*.safetensors"))


def test_a_checkpoint_of_other_adapters_is_not_believed(base: Path) -> None:
    with pytest.raises(StoppedHereError):
        train(base, every_steps=2, stop_after=4, rank=8)
    again = train(base)
    assert again.training.progress.resumed_at == []


def test_only_the_last_checkpoint_is_kept(base: Path) -> None:
    with pytest.raises(StoppedHereError):
        train(base, every_steps=1, stop_after=3)
    assert [path.name for path in checkpoint_folder(KEY).iterdir()] == ["step-00000003"]


def test_a_checkpoint_that_cannot_be_written_is_told(base: Path) -> None:
    artifact_folder(KEY).mkdir(parents=True)
    checkpoint_folder(KEY).write_text("a file is in the way")
    done = train(base, every_steps=1)
    (words,) = done.training.warnings
    assert "no checkpoint could be written after step 1" in words


def test_a_rule_waits_until_the_last_one_has_paid() -> None:
    rule = CheckpointRule(interval_s=0.0)
    assert rule.due(1)
    with rule.writing():
        time.sleep(0.02)
    assert not rule.due(2)
    time.sleep(0.5)
    assert rule.due(3)
    rule.stop()
    assert not rule.due(4)


def test_the_interval_is_the_users(monkeypatch: pytest.MonkeyPatch) -> None:
    assert CheckpointRule.from_environment().interval_s == 30
    monkeypatch.setenv("QBENCH_CHECKPOINT_SECONDS", "5")
    assert CheckpointRule.from_environment().interval_s == 5
    monkeypatch.setenv("QBENCH_CHECKPOINT_SECONDS", "often")
    assert CheckpointRule.from_environment().interval_s == 30


@pytest.mark.slow
def test_killed_for_good_it_goes_on(base: Path) -> None:
    through = train(base, key="through", precision="nf4", steps=40)
    program = (
        "import sys, torch; torch.set_num_threads(1)\n"
        "from pathlib import Path\n"
        "from tests.finetune.trainings import train\n"
        "train(Path(sys.argv[1]), precision='nf4', steps=40, every_steps=1)\n"
    )
    child = subprocess.Popen(
        [sys.executable, "-c", program, str(base)],
        cwd=REPOSITORY,
        env=os.environ | {"PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    deadline = time.monotonic() + 120
    while not list(checkpoint_folder(KEY).glob("step-*")):
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not has_artifact(KEY)
    again = train(base, precision="nf4", steps=40)
    (step,) = again.training.progress.resumed_at
    assert 0 < step < 40
    check_equal(through, again)
