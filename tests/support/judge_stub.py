"""A judge that is a server on this machine and says what it is told to say."""

from __future__ import annotations

import json
from http.server import ThreadingHTTPServer
from typing import Any

from support.stub_server import QuietHandler


class Stub(ThreadingHTTPServer):
    """Answers what is put into `replies`, the last one again and again, and keeps what it was asked."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies: list[tuple[int, Any]] = [(200, "Fine. Grade: [[7]]")]
        self.asked: list[dict[str, Any]] = []
        self.location: str | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(QuietHandler):
    server: Stub

    def do_POST(self) -> None:  # noqa: N802 - the name that http.server calls
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append({**body, "path": self.path, "key": self.headers["Authorization"]})
        code, said = self.server.replies.pop(0) if len(self.server.replies) > 1 else self.server.replies[0]
        answer = said if isinstance(said, dict) else {"choices": [{"message": {"content": said}}]}
        self.send_response(code)
        if self.server.location is not None:
            self.send_header("Location", self.server.location)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())
