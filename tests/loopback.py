"""A web server for tests, in threads of this process, on a free port of loopback."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


class Handler(BaseHTTPRequestHandler):
    """Answers requests of any kind by `answer`, and logs nothing."""

    def answer(self) -> None:
        raise NotImplementedError

    def body(self) -> bytes:
        """What was sent along."""
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def reply(self, status: int, contents: bytes, headers: Mapping[str, str] | None = None) -> None:
        """A whole answer, without its contents where only the head is asked for."""
        self.reply_head(status, len(contents), headers or {})
        if self.command != "HEAD":
            self.wfile.write(contents)

    def reply_head(self, status: int, size_bytes: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(size_bytes))
        self.end_headers()

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def do_PATCH(self) -> None:
        self.answer()

    def log_message(self, *_: object) -> None:
        pass


@contextmanager
def served(handler: type[Handler]) -> Iterator[str]:
    """The address, such as http://127.0.0.1:4321, while the server is needed."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
