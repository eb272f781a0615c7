"""A chat server whose models think: it says what a test wants it to, and counts what it was asked."""

from __future__ import annotations

import json
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Say = Callable[[str, str], dict[str, Any]]
"""(model, text of the last message) -> the body of the reply."""


def completion(text: str | None, reason: str = "stop", n_tokens: int = 10, **message: Any) -> dict[str, Any]:
    """The body of a reply of 20 prompt tokens."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text} | message, "finish_reason": reason}
    usage = {"prompt_tokens": 20, "completion_tokens": n_tokens, "total_tokens": 20 + n_tokens}
    return {"object": "chat.completion", "choices": [choice], "usage": usage}


@dataclass
class Asked:
    """What the server has seen."""

    url: str = ""
    by_model: Counter[str] = field(default_factory=Counter)
    bodies: list[dict[str, Any]] = field(default_factory=list)


@contextmanager
def thinking_server(say: Say) -> Iterator[Asked]:
    """Serves `/v1` on 127.0.0.1 in threads of this process."""
    asked, lock = Asked(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._send({"object": "list", "data": []})

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                asked.by_model[body["model"]] += 1
                asked.bodies.append(body)
            self._send(say(body["model"], body["messages"][-1]["content"]))

        def _send(self, body: dict[str, Any]) -> None:
            raw = json.dumps(body).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    asked.url = f"http://127.0.0.1:{server.server_port}/v1"
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield asked
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
