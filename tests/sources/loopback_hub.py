"""A hub on the loopback interface that serves folders as repositories, or refuses as a hub does."""

from __future__ import annotations

import hashlib
import json
import re
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"

REFUSALS = {
    "refused/gated": (403, "GatedRepo"),
    "refused/absent": (401, "RepoNotFound"),
    "refused/disabled": (403, ""),
    "refused/broken": (500, ""),
}
"""Status and error code that the hub answers with for these repositories."""


@contextmanager
def loopback_hub(  # noqa: C901 (a handler class that closes over its arguments)
    repositories: dict[str, Path],
) -> Iterator[tuple[str, list[str]]]:
    """Serves the folders, each at one commit; gives the address and the requests as they come."""
    requests: list[str] = []

    class Hub(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_HEAD(self) -> None:
            self.answer()

        def do_GET(self) -> None:
            self.answer()

        def log_message(self, *_: object) -> None:
            pass

        def answer(self) -> None:
            path = self.path.partition("?")[0]
            requests.append(f"{self.command} {path}")
            match = re.fullmatch(
                r"(?:/api/models)?/(?P<repo>[^/]+/[^/]+)"
                r"(?:/(?P<what>revision|tree|resolve)/(?P<revision>[^/]+)(?:/(?P<file>.+))?)?",
                path,
            )
            repo = match["repo"] if match else ""
            if repo in REFUSALS:
                status, code = REFUSALS[repo]
                headers = {"X-Error-Code": code}
                if repo == "refused/disabled":
                    headers = {"X-Error-Message": "Access to this resource is disabled."}
                self.reply(status, b"", headers)
            elif match is None or repo not in repositories:
                self.reply(404, b"", {"X-Error-Code": "RepoNotFound"})
            elif (match["revision"] or "main") not in ("main", COMMIT):
                self.reply(404, b"", {"X-Error-Code": "RevisionNotFound"})
            elif match["what"] == "resolve":
                self.reply_file(repositories[repo] / (match["file"] or ""))
            elif match["what"] == "tree":
                self.reply_json(
                    [
                        {"type": "file", "path": p.name, "size": p.stat().st_size, "oid": _etag(p)}
                        for p in sorted(repositories[repo].iterdir())
                    ]
                )
            else:
                files = [
                    {"rfilename": p.name, "size": p.stat().st_size, "blobId": _etag(p)}
                    for p in sorted(repositories[repo].iterdir())
                ]
                self.reply_json({"id": repo, "sha": COMMIT, "siblings": files, "tags": []})

        def reply_json(self, value: Any) -> None:
            self.reply(200, json.dumps(value).encode(), {"Content-Type": "application/json"})

        def reply_file(self, path: Path) -> None:
            if not path.is_file():
                self.reply(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
                return
            contents, headers = path.read_bytes(), {"ETag": _etag(path), "X-Repo-Commit": COMMIT}
            wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range") or "")
            if wanted is None:
                self.reply(200, contents, headers)
                return
            total, start = len(contents), int(wanted[1])
            contents = contents[start : int(wanted[2] or total) + 1]
            headers["Content-Range"] = f"bytes {start}-{start + len(contents) - 1}/{total}"
            self.reply(206, contents, headers)

        def reply(self, status: int, contents: bytes, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(contents)))
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(contents)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        server.shutdown()
        server.server_close()


def _etag(path: Path) -> str:
    return hashlib.sha1(path.read_bytes(), usedforsecurity=False).hexdigest()
