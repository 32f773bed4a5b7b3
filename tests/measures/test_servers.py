"""Servers that a measurement starts: each fault by its name, and nothing left of any of them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil
import pytest
from pydantic import ValidationError

from qbench.core.checkpoint import checkpoint_of
from qbench.core.errors import MeasurementError, ProcessFailedError
from qbench.core.options import plain_options
from qbench.core.spec import Item
from qbench.measures.loaded import UnbuiltCell
from qbench.measures.serving.asking import CHAT, ask_json
from qbench.measures.serving.commands import filled_command, values_for, why_not_served
from qbench.measures.serving.opening import open_server
from qbench.measures.serving.run import tokenizer_folder
from qbench.measures.serving.servers import ServerOptions
from qbench.plan.items import caveats, why_not_taken
from qbench.plan.job import Task
from qbench.sources.models.resolve import fetch_model, parse_model, resolve_model
from tests.gguf_files import write_gguf
from tests.precisions.tiny_cells import make_job, resolve
from tests.tiny_models import make_tiny_model
from tests.workplace import MARK, Workplace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qbench.core.spec import ResolvedModel
    from qbench.measures.serving.server import Server

PROGRAM = Path(__file__).with_name("misbehaving_server.py")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("served") / "model", "llama")


@pytest.fixture
def place(tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    """A place whose processes this test's own process starts."""
    monkeypatch.setenv(MARK, str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return Workplace(tmp_path, folder)


def cell_of(
    place: Workplace, precision: str = "fp32", model: ResolvedModel | None = None
) -> UnbuiltCell:
    job = make_job(resolve(place.model) if model is None else model, precision)
    path = str(place.folder / "results" / "serving-one-0123.json")
    task = Task(item=Item(measurement="serving", slug="one"), key="0123", identity={}, path=path)
    job = job.model_copy(update={"tasks": (task,), "trust_code": True})
    checkpoint = checkpoint_of(job.cell.model, fetch_model(job.model), "cpu")
    return UnbuiltCell(job.cell, job.model, checkpoint, "cpu", job.model_dump(mode="json"))


def options_of(act: str, *more: str, **options: Any) -> ServerOptions:
    command = [sys.executable, str(PROGRAM), act, "--port", "{port}", "{model}", "{dtype}", *more]
    given: dict[str, Any] = {"start_timeout_s": 30, "answer_timeout_s": 10, **options}
    return ServerOptions.model_validate({"command": command, **given})


def opened(options: ServerOptions, place: Workplace) -> Any:
    return open_server(options, cell_of(place), context_tokens=24, streams=2)


@pytest.fixture
def serving(place: Workplace) -> Iterator[Server]:
    with opened(options_of("serves"), place) as server:
        yield server


def test_a_server_that_serves(place: Workplace) -> None:
    with opened(options_of("serves"), place) as server:
        assert server.url.startswith("http://127.0.0.1:")
        assert server.model == str(place.model)
        assert server.version == "1.2.3"
        assert server.alive()
        server.check()
        answer = ask_json(server.url + "/v1/completions", 5.0, {"model": server.model})
        assert answer["choices"][0]["text"] == " word"
        port = server.url.rpartition(":")[2]
        assert server.flags[1:] == (
            str(PROGRAM), "serves", "--port", port, str(place.model), "float32",
        )  # fmt: skip
        (process,) = psutil.Process(server.pid).children()
        memory = server.memory()
        assert memory is not None
        assert memory.serve_bytes is not None
        # A process of the standard library, and the process that keeps it is not counted.
        resident = process.memory_info().rss
        assert 0.5 * resident < memory.serve_bytes < 2 * resident
        assert memory.device_bytes is None
        assert server.log is not None
        assert "POST /v1/completions" in server.log.read_text(encoding="utf-8")
    assert not server.alive()
    assert place.survivors() == []


@pytest.mark.parametrize(
    ("act", "status", "words"),
    [
        ("exits", "crash", "the server, before it was healthy, ended with exit code 3"),
        ("ends well", "crash", "before it was healthy, ended with exit code 0"),
        ("has no memory", "oom", "CUDA out of memory. Tried to allocate 2 GiB"),
        ("does not listen", "timeout", "not healthy after 2 s: /health last gave .*refused"),
        ("never healthy", "timeout", 'not healthy after 2 s: /health last gave status 503: {"stat'),
        ("garbage", "error", "/v1/completions gave an answer that is not JSON: '<html>hello"),
        ("another api", "error", "JSON without choices.0..text, as OpenAI's API has it"),
        ("refuses", "error", "status 422: .*the field max_tokens is not known"),
        ("redirects", "error", "/v1/completions gave status 307"),
        ("hangs", "timeout", "/v1/completions gave no answer in 1 s"),
        ("trickles", "timeout", "/v1/completions gave no answer in 1 s"),
        ("drops", "error", "healthy, and /v1/completions gave Remote"),
        ("dies", "crash", "the server, at its first request, was killed .SIGKILL"),
        ("exits when asked", "crash", "at its first request, ended with exit code 7"),
    ],
)
def test_each_fault_has_its_status_its_reason_and_the_end_of_the_log(
    act: str, status: str, words: str, place: Workplace
) -> None:
    slow = act in {"does not listen", "never healthy"}
    options = options_of(act, start_timeout_s=2 if slow else 30, answer_timeout_s=1)
    with pytest.raises(ProcessFailedError, match=words) as caught, opened(options, place):
        pass
    assert caught.value.status == status
    assert f"{act} begins" in (caught.value.log_tail or "")
    assert place.survivors() == []


def test_a_server_that_dies_or_fails_under_load(serving: Server, place: Workplace) -> None:
    fault = serving.fault("every request got no answer", hangs=True)
    assert (fault.status, str(fault)) == ("timeout", "every request got no answer")
    assert serving.fault("half of them failed").status == "error"
    (process,) = psutil.Process(serving.pid).children()
    os.kill(process.pid, signal.SIGSEGV)
    assert serving.process is not None
    serving.process.wait(10)
    assert not serving.alive()
    with pytest.raises(ProcessFailedError, match="under load, was ended by SIGSEGV") as caught:
        serving.check()
    assert caught.value.status == "crash"
    assert "serves begins" in (caught.value.log_tail or "")
    words = "the server, under load .half of them failed., was ended by SIGSEGV"
    with pytest.raises(ProcessFailedError, match=words):
        raise serving.fault("half of them failed", hangs=True)


def test_another_program_that_answers_at_the_port_is_not_measured(place: Workplace) -> None:
    """The server never listens; the test itself does, at the port that it was given."""
    from tests.measures.misbehaving_server import Handler

    told = place.folder / "port"

    def serve() -> None:
        while not (told.exists() and told.read_text(encoding="ascii")):
            time.sleep(0.02)
        server = ThreadingHTTPServer(("127.0.0.1", int(told.read_text("ascii"))), Handler)
        servers.append(server)
        server.serve_forever()

    servers: list[ThreadingHTTPServer] = []
    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    options = options_of("has it done elsewhere", str(told))
    try:
        with (
            pytest.raises(ProcessFailedError, match="another program than"),
            opened(options, place),
        ):
            pass
    finally:
        for server in servers:
            server.shutdown()
            server.server_close()
        thread.join()


def test_children_that_take_no_orders_end_too(place: Workplace) -> None:
    with opened(options_of("has stubborn children"), place) as server:
        assert len(psutil.Process(server.pid).children(recursive=True)) == 3
    assert place.survivors() == []


def test_an_error_within_ends_the_server(place: Workplace) -> None:
    with pytest.raises(KeyboardInterrupt), opened(options_of("serves"), place):
        raise KeyboardInterrupt
    assert place.survivors() == []


HOLDER = """
import sys, time
from pathlib import Path
import tests.measures.test_servers as own
from tests.workplace import Workplace
place = Workplace(Path(sys.argv[1]), Path(sys.argv[2]))
with own.opened(own.options_of("has stubborn children"), place) as server:
    print(server.pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("how", ["its starter", "its keeper", "itself"])
def test_killed_at_any_place_nothing_is_left(how: str, place: Workplace) -> None:
    command = [sys.executable, "-c", HOLDER, str(place.folder), str(place.model)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        keeper = int(holder.stdout.readline())
        (server, *_) = psutil.Process(keeper).children()
        of_server = psutil.Process(keeper).children(recursive=True)
        killed = {"its starter": holder.pid, "its keeper": keeper, "itself": server.pid}[how]
        os.kill(killed, signal.SIGKILL)
        if how == "its keeper":  # what had left its session is its starter's to end, or no one's
            gone, _ = psutil.wait_procs([server], timeout=5)
            assert gone == [server]
            for process in of_server:
                if process.is_running():
                    process.kill()
        else:
            _, alive = psutil.wait_procs(of_server, timeout=5)
            assert alive == []
        holder.kill()
    assert place.survivors() == []


def test_an_address_is_asked_and_left_as_it_is(serving: Server, place: Workplace) -> None:
    options = ServerOptions(address=serving.url + "/v1", cells=("fp32",))
    with opened(options, place) as server:
        assert (server.url, server.model, server.version) == (serving.url, "any", "1.2.3")
        assert (server.pid, server.log, server.flags, server.memory()) == (None, None, (), None)
        assert "qbench knows nothing more" in server.details["held"]
        assert server.alive()
    assert serving.alive()


def test_an_address_that_does_not_answer(serving: Server, place: Workplace) -> None:
    nowhere = ServerOptions(address="http://127.0.0.1:9", cells=("fp32",))
    with pytest.raises(ProcessFailedError, match=r"127.0.0.1:9/health gave .*refused"):
        opened(nowhere, place).__enter__()
    options = ServerOptions(address=serving.url, cells=("fp32",))
    chat = open_server(options, cell_of(place), context_tokens=24, endpoint=CHAT)
    with pytest.raises(ProcessFailedError, match=r"JSON without choices.0..message"):
        chat.__enter__()


def test_a_program_that_is_not_there(place: Workplace) -> None:
    options = ServerOptions(command="no-such-engine serve {model} --port {port} --dtype {dtype}")
    cell = cell_of(place)
    words = "there is no program no-such-engine that can be run here"
    assert words in (why_not_served(options, cell.cell) or "")
    with pytest.raises(MeasurementError, match=words):
        opened(options, place).__enter__()
    item = Item(measurement="serving", slug="x", params={"server": plain_options(options)})
    assert words in (why_not_taken(cell.cell, item) or "")


def test_a_command_that_the_suite_does_not_trust_is_not_run(place: Workplace) -> None:
    cell = cell_of(place)
    cell = replace(cell, job={**cell.job, "trust_code": False})
    with pytest.raises(MeasurementError, match="runs only where the suite says `trust_code: true`"):
        open_server(options_of("serves"), cell, context_tokens=24).__enter__()


class TestCommands:
    """What a command becomes for a cell, and which cells it can have."""

    def test_placeholders_and_flags(self, place: Workplace) -> None:
        server = ServerOptions.model_validate(
            {
                "command": "sh {model} --port={port} {flags} -c {cache} -p {streams} '{{a b}}'",
                "flags": {"nf4": "--quantization bitsandbytes --dtype {dtype}"},
            }
        )
        cell = cell_of(place, "nf4").cell
        values = values_for(cell, model="/a b/c", port=7, context=10, streams=3)
        made = filled_command(server, cell, values)
        assert made == [
            "sh", "/a b/c", "--port=7", "--quantization", "bitsandbytes", "--dtype", "bfloat16",
            "-c", "30", "-p", "3", "{a b}",
        ]  # fmt: skip
        assert why_not_served(server, cell) is None
        assert "write {dtype} in it" in (why_not_served(server, cell_of(place).cell) or "")
        int8 = why_not_served(server, cell_of(place, "int8").cell)
        assert "add `flags: {int8: …}`" in (int8 or "")

    def test_flags_go_to_the_end_unless_placed(self, place: Workplace) -> None:
        server = ServerOptions.model_validate(
            {"command": "sh {port} {model} {dtype}", "flags": {"bf16": ["-x", "1 2"]}}
        )
        cell = cell_of(place, "bf16").cell
        values = values_for(cell, model="m", port=7, context=10, streams=3)
        made = filled_command(server, cell, values)
        assert made == ["sh", "7", "m", "bfloat16", "-x", "1 2"]

    def test_of_a_gguf_file_it_gets_the_file(self, place: Workplace) -> None:
        """And what makes the prompts gets a folder with its tokenizer."""
        from transformers import AutoTokenizer

        file = write_gguf(place.model, place.folder / "one.gguf", {"": "F32"})
        model = resolve_model(parse_model(str(file), base=place.folder))
        cell = cell_of(place, "stored", model=model)
        assert cell.checkpoint.folder != file
        with open_server(options_of("serves"), cell, context_tokens=24) as server:
            assert (server.model, server.flags[5]) == (str(file), str(file))
        folder = tokenizer_folder(cell.checkpoint, place.folder)
        words = "def add(first, second):"
        own, made = (AutoTokenizer.from_pretrained(one) for one in (place.model, folder))
        assert made(words, add_special_tokens=False) == own(words, add_special_tokens=False)
        assert tokenizer_folder(cell_of(place).checkpoint, place.folder) == place.model

    def test_no_shell_reads_it(self, place: Workplace) -> None:
        """What would be a redirection, a variable, a second command stays one word."""
        made = place.folder / "made"
        more = [f"; touch {made}", f"$(touch {made})", f"> {made}", "$HOME"]
        with opened(options_of("serves", *more), place) as server:
            assert list(server.flags[-4:]) == more
        assert not made.exists()


@pytest.mark.parametrize(
    ("given", "place", "expected"),
    [
        ({}, (), "exactly one of `engine`, `command` and `address`"),
        ({"engine": "transformers", "address": "http://h"}, (), "exactly one of"),
        ({"engine": "vllm"}, ("engine",), "'transformers'"),
        ({"command": "vllm serve {model} --port {prot}"}, ("command",), "placeholders {model}"),
        ({"command": "vllm serve {model} --port {}"}, ("command",), "placeholders {model}"),
        ({"command": "vllm 'serve {model} {port}"}, ("command",), "words with names in braces"),
        ({"command": "vllm {model} {port} {"}, ("command",), "words with names in braces"),
        ({"command": ""}, ("command",), "a command"),
        ({"command": "vllm serve {model}"}, ("command",), "a command with {port} in it"),
        ({"command": "vllm {model} --port {{port}}"}, ("command",), "a command with {port} in it"),
        ({"command": "vllm {model} --port {port:>5}"}, ("command",), "placeholders {model}"),
        ({"command": "vllm {model!r} --port {port}"}, ("command",), "placeholders {model}"),
        ({"command": "{model} --port {port}"}, ("command",), "begins with its program"),
        ({"command": "'' {model} --port {port}"}, ("command",), "begins with its program"),
        ({"command": "a {model} {port} x={flags}"}, ("command",), "a word of its own"),
        ({"command": "a {model} {port}", "flags": {"a": "{flags}"}}, ("flags", "a"), "a word of i"),
        ({"command": "a {model} {port}", "version": "{flags}"}, ("version",), "a word of its own"),
        ({"command": "vllm serve {port}"}, (), "the key `cells`"),
        ({"command": "vllm serve {port} {{model}}"}, (), "the key `cells`"),
        ({"command": "a {model} {port}", "flags": {"nf4": "{x}"}}, ("flags", "nf4"), "placeholde"),
        ({"command": "a {model} {port}", "arguments": "--cb-x 1"}, ("arguments",), "beside `engi"),
        ({"engine": "transformers", "arguments": "--dtype bf16"}, ("arguments",), "flags of tran"),
        ({"engine": "transformers", "arguments": "gpt2"}, ("arguments",), "flags of transformers"),
        ({"engine": "transformers", "version": "x -v"}, ("version",), "beside `command` alone"),
        ({"address": "127.0.0.1:8000", "cells": "nf4"}, ("address",), "should match pattern"),
        ({"address": "http://127.0.0.1:8000"}, (), "the key `cells`"),
        *(
            ({"address": address, "cells": "nf4"}, ("address",), "http:// or https:// with a host")
            for address in (
                "http://[::1",
                "http://:8000",
                "http://a:b",
                "http://a:99999",
                "http://a b",
                "http://user:secret@a:8000",
                "http://user:secret",
                "https://a/v1?key=secret",
                "https://a/v1#secret",
            )
        ),
        ({"engine": "transformers", "start_timeout_s": 0}, ("start_timeout_s",), "greater than 0"),
    ],
)
def test_what_is_wrong_with_a_server_is_told_at_its_key(
    given: dict[str, Any], place: tuple[str, ...], expected: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        ServerOptions.model_validate(given)
    (error,) = caught.value.errors()
    assert error["loc"] == place
    assert expected in str(error)
    assert "secret" not in str(error.get("ctx", {}).get("error"))


@pytest.mark.parametrize(
    ("given", "label", "far"),
    [
        ({"engine": "transformers"}, "transformers", None),
        ({"engine": "transformers", "continuous_batching": True}, "transformers-cb", None),
        ({"command": "/opt/x/vllm serve {model} --port {port}"}, "vllm", None),
        ({"command": "vllm {model} {port}", "name": "vllm 0.11"}, "vllm-0.11", None),
        ({"address": "http://localhost:8000", "cells": "nf4"}, "localhost-8000", None),
        ({"address": "https://gpu.lan/v1", "cells": "nf4"}, "gpu.lan-v1", "https://gpu.lan/v1"),
        ({"address": "http://127.evil.org", "cells": "*"}, "127.evil.org", "http://127.evil.org"),
    ],
)
def test_names_and_places(given: dict[str, Any], label: str, far: str | None) -> None:
    server = ServerOptions.model_validate(given)
    assert (server.label, server.far_address) == (label, far)


def test_a_record_of_an_address_says_whose_word_its_cell_is(place: Workplace) -> None:
    def said(**options: Any) -> tuple[str, ...]:
        server = ServerOptions.model_validate(options)
        params = {"server": plain_options(server)}
        item = Item(measurement="serving", slug="x", params=params)
        return caveats(cell_of(place, "nf4").cell, item)

    assert said(engine="transformers") == ()
    assert said(command="sh {model} {port}") == ()
    for options in ({"address": "http://127.0.0.1:1"}, {"command": "sh {port}"}):
        (words,) = said(**options, cells="nf4")
        assert "nf4 is what the suite says" in words


def test_a_server_may_be_for_some_cells(place: Workplace) -> None:
    server = ServerOptions.model_validate({"engine": "transformers", "cells": ["nf4", "int*"]})
    served = {name: server.serves(cell_of(place, name).cell) for name in ("fp32", "nf4", "int8")}
    assert served == {"fp32": False, "nf4": True, "int8": True}
