"""A server that tests start: one that serves, or does one thing wrong, as its first word says.

What ends in `under load` it does only where it is to stream, or to stop at a text.

`python misbehaving_server.py ACT --port PORT [FILE]`, of the standard library alone.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

ACT = sys.argv[1] if __name__ == "__main__" else ""
UNDER_LOAD = " under load"
CHUNK = {"object": "text_completion", "model": "any", "choices": [{"index": 0, "text": " word"}]}
USAGE = {"prompt_tokens": 4, "completion_tokens": 4, "total_tokens": 8}


class Handler(BaseHTTPRequestHandler):
    """Answers as OpenAI's API does, but for what the act says."""

    protocol_version = "HTTP/1.1"

    def log_request(self, *words: Any) -> None:
        """A line a request that is to be answered, none a question whether it is healthy."""
        if self.command == "POST":
            super().log_request(*words)

    def do_GET(self) -> None:
        """Health, the models, the version."""
        if self.path == "/health" and ACT == "never healthy":
            self.answer({"status": "loading"}, 503)
        elif self.path == "/health":
            self.answer({"status": "ok"})
        elif self.path == "/v1/models":
            self.answer({"object": "list", "data": [{"id": "any", "object": "model"}]})
        elif self.path == "/version":
            self.answer({"version": "1.2.3"})
        else:
            self.answer({"error": "no such path"}, 404)

    def do_POST(self) -> None:
        """A completion."""
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        misdeed = getattr(self, "_" + ACT.removesuffix(UNDER_LOAD).replace(" ", "_"), None)
        loaded = body.get("stream") or "stop" in body
        if misdeed is not None and (loaded or not ACT.endswith(UNDER_LOAD)):
            misdeed()
        elif body.get("stream"):
            parts = [json.dumps(CHUNK), json.dumps(CHUNK | {"usage": USAGE}), "[DONE]"]
            events = "".join(f"data: {part}\n\n" for part in parts)
            self.send(events.encode(), "text/event-stream")
        else:
            self.answer(CHUNK | {"usage": USAGE})

    def _garbage(self) -> None:
        self.send(b"<html>hello</html>", "text/html")

    def _another_api(self) -> None:
        self.answer({"generated_text": "hello"})

    def _refuses(self) -> None:
        self.answer({"detail": "the field max_tokens is not known"}, 422)

    def _redirects(self) -> None:
        self.send(b"", "text/plain", 307, {"Location": "http://192.0.2.1/v1/completions"})

    def _hangs(self) -> None:
        time.sleep(600)

    def _trickles(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "100000")
        self.end_headers()
        while True:
            try:
                self.wfile.write(b" ")
            except OSError:
                return  # nobody waits for it any more
            time.sleep(0.05)

    def _drops(self) -> None:
        self.connection.close()

    def _dies(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    def _exits_when_asked(self) -> None:
        os._exit(7)

    def answer(self, value: dict[str, Any], status: int = 200) -> None:
        """JSON."""
        self.send(json.dumps(value).encode(), "application/json", status)

    def send(
        self, body: bytes, kind: str, status: int = 200, more: dict[str, str] | None = None
    ) -> None:
        """A whole answer."""
        self.send_response(status)
        for name, value in {"Content-Type": kind, **(more or {})}.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def say(words: str) -> None:
    """Into the log, at once."""
    sys.stdout.write(f"{words}\n")
    sys.stdout.flush()


def main() -> None:
    """Serves until it is killed."""
    say(f"{ACT} begins")
    port = int(sys.argv[sys.argv.index("--port") + 1])
    if ACT == "exits":
        sys.exit(3)
    if ACT == "ends well":
        sys.exit(0)
    if ACT == "has no memory":
        say("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2 GiB")
        sys.exit(1)
    if ACT == "does not listen":
        time.sleep(600)
    if ACT == "has it done elsewhere":
        Path(sys.argv[-1]).write_text(str(port), encoding="ascii")
        time.sleep(600)
    if ACT == "has stubborn children":
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        code = "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c',"
        code += " 'import time; time.sleep(600)'], start_new_session=True)"
        subprocess.run([sys.executable, "-c", code], check=True)  # whose child is left alone
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    with ThreadingHTTPServer(("127.0.0.1", port), Handler) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
