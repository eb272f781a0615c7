"""The look at GET /models before a job starts, at servers that say odd things there: one line at $0, or let through."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from jobs.lanes import lane_of
from jobs.lanes.base import LaneCheck, LaneContext
from jobs.spec.models import ModelSpec
from routing.pricing import Price


@contextmanager
def answering(body: bytes, status: int, length: int | None) -> Iterator[str]:
    """Any request gets this; a `length` of more than the body is a connection that is cut."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body) if length is None else length))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


def check(tmp_path: Path, body: bytes, status: int = 200, length: int | None = None) -> LaneCheck:
    with answering(body, status, length) as url:
        model = ModelSpec(engine="openai", base_url=url, api_key_env="HEADGATE_TEST_NO_KEY", model="m")
        return lane_of("openai").check(LaneContext("gpt", model, {}, None, Price(), str(tmp_path), "s", str(tmp_path)))


@pytest.mark.parametrize(
    "body",
    [
        b'{"error": "Unexpected endpoint or method. (GET /models)"}', b"<!doctype html><html><title>My App</title></html>",
        b"\n<html></html>", b"", b"  \n", b'<?xml version="1.0"?><Error><Message>no</Message></Error>',
    ],
)  # fmt: skip
def test_an_address_that_is_no_api_names_base_url(body: bytes, tmp_path: Path) -> None:
    found = check(tmp_path, body)
    assert not found.ok and found.detail.startswith("models.gpt.base_url: http://127.0.0.1")
    assert "\n" not in found.detail and "/v1" in found.detail


@pytest.mark.parametrize("body", [b'{"error": {"code": 401, "message": "no auth"}}', b'{"detail": "Unauthorized"}'])
def test_a_refused_key_inside_a_200(body: bytes, tmp_path: Path) -> None:
    found = check(tmp_path, body)
    assert not found.ok and "HEADGATE_TEST_NO_KEY" in found.detail


@pytest.mark.parametrize(
    "body",
    [
        b"{}", b'{"data": []}', b'{"data": [{"id": "m"}]}', b'\xef\xbb\xbf{"data": [{"id": "m", "max_model_len": 9}]}',
        b'[{"id": "m"}]',
        b'{"data": [{"id": "models/m"}, {"id": "models/n"}]}', b'{"data": 3}', b'{"data": [null, 3]}',
    ],
)  # fmt: skip
def test_lists_and_none(body: bytes, tmp_path: Path) -> None:
    assert check(tmp_path, body).ok


@pytest.mark.parametrize("status", [200, 500])
def test_a_connection_that_is_cut_is_one_line(status: int, tmp_path: Path) -> None:
    assert "\n" not in check(tmp_path, b'{"data": [', status, length=100).detail
