"""Artifacts in the cache: whole or not there, one maker at a time."""

from __future__ import annotations

import threading

import pytest

from qbench.core.cache import cache_folder
from qbench.core.errors import MeasurementError, NotKeptError
from qbench.finetune.artifact import (
    ArtifactInfo,
    artifact_folder,
    checkpoint_folder,
    damage_of_artifact,
    has_artifact,
    lock_artifact,
    read_artifact,
    replacing_artifact,
)

KEY = "0123456789abcdef"
INFO = ArtifactInfo(
    key=KEY, method="lora", precision="nf4", base_fingerprint="f" * 64, seed=0, steps=10
)


def keep(info: ArtifactInfo = INFO, weights: bytes = b"weights") -> None:
    with replacing_artifact(info) as fresh:
        (fresh / "adapter_config.json").write_text('{"lora_alpha": 8}')
        (fresh / "adapter_model.safetensors").write_bytes(weights)


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
        "seal.json",
    ]
    assert read_artifact(KEY).steps == 20


def test_a_saving_that_fails_leaves_the_older_one() -> None:
    with replacing_artifact(INFO) as fresh:
        (fresh / "config.json").write_text("old")

    def fail() -> None:
        with replacing_artifact(INFO) as fresh:
            (fresh / "config.json").write_text("half")
            raise OSError("disk full")

    with pytest.raises(
        NotKeptError, match=r"cannot be kept in the cache \(disk full\); free space"
    ):
        fail()
    assert has_artifact(KEY)
    assert (artifact_folder(KEY) / "config.json").read_text() == "old"
    assert not list(artifact_folder(KEY).glob(".*"))


def test_names_what_is_missing() -> None:
    with pytest.raises(MeasurementError, match=f"{KEY} is not in the cache.*--retry"):
        read_artifact(KEY)


def test_refuses_an_artifact_of_another_base() -> None:
    keep()
    with pytest.raises(MeasurementError, match=r"another base: found the fingerprint f{16}, exp"):
        read_artifact(KEY, base_fingerprint="a" * 64)


@pytest.mark.parametrize("contents", ["", "{}", "[]", '{"key": 1}'])
def test_a_damaged_mark_is_one_message(contents: str) -> None:
    keep()
    (artifact_folder(KEY) / "artifact.json").write_text(contents)
    with pytest.raises(MeasurementError, match=r"artifact\.json: cannot be read .*delete the fold"):
        read_artifact(KEY)


@pytest.mark.parametrize(
    ("name", "contents"),
    [
        ("adapter_model.safetensors", b"weighty"),
        ("adapter_config.json", b'{"lora_alpha": 9}'),
        ("artifact.json", INFO.model_copy(update={"seed": 1}).model_dump_json().encode()),
    ],
)
def test_a_file_that_changed_is_not_believed(name: str, contents: bytes) -> None:
    keep()
    assert has_artifact(KEY)
    (artifact_folder(KEY) / name).write_bytes(contents)
    assert not has_artifact(KEY)
    assert damage_of_artifact(KEY) == f"{name} is not what was written"
    with pytest.raises(MeasurementError, match=f"{name} is not what was written; run the suite"):
        read_artifact(KEY)


def test_a_file_that_was_put_beside_is_not_believed() -> None:
    """An adapter beside merged weights would be applied to them once more."""
    keep()
    (artifact_folder(KEY) / "extra.safetensors").write_bytes(b"1")
    assert damage_of_artifact(KEY) == "extra.safetensors was not written with it"
    assert not has_artifact(KEY)


def test_a_file_that_is_gone_is_missed() -> None:
    keep()
    (artifact_folder(KEY) / "adapter_model.safetensors").unlink()
    assert "No such file" in (damage_of_artifact(KEY) or "")
    (artifact_folder(KEY) / "seal.json").unlink()
    assert damage_of_artifact(KEY) == "it has no seal.json"


def test_another_trainings_folder_in_its_place_is_not_believed() -> None:
    other = INFO.model_copy(update={"key": "fedcba9876543210", "seed": 1})
    keep()
    keep(other, b"otherwise")
    artifact_folder(KEY).rename(artifact_folder("aside"))
    artifact_folder(other.key).rename(artifact_folder(KEY))
    assert not has_artifact(KEY)
    with pytest.raises(MeasurementError, match="it was made for fedcba9876543210"):
        read_artifact(KEY)


def test_nothing_there_is_no_damage() -> None:
    assert damage_of_artifact(KEY) is None
    assert not has_artifact(KEY)


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
