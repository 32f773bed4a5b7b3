"""What a server does wrong under a true load is a record that says so, and the next is taken."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.inline_runs import run_inline
from tests.workplace import MARK, Workplace

if TYPE_CHECKING:
    from qbench.core.record import Record

pytestmark = pytest.mark.slow

PROGRAM = Path(__file__).with_name("misbehaving_server.py")
ACTS = ("hangs", "dies", "exits when asked", "refuses", "garbage", "serves")
SUITE = """\
trust_code: true
models: [{model}]
precisions: [fp32]
measure:
  serving:
    prompt_tokens: 8
    output_tokens: 2
    concurrency: 2
    requests: 4
    warmup: 0
    timeout: 60
    servers: {servers}
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> Workplace:
    folder = tmp_path_factory.mktemp("faults")
    return Workplace(folder, tiny_model).with_environment(**{MARK: str(folder)})


@pytest.fixture(scope="module")
def records(place: Workplace) -> dict[str, Record]:
    """A record of each server, by what it does."""
    words = ["--port", "{port}", "{model}", "{dtype}"]
    servers = [
        {"name": act, "command": [sys.executable, str(PROGRAM), f"{act} under load", *words]}
        for act in ACTS
    ]
    place.write("suite.yaml", SUITE.format(model=place.model, servers=json.dumps(servers)))
    ran = run_inline(place)
    return {one.item.params["server"]["name"]: one for one in ran.after.values()}


@pytest.mark.parametrize(
    ("act", "status", "words"),
    [
        ("hangs", "timeout", "did not end within 60 s"),
        ("dies", "crash", "the server, under load, was killed (SIGKILL)"),
        ("exits when asked", "crash", "the server, under load, ended with exit code 7"),
        ("refuses", "error", "422"),
        ("garbage", "error", ""),
    ],
)
def test_a_fault_under_load_is_a_record_with_the_end_of_the_servers_log(
    records: dict[str, Record], act: str, status: str, words: str
) -> None:
    record = records[act]
    assert (record.status, record.metrics) == (status, ())
    assert words in (record.reason or "")
    assert "POST /v1/completions" in (record.log_tail or "")


def test_the_others_are_taken_and_nothing_is_left(
    records: dict[str, Record], place: Workplace
) -> None:
    record = records["serves"]
    assert record.status == "ok", record.reason
    assert record.details["server"]["version"] == "1.2.3"
    assert place.survivors() == []
