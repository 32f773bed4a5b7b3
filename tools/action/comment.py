"""The step of the composite action that comments on the pull request: `comment.py`.

There is one comment for each KEY. It begins with a mark that nobody sees, by which the next push
finds it, and writes it anew. Needs nothing but Python.

The verdict is that of the job: whatever is in the way of a comment is told, and fails nothing.
"""

from __future__ import annotations

import json
import os
import sys
from http import HTTPStatus
from http.client import HTTPException
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.error import HTTPError
from urllib.parse import quote
from urllib.request import HTTPRedirectHandler, Request, build_opener

if TYPE_CHECKING:
    from http.client import HTTPResponse

PARTICIPANTS = frozenset({"OWNER", "MEMBER", "COLLABORATOR"})
"""Whose comments are written anew, beside those of bots: a stranger could change the text later."""
PAGE = 100
"""Comments that GitHub tells of in one answer, at most."""
_SECONDS = 30.0


class _Stays(HTTPRedirectHandler):
    """Follows no redirection, which would hand the token on to another host."""

    def redirect_request(self, *_: Any, **__: Any) -> None:
        return None


def main() -> None:
    """Writes the comment, or says why there is none."""
    event = json.loads(Path(os.environ["GITHUB_EVENT_PATH"]).read_text(encoding="utf-8"))
    request = event.get("pull_request")
    repository = os.environ["GITHUB_REPOSITORY"]
    if not request:
        _say("notice", "No comment: this is no run for a pull request.")
    elif (request["head"]["repo"] or {}).get("full_name") != repository:
        _say("notice", "No comment: the token of a pull request from a fork may only read.")
    else:
        try:
            _write(f"repos/{repository}", request["number"], request["head"]["sha"])
        except HTTPError as error:
            answered = f"{error.url} answered {error.code} {error.reason}"
            _say("warning", f"No comment: {answered}.{_why(error)}")
        except (OSError, HTTPException, ValueError) as error:
            _say("warning", f"No comment: {os.environ['GITHUB_API_URL']}: {error}")
        except (LookupError, TypeError) as error:
            answered = f"{os.environ['GITHUB_API_URL']} answered what is no comment"
            _say("warning", f"No comment: {answered} ({error!r}).")


def _write(repository: str, number: int, commit: str) -> None:
    mark = f"<!-- qbench action: {quote(os.environ['KEY'], safe='')} -->"
    body = {"body": _body(mark, commit)}
    found = _earlier(f"{repository}/issues/{number}/comments", mark)
    if found is None:
        answer = _call("POST", f"{repository}/issues/{number}/comments", body)
    else:
        answer = _call("PATCH", f"{repository}/issues/comments/{found}", body)
    sys.stdout.write(f"{'wrote' if found is None else 'updated'} {answer['html_url']}\n")


def _body(mark: str, commit: str) -> str:
    """The mark, what the gate said, and where the rest of it is.

    GitHub takes 65,536 characters; the gate's format for a comment leaves room for the links.
    """
    path = os.environ["COMMENT"]
    told = "### qbench\n\nThe gate came to no verdict: see the log.\n"
    if path:
        told = Path(path).read_text(encoding="utf-8")
    if os.environ["MEASURED"] != "success":
        told += "\n**The suite was not measured to its end**: see the log.\n"
    server, repository = os.environ["GITHUB_SERVER_URL"], os.environ["GITHUB_REPOSITORY"]
    run = f"{server}/{repository}/actions/runs/{os.environ['GITHUB_RUN_ID']}"
    links = [f"[log]({run})"]
    if artifact := os.environ["ARTIFACT_URL"]:
        links.insert(0, f"[the page, with records and reports]({artifact})")
    return f"{mark}\n{told}\n{' · '.join(links)} · commit {commit}\n"


def _earlier(comments: str, mark: str) -> int | None:
    """The number of the comment that begins with the mark."""
    page = 1
    while True:
        found = _call("GET", f"{comments}?per_page={PAGE}&page={page}")
        if not isinstance(found, list):
            raise ValueError(f"{comments} answered what is no list of comments.")  # noqa: TRY004 - no misuse
        for one in found:
            if (one["body"] or "").startswith(mark) and _is_trusted(one):
                return int(one["id"])
        if len(found) < PAGE:
            return None
        page += 1


def _is_trusted(comment: dict[str, Any]) -> bool:
    """Whether no stranger wrote it, with a mark that everyone can read."""
    is_bot = (comment["user"] or {}).get("type") == "Bot"
    return is_bot or comment["author_association"] in PARTICIPANTS


def _call(method: str, path: str, body: dict[str, str] | None = None) -> Any:
    request = Request(  # noqa: S310 - GitHub's address, as the runner tells it
        f"{os.environ['GITHUB_API_URL']}/{path}",
        method=method,
        data=None if body is None else json.dumps(body).encode(),
        headers={
            "Accept": "application/vnd.github+json",
            "Authorization": f"Bearer {os.environ['TOKEN']}",
            "Content-Type": "application/json",
            "User-Agent": "qbench",
            "X-GitHub-Api-Version": "2022-11-28",
        },
    )
    answer: HTTPResponse
    with build_opener(_Stays).open(request, timeout=_SECONDS) as answer:
        return json.load(answer)


def _why(error: HTTPError) -> str:
    if error.code in {HTTPStatus.FORBIDDEN, HTTPStatus.NOT_FOUND}:
        return " The job needs `permissions: {pull-requests: write}`."
    return ""


def _say(level: str, words: str) -> None:
    """An annotation, which is one line."""
    text = " ".join(words.split()).replace("%", "%25")
    sys.stdout.write(f"::{level} title=qbench action::{text}\n")


if __name__ == "__main__":
    main()
