"""A server of completions that answers as a script says, and keeps its own account of it."""

from __future__ import annotations

import json
import threading
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass
class Script:
    """How requests are answered, and what came of it."""

    pause_s: float = 0.01
    """Before each token."""
    most_tokens: int | None = None
    """Of an answer, whatever is asked for."""
    tells_usage: bool = True
    in_one_piece: bool = False
    refused: frozenset[int] = frozenset()
    """Requests that get status 500, by their order."""
    hangs: bool = False
    bodies: list[dict[str, Any]] = field(default_factory=list)
    """What was asked, in order."""
    keys: list[str | None] = field(default_factory=list)
    """The key that each request carried."""
    answered: list[int] = field(default_factory=list)
    """Tokens of each answer that was sent whole."""
    url: str = ""
    lock: threading.Lock = field(default_factory=threading.Lock)


@contextmanager
def serving(script: Script) -> Iterator[Script]:
    """The server while it is needed, in threads of this process, on a free port of loopback."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with script.lock:
                number = len(script.bodies)
                script.bodies.append(body)
                script.keys.append(self.headers.get("Authorization"))
            if script.hangs:
                stop.wait()
                return
            if number in script.refused:
                self.send_error(500, "scripted to fail")
                return
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            tokens = min(body["max_tokens"], script.most_tokens or body["max_tokens"])
            pieces = [" x" * tokens] if script.in_one_piece else [" x"] * tokens
            for piece in pieces:
                time.sleep(script.pause_s)
                self._send({"choices": [{"text": piece, "index": 0}]})
            if script.tells_usage:
                usage = {"prompt_tokens": 9, "completion_tokens": tokens, "total_tokens": 9}
                self._send({"choices": [], "usage": usage})
            self.wfile.write(b"data: [DONE]\n\n")
            with script.lock:
                script.answered.append(tokens)

        def _send(self, event: dict[str, Any]) -> None:
            self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
            self.wfile.flush()

        def log_message(self, *_: Any) -> None:
            """Says nothing."""

    stop = threading.Event()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    script.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield script
    finally:
        stop.set()
        server.shutdown()
        server.server_close()
