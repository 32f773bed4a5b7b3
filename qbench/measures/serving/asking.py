"""Asks a server over HTTP: whether it is healthy, what it serves, and for one answer.

Nothing here goes through a proxy or follows a redirection: what is asked is the address alone.
"""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.request
from contextlib import suppress
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from qbench.core.names import shortened
from qbench.measures.serving.api_key import without_key

if TYPE_CHECKING:
    from collections.abc import Mapping

ANSWER_S = 10.0
"""For what is answered without the model."""
_MOST_BYTES = 2**20
_VERSIONS = (("/version", "version"), ("/props", "build_info"), ("/get_server_info", "version"))
"""Where engines tell their version: vLLM, llama.cpp, SGLang."""
COMPLETIONS = "/v1/completions"
CHAT = "/v1/chat/completions"
MODELS = "/v1/models"


class AnswerError(Exception):
    """An answer that does not come, or is none; the text says which."""

    def __init__(self, words: str, *, hangs: bool = False, broken: bool = False) -> None:
        super().__init__(words)
        self.hangs = hangs
        """Whether it was waited for too long."""
        self.broken = broken
        """Whether the server says that the fault is its own: its log may tell it."""


class _NoRedirection(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any, **__: Any) -> None:
        """Follows none."""


_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}), _NoRedirection())


_NO_HEADERS: Mapping[str, str] = {}


def ask(
    url: str,
    timeout_s: float,
    body: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] = _NO_HEADERS,
) -> bytes:
    """What an address answers to a GET, or to a POST of a body as JSON; raises `AnswerError`."""
    given = {"Accept": "application/json", **headers}
    request = urllib.request.Request(url, headers=given)  # noqa: S310
    if body is not None:
        request.data = json.dumps(body).encode()
        request.add_header("Content-Type", "application/json")
    deadline = time.monotonic() + timeout_s
    late = f"no answer in {timeout_s:g} s"
    try:
        with _OPENER.open(request, timeout=timeout_s) as answer:
            return _read(answer, deadline, late)
    except urllib.error.HTTPError as error:
        said = ""
        with error, suppress(OSError, http.client.HTTPException, AnswerError):
            said = _read(error, deadline, late).decode(errors="replace")
        said = without_key(said or str(error.reason), headers)
        words = f"status {error.code}: {shortened(said, 300)}"
        raise AnswerError(words, broken=error.code >= HTTPStatus.INTERNAL_SERVER_ERROR) from error
    except TimeoutError as error:
        raise AnswerError(late, hangs=True) from error
    except urllib.error.URLError as error:
        if isinstance(error.reason, TimeoutError):
            raise AnswerError(late, hangs=True) from error
        said = without_key(str(error.reason), headers)
        raise AnswerError(shortened(said, 300)) from error
    except (OSError, http.client.HTTPException, ValueError) as error:
        words = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise AnswerError(shortened(without_key(words, headers), 300)) from error


def _read(answer: Any, deadline: float, late: str) -> bytes:
    """The body, up to a bound; raises `AnswerError` where it trickles beyond the deadline."""
    parts: list[bytes] = []
    while (part := answer.read1(65536)) and sum(map(len, parts)) < _MOST_BYTES:
        parts.append(part)
        if time.monotonic() > deadline:
            raise AnswerError(late, hangs=True)
    return b"".join(parts)


def ask_json(
    url: str,
    timeout_s: float,
    body: Mapping[str, Any] | None = None,
    headers: Mapping[str, str] = _NO_HEADERS,
) -> Any:
    """The same as the JSON that is answered; raises `AnswerError` where it is none."""
    answer = ask(url, timeout_s, body, headers)
    try:
        return json.loads(answer)
    except (ValueError, RecursionError) as error:
        text = shortened(without_key(answer.decode(errors="replace"), headers), 200)
        raise AnswerError(f"an answer that is not JSON: '{text}'") from error


def ask_for_a_token(
    url: str,
    model: str,
    endpoint: str,
    timeout_s: float,
    headers: Mapping[str, str] = _NO_HEADERS,
) -> None:
    """Asks for one token as the load will; raises `AnswerError` for all but a completion."""
    body: dict[str, Any] = {"model": model, "max_tokens": 1, "stream": False}
    if endpoint == CHAT:
        body["messages"] = [{"role": "user", "content": "Hello"}]
    else:
        body["prompt"] = "Hello"
    check_completion(ask_json(url + endpoint, timeout_s, body, headers), endpoint, headers)


def check_completion(
    answer: Any, endpoint: str, headers: Mapping[str, str] = _NO_HEADERS
) -> dict[str, Any]:
    """The first choice; raises `AnswerError` for what is no answer, as OpenAI's API has it."""
    choices = answer.get("choices") if isinstance(answer, dict) else None
    first = choices[0] if isinstance(choices, list) and choices else None
    part, kind = {CHAT: ("message", dict)}.get(endpoint, ("text", str))
    if not isinstance(first, dict) or not isinstance(first.get(part), kind):
        text = shortened(without_key(json.dumps(answer), headers), 200)
        raise AnswerError(f"JSON without choices[0].{part}, as OpenAI's API has it: {text}")
    return first


def first_model(url: str, headers: Mapping[str, str] = _NO_HEADERS) -> str:
    """The first of the models that a server lists; raises `AnswerError`."""
    answer = ask_json(url + MODELS, ANSWER_S, headers=headers)
    listed = answer.get("data") if isinstance(answer, dict) else None
    names: list[str] = [
        one["id"]
        for one in listed or ()
        if isinstance(one, dict) and isinstance(one.get("id"), str)
    ]
    if not names:
        raise AnswerError("a list of models without one")
    return names[0]


def told_version(url: str, headers: Mapping[str, str] = _NO_HEADERS) -> str | None:
    """The engine's version where the server tells it; None where it does not."""
    for path, key in _VERSIONS:
        with suppress(AnswerError):
            answer = ask_json(url + path, ANSWER_S, headers=headers)
            told = answer.get(key) if isinstance(answer, dict) else None
            if isinstance(told, str) and told.strip():
                return shortened(without_key(told.strip(), headers), 100)
    return None
