"""What differs between the conditions of two measurements."""

from __future__ import annotations

from qbench.compare.history.conditions import Change, changes_between
from tests.paired_records import latency, quality
from tests.record_factory import make_environment, make_record

VERSIONS = {"torch": "2.13.0", "transformers": "5.23.0", "peft": None}


def test_nothing_differs_but_the_revision() -> None:
    here, there = (make_environment(git_revision=one * 40) for one in "ab")
    new = latency("nf4", [0.01, 0.02], environment=here)
    assert changes_between(new, latency("nf4", [0.03, 0.04], environment=there)) == ()


def test_packages_come_first_each_by_its_name() -> None:
    here = make_environment(
        versions=VERSIONS | {"torch": "2.14.0", "peft": "0.21.0"}, python="3.12.1", threads=4
    )
    new = latency("nf4", [0.01], environment=here)
    assert changes_between(new, latency("nf4", [0.01])) == (
        Change("package", "Python", "3.12.1", "3.11.7"),
        Change("package", "torch", "2.14.0", "2.13.0"),
        Change("package", "peft", "0.21.0", "not installed"),
        Change("machine", "threads", "4", "2"),
    )


def test_a_gpu_s_driver_is_a_package_and_its_memory_is_told_in_gib() -> None:
    old = make_environment(device_type="cuda", driver="570.1", cuda="12.8")
    more = old.device_memory_bytes + 8 * 2**30
    new = old.model_copy(update={"driver": "575.2", "device_memory_bytes": more})
    found = changes_between(
        latency("nf4", [1], environment=new), latency("nf4", [1], environment=old)
    )
    assert found == (
        Change("package", "driver", "575.2", "570.1"),
        Change("machine", "device memory", "32 GiB", "24 GiB"),
    )
    slightly = old.model_copy(update={"device_memory_bytes": old.device_memory_bytes - 4096})
    assert not changes_between(
        latency("nf4", [1], environment=slightly), latency("nf4", [1], environment=old)
    )


def test_variables_are_told_one_by_one() -> None:
    old = make_environment(variables={"OMP_WAIT_POLICY": "active", "A": "1"})
    new = make_environment(variables={"OMP_WAIT_POLICY": "passive", "A": "1", "B": "2"})
    found = changes_between(
        latency("nf4", [1], environment=new), latency("nf4", [1], environment=old)
    )
    assert [one.words for one in found] == ["OMP_WAIT_POLICY active → passive", "B not set → 2"]


def test_what_was_asked_for_differs() -> None:
    new = make_record("nf4", params={"window": 512})
    old = make_record("nf4", params={"window": 256})
    identity = {**old.identity, "precision": {**old.identity["precision"], "block": 128}}
    found = changes_between([new], [old.model_copy(update={"identity": identity})])
    assert found == (
        Change("settings", "window", "512", "256"),
        Change("settings", "precision.block", "-", "128"),
    )


def test_of_a_baseline_what_it_does_not_keep_is_no_change() -> None:
    new = quality("nf4", [1.0] * 20)
    kept = new.model_copy(update={"identity": {"model": new.identity["model"]}})
    assert changes_between([new], [kept]) == ()


def test_another_number_of_repeats_and_other_weights() -> None:
    new, old = latency("nf4", [1, 2, 3]), latency("nf4", [1, 2])
    assert changes_between(new, old) == (Change("settings", "repeats", "3", "2"),)
    retrained = [
        one.model_copy(update={"identity": one.identity | {"model": {"fingerprint": "other"}}})
        for one in old
    ]
    (change,) = changes_between(old, retrained)
    assert (change.kind, change.name, change.old) == ("model", "weights of tiny-mistral", "other")
