"""The side of GitHub that a comment is sent to: comments of pull requests, over HTTP."""

from __future__ import annotations

import json
import re
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

from tests.loopback import Handler, served

if TYPE_CHECKING:
    from collections.abc import Iterator

LARGEST = 65_536
_LIST = re.compile(r"/repos/([^/]+/[^/]+)/issues/(\d+)/comments")
_ONE = re.compile(r"/repos/([^/]+/[^/]+)/issues/comments/(\d+)")


@dataclass
class Comments:
    """The comments of one pull request."""

    repository: str
    number: int
    bodies: dict[int, str] = field(default_factory=dict)
    """By the comment's own number."""
    strangers: set[int] = field(default_factory=set)
    """Numbers of those that are of people who cannot write to the repository; else of a bot."""
    asked: list[str] = field(default_factory=list)
    """Method and path of each request."""
    status: int | None = None
    """What every request is answered with instead."""
    location: str = ""
    """Where one is sent to, with such a status."""
    url: str = ""

    def answer(self, method: str, path: str, body: dict[str, Any], token: str) -> tuple[int, Any]:
        """As https://docs.github.com/en/rest/issues/comments has it."""
        if token != "Bearer token-of-the-job":
            return 401, {"message": "Bad credentials"}
        if self.status is not None:
            return self.status, {"message": "as told"}
        if method != "GET" and not 0 < len(body["body"]) <= LARGEST:
            return 422, {"message": "Validation Failed"}
        address = urlsplit(path)
        listed, one = _LIST.fullmatch(address.path), _ONE.fullmatch(address.path)
        answer: tuple[int, Any] = 404, {"message": "Not Found"}
        if listed and listed.groups() == self.place and method == "POST":
            answer = 201, self._write(len(self.bodies) + 1, body["body"])
        elif listed and listed.groups() == self.place and method == "GET":
            answer = (
                200,
                self._page(**{key: int(one) for key, (one,) in parse_qs(address.query).items()}),
            )
        elif one and int(one[2]) in self.bodies and method == "PATCH":
            answer = 200, self._write(int(one[2]), body["body"])
        return answer

    def _page(self, per_page: int, page: int) -> list[dict[str, Any]]:
        assert per_page <= 100
        found = [
            {
                "id": one,
                "body": text,
                "user": {"type": "User" if one in self.strangers else "Bot"},
                "author_association": "NONE",
            }
            for one, text in self.bodies.items()
        ]
        return found[per_page * (page - 1) : per_page * page]

    @property
    def place(self) -> tuple[str, str]:
        return self.repository, str(self.number)

    def _write(self, number: int, text: str) -> dict[str, Any]:
        self.bodies[number] = text
        return {"id": number, "body": text, "html_url": f"{self.url}/comment/{number}"}


@contextmanager
def serving(comments: Comments) -> Iterator[Comments]:
    """Answers while it is needed, in threads of this process, on a free port of loopback."""

    class Api(Handler):
        def answer(self) -> None:
            sent = self.body()
            comments.asked.append(f"{self.command} {self.path}")
            token = self.headers.get("Authorization", "")
            body = json.loads(sent) if sent else {}
            status, answer = comments.answer(self.command, self.path, body, token)
            location = {"Location": comments.location} if comments.location else {}
            self.reply(status, json.dumps(answer).encode(), location)

    with served(Api) as comments.url:
        yield comments
