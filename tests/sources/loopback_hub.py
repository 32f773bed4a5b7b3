"""A hub on the loopback interface that serves folders as repositories, or refuses as a hub does.

It speaks as much of the hub's protocol as its client library asks for: information on a repository
at a revision, its tree, paths within it, and files, whole or by range.
"""

from __future__ import annotations

import hashlib
import json
import re
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tests.loopback import Handler, served

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"
OLDER_COMMIT = "89abcdef0123456789abcdef0123456789abcdef"

REFUSALS = {
    "refused/gated": (403, "GatedRepo"),
    "refused/absent": (401, "RepoNotFound"),
    "refused/disabled": (403, ""),
    "refused/broken": (500, ""),
}
"""Status and error code that the hub answers with for these repositories."""

_PATH = re.compile(
    r"(?:/api)?(?:/(?P<kind>models|datasets))?/(?P<repo>[^/]+/[^/]+)"
    r"(?:/(?P<what>revision|tree|resolve|paths-info)/(?P<revision>[^/]+)(?:/(?P<file>.+))?)?"
)


@dataclass
class Hub:
    """What the hub serves, and what it was asked for."""

    endpoint: str
    commits: dict[str, dict[str, Path]]
    """Of each repository, `datasets/` before those of data: folders by their commit."""
    revisions: dict[str, str]
    """Commits by the names of branches and tags."""
    breaks_after: dict[str, int] = field(default_factory=dict)
    """Bytes of a file, by its name, after which connections break."""
    breaks_left: int = 0
    """How many of them still do."""
    requests: list[str] = field(default_factory=list)
    """`GET /path` as they came."""
    ranges: list[tuple[str, int]] = field(default_factory=list)
    """Names of files that were asked for from a byte on, and that byte."""


@contextmanager
def loopback_hub(
    models: Mapping[str, Path],
    *,
    datasets: Mapping[str, Path] | None = None,
    older: Mapping[str, Path] | None = None,
    commits: Mapping[str, str] | None = None,
) -> Iterator[Hub]:
    """Serves the folders; `main` and the tag `v2` are at `COMMIT`.

    `older` holds what some repositories were at `OLDER_COMMIT`, the tag `v1`. `commits` gives some
    repositories, `datasets/` before those of data, another commit than `COMMIT`.
    """
    folders = {**models, **{f"datasets/{repo}": path for repo, path in (datasets or {}).items()}}
    own = commits or {}
    kept = {repo: {own.get(repo, COMMIT): folder} for repo, folder in folders.items()}
    for repo, folder in (older or {}).items():
        kept[repo][OLDER_COMMIT] = folder
    hub = Hub("", kept, {"v1": OLDER_COMMIT})
    with served(type("Handler", (_Handler,), {"hub": hub})) as hub.endpoint:
        yield hub


class _Handler(Handler):
    protocol_version = "HTTP/1.1"
    hub: Hub

    def answer(self) -> None:
        path = self.path.partition("?")[0]
        sent = self.body()
        self.hub.requests.append(f"{self.command} {path}")
        match = _PATH.fullmatch(path)
        repo = match["repo"] if match else ""
        if match and match["kind"] == "datasets":
            repo = f"datasets/{repo}"
        if repo in REFUSALS:
            self.refuse(repo)
        elif match is None or repo not in self.hub.commits:
            self.reply(404, b"", {"X-Error-Code": "RepoNotFound"})
        elif (commit := self.commit(repo, match["revision"] or "main")) is None:
            self.reply(404, b"", {"X-Error-Code": "RevisionNotFound"})
        else:
            self.serve(match, self.hub.commits[repo][commit], commit, sent)

    def commit(self, repo: str, revision: str) -> str | None:
        """The commit that a revision of the repository means; None if there is none."""
        commits = self.hub.commits[repo]
        newest = next(iter(commits))
        found = {"main": newest, "v2": newest}.get(revision)
        found = found or self.hub.revisions.get(revision, revision)
        return found if found in commits else None

    def serve(self, match: re.Match[str], folder: Path, commit: str, sent: bytes) -> None:
        entries = [_entry(path, folder) for path in sorted(folder.rglob("*"))]
        files = [entry for entry in entries if entry["type"] == "file"]
        if match["what"] == "resolve":
            self.reply_file(folder / (match["file"] or ""), commit)
        elif match["what"] == "tree":
            inside = [entry for entry in entries if _is_below(entry["path"], match["file"])]
            if not inside and match["file"]:
                self.reply(404, b"", {"X-Error-Code": "EntryNotFound"})
            else:
                self.reply_json(inside if "recursive=" in self.path else _direct(inside, match))
        elif match["what"] == "paths-info":
            asked = _asked_paths(sent)
            self.reply_json([entry for entry in entries if entry["path"] in asked])
        else:
            siblings = [
                {"rfilename": e["path"], "size": e["size"], "blobId": e["oid"]} for e in files
            ]
            known = {"id": match["repo"], "sha": commit, "siblings": siblings, "tags": []}
            self.reply_json({**known, "private": False, "downloads": 0, "likes": 0})

    def refuse(self, repo: str) -> None:
        status, code = REFUSALS[repo]
        headers = {"X-Error-Code": code}
        if repo == "refused/disabled":
            headers = {"X-Error-Message": "Access to this resource is disabled."}
        self.reply(status, b"", headers)

    def reply_json(self, value: Any) -> None:
        self.reply(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

    def reply_file(self, path: Path, commit: str) -> None:
        if not path.is_file():
            self.reply(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            return
        contents, headers = path.read_bytes(), {"ETag": _etag(path), "X-Repo-Commit": commit}
        wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
        start, status = 0, 200
        if wanted is not None:
            total, start, status = len(contents), int(wanted[1]), 206
            if start and self.command == "GET":
                self.hub.ranges.append((path.name, start))
            contents = contents[start : int(wanted[2] or total) + 1]
            headers["Content-Range"] = f"bytes {start}-{start + len(contents) - 1}/{total}"
        breaks_after = self.hub.breaks_after.get(path.name)
        # The header of a weight file is read by itself, and fits.
        fits = breaks_after is None or start + len(contents) <= breaks_after
        if fits or self.command == "HEAD" or not self.hub.breaks_left:
            self.reply(status, contents, headers)
        else:
            self.hub.breaks_left -= 1
            self.reply_head(status, len(contents), headers)
            self.wfile.write(contents[: max(0, (breaks_after or 0) - start)])
            self.close_connection = True


def _entry(path: Path, folder: Path) -> dict[str, Any]:
    name = path.relative_to(folder).as_posix()
    if path.is_dir():
        return {"type": "directory", "path": name, "size": 0, "oid": "0" * 40}
    return {"type": "file", "path": name, "size": path.stat().st_size, "oid": _etag(path)}


def _is_below(path: str, folder: str | None) -> bool:
    return not folder or path.startswith(f"{folder}/")


def _direct(entries: list[dict[str, Any]], match: re.Match[str]) -> list[dict[str, Any]]:
    """Entries of the folder itself and not of those within."""
    depth = 0 if not match["file"] else match["file"].count("/") + 1
    return [entry for entry in entries if entry["path"].count("/") == depth]


def _asked_paths(sent: bytes) -> list[str]:
    from urllib.parse import parse_qs

    if sent.startswith(b"{"):
        return [path.strip("/") for path in json.loads(sent)["paths"]]
    return [path.strip("/") for path in parse_qs(sent.decode()).get("paths", [])]


def _etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest()
