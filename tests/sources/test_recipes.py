"""Rows become prompts and completions as the recipes say, and what they cannot take is told."""

from __future__ import annotations

import copy
import json
import re
import resource
import signal
import threading
from typing import Any, get_args

import pytest
from pydantic import ValidationError

from qbench.core.errors import MeasurementError, TextError
from qbench.measures.generation.continuation import encode
from qbench.measures.generation.references import ScoreName
from qbench.sources.data.prompts import Prompt
from qbench.sources.data.recipes import RECIPE_NAMES, Templates, render
from qbench.sources.data.template_limits import TemplateLimitError, within_limits
from qbench.sources.data.tuning import TuningDataOptions
from tests.tiny_models import make_tiny_tokenizer

CHATML = (
    "{% for message in messages %}<|{{ message.role }}|>\n{{ message.content }}<|endoftext|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def make(recipe: Any, tokenizer: Any = None, /, **row: Any) -> tuple[str, str]:
    found = render(recipe, row, "data:1", tokenizer)
    return found.prompt, found.completion


def chat_tokenizer(template: str = CHATML) -> Any:
    tokenizer = copy.copy(make_tiny_tokenizer())
    tokenizer.chat_template = template
    return tokenizer


def say(*turns: str) -> list[dict[str, str]]:
    """Messages of the user and the assistant in turns."""
    return [
        {"role": ("user", "assistant")[at % 2], "content": content}
        for at, content in enumerate(turns)
    ]


def test_instruction_is_the_prompt_of_alpaca() -> None:
    prompt, completion = make("instruction", instruction="Add.", input="1, 2", output="3")
    assert prompt == (
        "Below is an instruction that describes a task, paired with an input that provides further"
        " context. Write a response that appropriately completes the request.\n\n"
        "### Instruction:\nAdd.\n\n### Input:\n1, 2\n\n### Response:"
    )
    assert completion == "3"


@pytest.mark.parametrize("row", [{}, {"input": ""}, {"input": None}])
def test_instruction_without_input(row: dict[str, Any]) -> None:
    prompt, completion = make("instruction", instruction="Say hi.", output=" hi\n", **row)
    assert prompt == (
        "Below is an instruction that describes a task. Write a response that appropriately"
        " completes the request.\n\n### Instruction:\nSay hi.\n\n### Response:"
    )
    assert completion == " hi\n"


def test_reverse_instruction() -> None:
    prompt, completion = make("reverse-instruction", instruction="Say hi.", output="{{ x }}")
    assert prompt == (
        "### Instruction:\nUse the Input below to create an instruction, which could have been used"
        " to generate the Input using an LLM.\n\n### Input:\n{{ x }}\n\n### Response:\n"
    )
    assert completion == "Say hi."


def test_text_has_no_prompt() -> None:
    assert make("text", text="all <of> it\n") == ("", "all <of> it\n")


def test_templates() -> None:
    recipe = Templates(
        prompt="{{ question | upper }} of {{ row['The Table'] }}?\n", completion="{{ sql }};"
    )
    row = {"question": "how many", "sql": 1, "The Table": "t"}
    assert make(recipe, **row) == ("HOW MANY of t?\n", "1;")


@pytest.mark.parametrize("empty", [None, "", " \n", float("nan")])
def test_a_missing_completion_is_empty(empty: object) -> None:
    assert make("text", text=empty) == ("", "")


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("instruction", "instruction and output, and perhaps input"),
        ("reverse-instruction", "instruction and output"),
        ("text", "needs text"),
        ("chat", "needs messages"),
    ],
)
def test_columns_found_and_needed_are_named(recipe: Any, words: str) -> None:
    with pytest.raises(TextError, match=words) as caught:
        make(recipe, question="a", answer="b")
    assert str(caught.value).startswith("data:1: found the columns question, answer; the recipe")


def test_the_nearest_column_is_named() -> None:
    recipe = Templates(prompt="{{ qestion }}", completion="{{ answer }}")
    with pytest.raises(TextError, match="asks for qestion") as caught:
        make(recipe, question="a", answer="b")
    assert "did you mean 'question'? There is question, answer" in str(caught.value)


@pytest.mark.parametrize(
    ("template", "words"),
    [
        ("{{ items }}", "writes a whole list"),
        ("{{ raw }}", "writes a whole bytes"),
        ("{{ items[0].name }}", "not there"),
        ("{{ row['other'] }}", "not there"),
        ("{{ 1 // 0 }}", "cannot be filled in"),
        ("{{ items + 1 }}", "cannot be filled in"),
        ("{{ ''.__class__.__mro__ }}", "cannot be filled in|not there"),
        ("{{ items.append(1) }}", "cannot be filled in|not there"),
        ("{{ items | nosuchfilter }}", "cannot be filled in"),
    ],
)
def test_what_a_template_cannot_do(template: str, words: str) -> None:
    with pytest.raises(TextError, match=words) as caught:
        make(Templates(prompt=template, completion="x"), items=["a"], raw=b"a")
    assert "items" in str(caught.value)


ENDLESS = [
    ("{{ 'a' * 10**12 }}", "more than 1 GiB of memory"),
    ("{{ 'a' * 10**10 }}", "more than 1 GiB of memory"),
    ("{{ many * 10**11 }}", "more than 1 GiB of memory"),
    ("{{ '%1000000000000s' % 1 }}", "more than 1 GiB of memory"),
    ("{{ '{:>1000000000000}'.format(1) }}", "more than 1 GiB of memory"),
    ("{{ 'a' | center(10**11) }}", "more than 1 GiB of memory"),
    ("{{ 'a' * 20000000 }}", "more than 10,000,000 characters"),
    (
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "longer than",
    ),
    ("{{ 7 ** (10 ** 8) }}", "longer than"),
    ("{{ range(10 ** 9) | list }}", "Range too big"),
    ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "nested too deep"),
    ("{% for i in [1] recursive %}{{ loop([1]) }}{% endfor %}", "nested too deep"),
    ("{{ " + "(" * 9999 + "1" + ")" * 9999 + " }}", "nested too deep"),
    ("{% if 1 %}" * 3000 + "{% endif %}" * 3000, "nested too deep"),
    ("{{ 10 ** 5000 }}", "4300 digits"),
]


@pytest.mark.parametrize(("template", "words"), ENDLESS)
def test_templates_without_end(template: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("qbench.sources.data.template_limits.LONGEST_S", 0.2)
    with pytest.raises(TextError, match=words):
        make(Templates(prompt=template, completion="x"), many=[1])
    with pytest.raises(TextError, match=words):
        make("chat", chat_tokenizer(f"{{% set many = [1] %}}{template}"), messages=say("a", "b"))
    with pytest.raises(MeasurementError, match=words):
        encode(chat_tokenizer(f"{{% set many = [1] %}}{template}"), Prompt("a"), chat=True)
    # The limits are gone behind it.
    assert make(Templates(prompt="{{ 'a' * 1000 }}", completion="x"))[0] == "a" * 1000


def test_limits_leave_the_process_as_it_was() -> None:
    def limits() -> list[Any]:
        handler = signal.getsignal(signal.SIGVTALRM)
        timer = signal.getitimer(signal.ITIMER_VIRTUAL)
        return [resource.getrlimit(resource.RLIMIT_DATA), handler, timer]

    before = limits()
    assert within_limits(lambda: "a") == "a"
    with pytest.raises(TemplateLimitError, match="more than 1 GiB"):
        within_limits(lambda: "a" * 2**40)
    with pytest.raises(ZeroDivisionError):
        within_limits(lambda: 1 // 0)
    assert limits() == before


def test_limits_in_another_thread() -> None:
    found: list[str] = []
    thread = threading.Thread(target=lambda: found.append(within_limits(lambda: "a")))
    thread.start()
    thread.join()
    assert found == ["a"]


def test_half_of_a_surrogate_pair_is_told() -> None:
    recipe = Templates(prompt="{{ ask }}", completion="{{ say }}")
    for row in ({"ask": "\ud800", "say": "b"}, {"ask": "a", "say": "b\udc00"}):
        with pytest.raises(TextError, match="half of a surrogate pair"):
            make(recipe, **row)
    with pytest.raises(TextError, match="message 2: holds half of a surrogate pair"):
        make("chat", messages=say("a", "\ud800"))


def test_chat_is_written_by_the_tokenizer() -> None:
    prompt, completion = make("chat", chat_tokenizer(), messages=say("hi", "yes", "go", "done"))
    assert prompt == (
        "<|user|>\nhi<|endoftext|>\n<|assistant|>\nyes<|endoftext|>\n<|user|>\ngo<|endoftext|>\n"
        "<|assistant|>\n"
    )
    assert completion == "done<|endoftext|>"


def test_chat_ends_with_the_last_answer() -> None:
    tokenizer = chat_tokenizer()
    shorter = make("chat", tokenizer, messages=say("hi", "yes"))
    assert make("chat", tokenizer, messages=say("hi", "yes", "and?")) == shorter


THINKING = (
    "{% for m in messages %}{% if m.role == 'user' %}USER {{ m.content }} ASSISTANT "
    "{% else %}{{ m.content | trim }}<END>\n{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<think>\n{% endif %}"
)
"""A turn that is asked for opens a thinking block; one that is answered has none."""


@pytest.mark.parametrize("answer", ["done", " done\n", "E", "USER", "<think>\nhm</think>done"])
def test_a_template_that_asks_otherwise_than_it_answers(answer: str) -> None:
    row = {"messages": say("hi", "E", "go", answer)}
    found = render("chat", row, "x", chat_tokenizer(THINKING))
    if answer.startswith("<think>"):
        expected = ("USER hi ASSISTANT E<END>\nUSER go ASSISTANT <think>\n", "hm</think>done<END>")
        assert found.taken == "asked"
    else:
        expected = ("USER hi ASSISTANT E<END>\nUSER go ASSISTANT ", f"{answer.strip()}<END>")
        assert found.taken == "answered"
    assert (found.prompt, found.completion) == expected


def test_a_template_that_writes_another_answer() -> None:
    upper = THINKING.replace("m.content | trim", "m.content | upper")
    found = render("chat", {"messages": say("go", "done")}, "x", chat_tokenizer(upper))
    assert (found.prompt, found.completion) == ("USER go ASSISTANT <think>\n", "done")
    assert found.taken == "bare"


def test_chat_without_an_answer_is_empty() -> None:
    assert make("chat", chat_tokenizer(), messages=say("hi"))[1] == ""
    assert make("chat", chat_tokenizer(), messages=say("hi", " "))[1] == ""


def test_what_is_asked_in_a_chat_is_the_same_for_all_tokenizers() -> None:
    row = {"messages": say("hi", "yes")}
    keys = {render("chat", row, "x", each).key for each in (None, chat_tokenizer())}
    assert len(keys) == 1
    assert keys != {render("chat", {"messages": say("ho", "yes")}, "x").key}


@pytest.mark.parametrize(
    ("messages", "words"),
    [
        (None, "found nothing under messages"),
        ("hi", "found a value of type str"),
        ([{"role": "user"}], "message 1 has no text"),
        ([*say("hi"), {"role": "assistant", "content": ["x"]}], "message 2 has no text"),
    ],
)
def test_messages_that_are_none(messages: object, words: str) -> None:
    with pytest.raises(TextError, match=words):
        make("chat", messages=messages)


def test_a_tokenizer_without_a_chat_template() -> None:
    with pytest.raises(TextError, match="tokenizer has none"):
        make("chat", make_tiny_tokenizer(), messages=say("hi", "yes"))


def test_a_chat_template_that_refuses() -> None:
    tokenizer = chat_tokenizer("{{ raise_exception('no system') }}")
    with pytest.raises(TextError, match="no system"):
        make("chat", tokenizer, messages=say("hi", "yes"))


@pytest.mark.parametrize(
    ("recipe", "words"),
    [
        ("instructions", "one of instruction, reverse-instruction, chat, text, or a mapping"),
        (3, "one of instruction"),
        ({"prompt": "x"}, "completion"),
        ({"prompt": "x", "completion": ""}, "completion"),
        ({"prompt": "x", "completion": "y", "score": []}, "score"),
        ({"prompt": "{{ x", "completion": "y"}, "valid Jinja template under prompt .line 1"),
        ({"prompt": "x", "completion": "{% if %}"}, "valid Jinja template under completion"),
        ({"prompt": "x", "completion": "{{ x | foo }}"}, "No filter named 'foo'"),
        ({"prompt": "{% if 1 %}" * 3000, "completion": "x"}, "nested too deep"),
    ],
)
def test_wrong_recipes_are_told_in_words(recipe: object, words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        TuningDataOptions.model_validate({"recipe": recipe})
    [detail] = caught.value.errors()
    assert detail["loc"] == ("recipe",)
    assert re.search(words, str(detail["ctx"]["error"]))


@pytest.mark.parametrize("recipe", [*RECIPE_NAMES, {"prompt": "{{ a }}", "completion": "{{ b }}"}])
def test_recipes_round_trip_in_strict_json(recipe: object) -> None:
    options = TuningDataOptions.model_validate_json(json.dumps({"recipe": recipe}), strict=True)
    assert TuningDataOptions.model_validate_json(options.model_dump_json(), strict=True) == options
    assert TuningDataOptions.model_validate(options.model_dump()) == options


def test_the_default_scores_are_those_of_generation() -> None:
    assert Templates(prompt="", completion="x").scores == get_args(ScoreName)
