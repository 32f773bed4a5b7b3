"""Tasks put to servers: scored as in this process, and failing for their true reason."""

from __future__ import annotations

import json
import shutil
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import ValidationError

from qbench.core.errors import MeasurementError, ProcessFailedError, TextError
from qbench.measures.served_tasks.served_tasks import SERVED, ServedTasksOptions
from qbench.measures.tasks.options import TasksOptions
from qbench.measures.tasks.tasks import TASKS
from qbench.sources.bundled import bundled_models
from tests.loopback import Handler, served
from tests.measures.test_servers import cell_of
from tests.precisions.tiny_cells import load_fresh
from tests.workplace import MARK, Workplace

if TYPE_CHECKING:
    from collections.abc import Iterator

    from qbench.core.spec import Item
    from qbench.measures.loaded import LoadedModel, Outcome

LIMIT = 8
PROGRAM = Path(__file__).with_name("misbehaving_server.py")
TINY = bundled_models()["tiny-mistral"]
OWN = {"engine": "transformers"}
KEY = "sk-of-a-test"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workplace:
    monkeypatch.setenv(MARK, str(tmp_path))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "there is no hub"))
    return Workplace(tmp_path, TINY)


def item(place: Workplace, **options: Any) -> Item:
    asked = {"servers": [OWN], "limit": LIMIT, **options}
    (made,) = SERVED.items(
        ServedTasksOptions.model_validate(asked), cell_of(place).resolved, place.folder
    )
    return made


def take(place: Workplace, precision: str = "fp32", **options: Any) -> Outcome:
    return SERVED.measure_apart(cell_of(place, precision), item(place, **options))


def values(outcome: Outcome) -> dict[str, float | None]:
    return {one.name: one.value for one in outcome.metrics}


# ---------------------------------------------------------------- as in this process


def same_as_here(served: Outcome, loaded: LoadedModel, place: Workplace) -> Outcome:
    """What the task gives in this process; the served one has its scores, item by item."""
    options = TasksOptions(names=("stdlib-completion",), limit=LIMIT, batch=1)
    (own,) = TASKS.items(options, loaded.resolved, place.folder)
    alone = TASKS.measure(loaded, own)
    assert served.series == alone.series
    assert 0 < sum(served.series["item_exact_match"]) < LIMIT
    assert served.details["answers"] == alone.details["answers"]
    assert served.details["samples_hash"] == alone.details["samples_hash"]
    return alone


@pytest.mark.parametrize(
    ("precision", "server"),
    [
        ("fp32", OWN),
        ("nf4", OWN),
        ("fp32", OWN | {"continuous_batching": True}),
    ],
)
@pytest.mark.slow
def test_a_greedy_task_scores_as_it_does_in_this_process(
    precision: str, server: dict[str, Any], place: Workplace
) -> None:
    at_once = 2 if "continuous_batching" in server else 1
    served = take(place, precision, servers=[server], concurrency=at_once)
    alone = same_as_here(served, load_fresh(TINY, precision), place)
    assert values(served) == {f"served_{name}": value for name, value in values(alone).items()}
    assert served.details["server"]["version"].startswith("transformers 5.")
    assert served.details["loaded"]["faults"] == []
    assert place.survivors() == []


def test_a_greedy_task_at_an_address_scores_as_it_does_in_this_process(place: Workplace) -> None:
    import torch

    loaded = load_fresh(TINY, "fp32")

    def answer(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        ids = torch.tensor([loaded.tokenizer(body["prompt"])["input_ids"]])
        out = loaded.model.generate(ids, max_new_tokens=body["max_tokens"], do_sample=False)
        text = loaded.tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)
        for stop in body.get("stop", ()):
            text = text.partition(stop)[0]
        status, told = of_text(text)(body)
        return status, told

    with address(answer) as (url, _):
        served = take(place, servers=[{"address": url, "cells": "fp32"}])
    same_as_here(served, loaded, place)


@pytest.mark.slow
def test_sampled_answers_come_again_with_their_seed(place: Workplace) -> None:
    asked: dict[str, Any] = {"gen_kwargs": {"do_sample": True, "temperature": 1.5}, "seed": 5}
    first, again = (take(place, **asked, repeats=2) for _ in range(2))
    assert first.series == again.series
    told = first.details["repeats"]
    assert [one["seed"] for one in told] == [5, 6]
    greedy = take(place)
    assert first.series != greedy.series


# ---------------------------------------------------------------- what is refused


def test_tasks_that_are_scored_by_likelihoods(place: Workplace) -> None:
    with pytest.raises(TextError, match=r"names: stdlib-choice: scored by .*`tasks`"):
        item(place, names=["stdlib-choice", "stdlib-completion"])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"endpoint": "chat"}, "beside `chat_template: true`"),
        ({"think_end_token": 7}, "a text such as </think>"),
        ({"servers": []}, "an empty list"),
        ({"servers": [OWN | {"api_key": {"env": "KEY"}}]}, "`api_key` beside `address` alone"),
        ({"servers": [{"address": "http://h", "cells": "x", "api_key": "sk"}]}, "api_key"),
        ({"servers": [{"address": "http://h", "cells": "x", "api_key": {"env": "a b"}}]}, "env"),
    ],
)
def test_values_that_are_none(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        ServedTasksOptions.model_validate(options)


def test_two_servers_of_one_name(place: Workplace) -> None:
    wrong = SERVED.misfit(
        ServedTasksOptions.model_validate({"servers": [OWN, OWN]}), cell_of(place).resolved
    )
    assert wrong is not None
    assert "two servers that are called 'transformers'" in str(wrong)


# ---------------------------------------------------------------- an address


class Asked:
    """What an address was asked, and with which key."""

    def __init__(self) -> None:
        self.bodies: list[dict[str, Any]] = []
        self.keys: set[str | None] = set()


@contextmanager
def address(answer: Any) -> Iterator[tuple[str, Asked]]:
    """Answers each request by a function of its body, with the status that it says."""
    asked = Asked()

    class Address(Handler):
        def answer(self) -> None:
            asked.keys.add(self.headers.get("Authorization"))
            if self.command == "GET":
                self.send(200, {"data": [{"id": "theirs"}]})
                return
            body = json.loads(self.body())
            asked.bodies.append(body)
            self.send(*answer(body))

        def send(self, status: int, told: Any) -> None:
            self.reply(status, (told if isinstance(told, str) else json.dumps(told)).encode())

    with served(Address) as url:
        yield url, asked


def of_text(text: str) -> Any:
    return lambda _: (200, {"choices": [{"index": 0, "text": text, "message": {"content": text}}]})


def then(told: Any) -> Any:
    """A text to the first request, of one token; this to those of the task."""
    return lambda body: of_text("x")(body) if "stop" not in body else (200, told)


def at(url: str) -> dict[str, Any]:
    return {"address": url, "cells": "fp32", "name": "theirs", "api_key": {"env": "THEIR_KEY"}}


def test_an_address_gets_the_key_that_a_variable_holds_and_no_record_does(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-of-another")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    names = [json.loads(line)["name"] for line in _lines()]
    name = names[0]
    with address(of_text(f" {name} = 1\nmore")) as (url, asked):
        monkeypatch.delenv("THEIR_KEY", raising=False)
        with pytest.raises(MeasurementError, match="variable THEIR_KEY is not set"):
            take(place, servers=[at(url)])
        assert not asked.bodies
        monkeypatch.setenv("THEIR_KEY", KEY)
        outcome = take(place, servers=[at(url)], concurrency=3)
    assert asked.keys == {f"Bearer {KEY}"}
    assert KEY not in json.dumps(outcome.details)
    assert KEY not in item(place, servers=[at(url)]).model_dump_json()
    assert len(asked.bodies) == 1 + LIMIT
    body = asked.bodies[-1]
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("theirs", 0.0, 8)
    assert body["stop"] == ["\n", "</s>"]
    assert outcome.series["item_exact_match"] == [float(one == name) for one in names]
    assert outcome.details["held"].startswith("what the suite says")


def test_a_chat_gets_messages_and_whether_to_think(place: Workplace, tmp_path: Path) -> None:
    own = place.write("own.yaml", _task(tmp_path))
    asked: dict[str, Any] = {
        "names": "own",
        "include": str(own.parent),
        "chat_template": True,
        "endpoint": "chat",
        "system_prompt": "Be brief.",
        "thinking": True,
        "think_end_token": "</think>",
    }
    name = json.loads(_lines()[0])["name"]
    with address(of_text(f"hm\n</think> {name}")) as (url, heard):
        outcome = take(place, servers=[{"address": url, "cells": "fp32"}], **asked)
    body = heard.bodies[-1]
    assert [one["role"] for one in body["messages"]] == ["system", "user"]
    assert body["chat_template_kwargs"] == {"enable_thinking": True}
    assert heard.keys == {None}
    assert outcome.details["thoughts"] == {"answers": LIMIT, "unended": 0, "stopped": 0}
    assert sum(outcome.series["item_exact_match"]) > 0
    with address(of_text("hm")) as (url, _):
        outcome = take(place, servers=[{"address": url, "cells": "fp32"}], **asked)
    assert f"{LIMIT} of {LIMIT} answers to own hold no </think>" in outcome.warnings[0]


def test_a_template_that_is_put_on_here_begins_with_no_second_first_token(
    place: Workplace, tmp_path: Path
) -> None:
    model = tmp_path / "talker"
    shutil.copytree(TINY, model)
    (model / "chat_template.jinja").write_text(
        "{{ bos_token }}{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
        "{% if enable_thinking %}[thinks]{% endif %}"
    )
    talker = Workplace(place.folder, model)
    own = place.write("own.yaml", _task(tmp_path))
    asked: dict[str, Any] = {
        "names": "own",
        "include": str(own.parent),
        "chat_template": True,
        "thinking": True,
        "think_end_token": "</think>",
    }
    with address(of_text("hm</think> x")) as (url, heard):
        take(talker, servers=[{"address": url, "cells": "fp32"}], **asked)
    first = json.loads(_lines()[0])["context"]
    prompts = [body["prompt"] for body in heard.bodies]
    assert f"[user]{first}[thinks]" in prompts
    assert not [prompt for prompt in prompts if "<s>" in prompt]


def _lines() -> list[str]:
    from qbench.measures.tasks.index import BUNDLED_TASKS_FOLDER

    return (BUNDLED_TASKS_FOLDER / "stdlib-completion.jsonl").read_text().splitlines()[:LIMIT]


def _task(folder: Path) -> str:
    data = folder / "rows.jsonl"
    data.write_text("".join(f"{line}\n" for line in _lines()))
    return f"""\
task: own
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: context
doc_to_target: name
generation_kwargs: {{until: ["\\n\\n"], max_gen_toks: 24}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
"""


# ---------------------------------------------------------------- what goes wrong


def test_what_a_server_says_is_the_reason_and_hides_the_key(
    place: Workplace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("THEIR_KEY", KEY)

    def refuse(body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        if "stop" not in body:  # the first request, of one token
            return of_text("x")(body)
        return 429, {"error": f"the key {KEY} has no credit left"}

    with address(refuse) as (url, _), pytest.raises(ProcessFailedError) as caught:
        take(place, servers=[at(url)])
    assert "/v1/completions gave status 429" in str(caught.value)
    assert "has no credit left" in str(caught.value)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize(
    "choices", [[], [{"index": 0}], [{"text": None}], [{"text": {}}], [{"text": 3}]]
)
def test_an_answer_without_a_text_is_no_empty_answer(
    place: Workplace, choices: list[Any], concurrency: int
) -> None:
    with (
        address(then({"choices": choices})) as (url, _),
        pytest.raises(ProcessFailedError, match="without choices"),
    ):
        take(place, servers=[{"address": url, "cells": "fp32"}], concurrency=concurrency)


@pytest.mark.parametrize("concurrency", [1, 2])
@pytest.mark.parametrize(
    ("message", "words"),
    [
        ("hello", r"without choices\[0\].message"),
        ({"content": None}, "message without a content, finish_reason length"),
        ({}, "message without a content"),
        ({"content": [{"type": "text"}]}, "message without a content"),
        ({"content": None, "reasoning": "hm"}, "a thought alone: name its end, `think_end_token`"),
    ],
)
def test_a_chat_without_a_text_is_no_empty_answer(
    place: Workplace, message: Any, words: str, concurrency: int
) -> None:
    told = {"choices": [{"index": 0, "message": message, "finish_reason": "length"}]}
    asked: dict[str, Any] = {"chat_template": True, "endpoint": "chat"}
    with (
        address(then(told)) as (url, _),
        pytest.raises(ProcessFailedError, match=words),
    ):
        take(
            place,
            servers=[{"address": url, "cells": "fp32"}],
            concurrency=concurrency,
            **asked,
        )


def test_answers_are_read_without_their_index(place: Workplace) -> None:
    names = [json.loads(line)["name"] for line in _lines()]
    text = f" {names[0]}"
    told = {"choices": [{"text": text, "message": {"content": text}}]}
    for more in ({}, {"endpoint": "chat", "chat_template": True}):
        with address(then(told)) as (url, _):
            outcome = take(place, servers=[{"address": url, "cells": "fp32"}], **more)
        assert outcome.series["item_exact_match"] == [float(one == names[0]) for one in names]


def test_a_thought_that_the_server_parts_from_its_answer(place: Workplace, tmp_path: Path) -> None:
    own = place.write("own.yaml", _task(tmp_path))
    asked: dict[str, Any] = {
        "names": "own",
        "include": str(own.parent),
        "chat_template": True,
        "endpoint": "chat",
        "thinking": True,
        "think_end_token": "</think>",
    }
    names = [json.loads(line)["name"] for line in _lines()]
    for field in ("reasoning", "reasoning_content"):
        message = {field: "hm", "content": names[0]}
        with address(then({"choices": [{"message": message}]})) as (url, _):
            outcome = take(place, servers=[{"address": url, "cells": "fp32"}], **asked)
        assert outcome.series["item_exact_match"] == [float(one == names[0]) for one in names]
        assert outcome.details["thoughts"] == {"answers": LIMIT, "unended": 0, "stopped": 0}
        assert not outcome.warnings
    unended = {"reasoning": names[0], "content": None}
    with address(then({"choices": [{"message": unended}]})) as (url, _):
        outcome = take(place, servers=[{"address": url, "cells": "fp32"}], **asked)
    assert outcome.details["thoughts"]["unended"] == LIMIT
    assert f"{LIMIT} of {LIMIT} answers to own hold no </think>" in outcome.warnings[0]


@pytest.mark.parametrize(
    "told",
    [
        {"error": {"message": f"{KEY} is none"}},
        {"choices": [{"text": None, "by": f"Bearer {KEY}"}]},
        f"<html>{KEY}</html>",
    ],
)
def test_an_answer_that_repeats_the_key_is_told_without_it(
    place: Workplace, monkeypatch: pytest.MonkeyPatch, told: Any
) -> None:
    monkeypatch.setenv("THEIR_KEY", KEY)
    with address(then(told)) as (url, _), pytest.raises(ProcessFailedError) as caught:
        take(place, servers=[at(url)])
    assert "***" in str(caught.value)
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("key", [f"{KEY}\nmore", f"{KEY} more", f"{KEY}\u201d"])
def test_a_key_that_no_header_can_carry_is_refused_and_not_told(
    place: Workplace, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("THEIR_KEY", key)
    with (
        address(of_text("x")) as (url, asked),
        pytest.raises(MeasurementError, match="variable THEIR_KEY holds a blank") as caught,
    ):
        take(place, servers=[at(url)])
    assert KEY not in str(caught.value)
    assert not asked.bodies


@pytest.mark.parametrize(
    ("act", "status", "words"),
    [
        ("dies under load", "crash", "under load"),
        ("refuses under load", "error", "status 422"),
        ("hangs under load", "timeout", "no answer in 4 s"),
    ],
)
def test_a_server_that_fails(place: Workplace, act: str, status: str, words: str) -> None:
    timeout = 4 if status == "timeout" else 60  # a busy machine is no server that hangs
    command = [sys.executable, str(PROGRAM), act, "--port", "{port}", "{model}", "{dtype}"]
    with pytest.raises(ProcessFailedError) as caught:
        take(place, servers=[{"command": command, "name": "bad"}], timeout=timeout)
    assert caught.value.status == status
    assert words in str(caught.value)
    assert place.survivors() == []
