"""Artifacts in the cache: whole or not there, one maker at a time."""

from __future__ import annotations

import threading

import pytest

from qbench.errors import MeasurementError
from qbench.finetune.artifact import (
    ArtifactInfo,
    artifact_folder,
    checkpoint_folder,
    has_artifact,
    lock_artifact,
    read_artifact,
    replacing_artifact,
    write_artifact,
)
from qbench.sources.cache import cache_folder

KEY = "0123456789abcdef"
INFO = ArtifactInfo(
    key=KEY, method="lora", precision="nf4", base_fingerprint="f" * 64, seed=0, steps=10
)


def test_lies_in_the_cache_under_its_key() -> None:
    assert artifact_folder(KEY) == cache_folder() / "tuned" / KEY


def test_is_there_once_it_is_declared_whole() -> None:
    with replacing_artifact(INFO) as fresh:
        (fresh / "adapter_model.safetensors").write_bytes(b"weights")
        assert not has_artifact(KEY)
    assert has_artifact(KEY)
    assert read_artifact(KEY) == INFO
    assert read_artifact(KEY, base_fingerprint="f" * 64) == INFO
    assert (artifact_folder(KEY) / "adapter_model.safetensors").read_bytes() == b"weights"


def test_replaces_all_of_an_older_one_and_its_checkpoints() -> None:
    with replacing_artifact(INFO) as fresh:
        (fresh / "README.md").write_text("old")
    checkpoint_folder(KEY).mkdir()
    with replacing_artifact(INFO.model_copy(update={"steps": 20})) as fresh:
        (fresh / "config.json").write_text("{}")
    assert sorted(path.name for path in artifact_folder(KEY).iterdir()) == [
        "artifact.json",
        "config.json",
    ]
    assert read_artifact(KEY).steps == 20


def test_a_saving_that_fails_leaves_the_older_one() -> None:
    with replacing_artifact(INFO) as fresh:
        (fresh / "config.json").write_text("old")

    def fail() -> None:
        with replacing_artifact(INFO) as fresh:
            (fresh / "config.json").write_text("half")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        fail()
    assert has_artifact(KEY)
    assert (artifact_folder(KEY) / "config.json").read_text() == "old"
    assert not (artifact_folder(KEY) / "new").exists()


def test_names_what_is_missing() -> None:
    with pytest.raises(MeasurementError, match=f"{KEY} is not in the cache.*--retry"):
        read_artifact(KEY)


def test_refuses_an_artifact_of_another_base() -> None:
    write_artifact(INFO)
    with pytest.raises(MeasurementError, match=r"another base: found the fingerprint f{16}, exp"):
        read_artifact(KEY, base_fingerprint="a" * 64)


@pytest.mark.parametrize("contents", ["", "{}", "[]", '{"key": 1}'])
def test_a_damaged_mark_is_one_message(contents: str) -> None:
    write_artifact(INFO)
    (artifact_folder(KEY) / "artifact.json").write_text(contents)
    with pytest.raises(MeasurementError, match=r"artifact\.json: cannot be read .*delete the fold"):
        read_artifact(KEY)


def test_one_maker_at_a_time() -> None:
    order: list[str] = []
    waiting = threading.Event()

    def second() -> None:
        waiting.set()
        with lock_artifact(KEY):
            order.append("second")

    with lock_artifact(KEY):
        thread = threading.Thread(target=second)
        thread.start()
        waiting.wait()
        thread.join(0.2)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
