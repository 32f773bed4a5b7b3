"""The side of a model hub that files are read from and sent to: a few of its endpoints, over HTTP.

As https://huggingface.co/docs/hub/api and the client's own source have them.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.loopback import Handler, served

if TYPE_CHECKING:
    from collections.abc import Iterator

TOKEN = "hf_of_a_test"
COMMIT = "0123456789abcdef0123456789abcdef01234567"
_API = re.compile(r"/api/(models|datasets)/([\w.-]+/[\w.-]+)(?:/(preupload|commit|revision)/(.+))?")
_FILE = re.compile(r"/(datasets/)?([\w.-]+/[\w.-]+)/resolve/([^/]+)/(.+)")


@dataclass
class Refusal:
    """What a request is answered with instead."""

    status: int
    code: str = ""
    """The hub's own name of what is wrong, in a header."""


@dataclass
class Hub:
    """Repositories with their files, and what was asked."""

    files: dict[str, dict[str, str]] = field(default_factory=dict)
    """By repository, datasets as `datasets/OWNER/NAME`."""
    asked: list[str] = field(default_factory=list)
    """Method and path of each request."""
    agents: list[str] = field(default_factory=list)
    tokens: set[str] = field(default_factory=set)
    commits: list[dict[str, Any]] = field(default_factory=list)
    """What was committed: repository, whether as a pull request, and the lines that were sent."""
    refuses: dict[str, Refusal] = field(default_factory=dict)
    """By the beginning of `METHOD /path`."""
    url: str = ""

    @property
    def sent(self) -> list[str]:
        """Requests that give the hub something."""
        return [one for one in self.asked if not one.startswith(("GET", "HEAD"))]

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and contents."""
        for begins, refusal in self.refuses.items():
            if f"{method} {path}".startswith(begins):
                return refusal.status, {"X-Error-Code": refusal.code}, b'{"error": "as told"}'
        address = urlsplit(path)
        file, api = _FILE.fullmatch(address.path), _API.fullmatch(address.path)
        if address.path == "/api/validate-yaml":
            return 200, {}, b"{}"
        if file is not None:
            return self._file(f"{file[1] or ''}{file[2]}", unquote(file[4]))
        if api is not None:
            name = api[2] if api[1] == "models" else f"datasets/{api[2]}"
            if name not in self.files:
                return 404, {"X-Error-Code": "RepoNotFound"}, b"{}"
            found = self._api(name, api[3], parse_qs(address.query), body)
            return 200, {}, json.dumps(found).encode()
        return 404, {}, b"{}"

    def _file(self, repository: str, path: str) -> tuple[int, dict[str, str], bytes]:
        if repository not in self.files:
            return 404, {"X-Error-Code": "RepoNotFound"}, b""
        text = self.files[repository].get(path)
        if text is None:
            return 404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT}, b""
        contents = text.encode()
        etag = hashlib.sha1(contents).hexdigest()
        return 200, {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"'}, contents

    def _api(
        self, repository: str, action: str | None, query: dict[str, list[str]], body: bytes
    ) -> dict[str, Any]:
        if action == "preupload":
            listed = json.loads(body)["files"]
            modes = {"uploadMode": "regular", "shouldIgnore": False}
            return {"files": [{"path": one["path"], **modes} for one in listed]}
        if action == "commit":
            lines = [json.loads(line) for line in body.splitlines()]
            self.commits.append(
                {"repository": repository, "pull": "create_pr" in query, "lines": lines}
            )
            for line in lines:
                if line["key"] == "file":
                    value = line["value"]
                    text = base64.b64decode(value["content"]).decode()
                    self.files[repository][value["path"]] = text
            return {
                "commitUrl": f"{self.url}/{repository}/commit/{COMMIT}",
                "commitOid": COMMIT,
                "pullRequestUrl": f"{self.url}/{repository}/discussions/1",
            }
        siblings = [{"rfilename": name} for name in self.files[repository]]
        return {"id": repository, "sha": COMMIT, "siblings": siblings}


@contextmanager
def serving(hub: Hub) -> Iterator[Hub]:
    """Answers while it is needed, in threads of this process, on a free port of loopback."""

    class Api(Handler):
        def answer(self) -> None:
            body = self.body()
            hub.asked.append(f"{self.command} {self.path}")
            hub.agents.append(self.headers.get("User-Agent", ""))
            hub.tokens.add(self.headers.get("Authorization", ""))
            status, headers, contents = hub.answer(self.command, self.path, body)
            self.reply(status, contents, headers)

    with served(Api) as hub.url:
        yield hub
