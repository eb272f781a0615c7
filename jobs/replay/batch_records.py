"""What the replay server keeps of files and batches, and the lines of their output and error files."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field

from jobs.replay import wire

ENDPOINT = "/v1/chat/completions"
MAX_METADATA, MAX_METADATA_CHARS = 16, 512


@dataclass(slots=True)
class File:
    id: str
    name: str
    purpose: str
    data: bytes
    created_at: int = field(default_factory=lambda: int(time.time()))

    def as_json(self) -> dict[str, object]:
        return {
            "id": self.id, "object": "file", "bytes": len(self.data), "created_at": self.created_at,
            "filename": self.name, "purpose": self.purpose, "status": "processed",
        }  # fmt: skip


@dataclass(slots=True)
class BatchRow:
    """One line of a batch: what it asks, or the status and error it gets instead."""

    custom_id: str
    chat: wire.ChatRequest | None = None
    answer: wire.ChatAnswer | None = None
    refused: wire.ApiError | None = None


@dataclass(slots=True)
class Batch:
    id: str
    input_file_id: str
    metadata: dict[str, str]
    status: str = "validating"
    times: dict[str, int] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=lambda: {"total": 0, "completed": 0, "failed": 0})
    errors: list[dict[str, object]] = field(default_factory=list)
    output_file_id: str | None = None
    error_file_id: str | None = None
    tokens: dict[str, int] = field(default_factory=dict)
    """Model → prompt tokens that count as enqueued until the batch ends."""

    def enter(self, status: str) -> None:
        self.status = status
        self.times[f"{status}_at"] = int(time.time())

    def as_json(self) -> dict[str, object]:
        return {
            "id": self.id, "object": "batch", "endpoint": ENDPOINT, "input_file_id": self.input_file_id,
            "completion_window": "24h", "status": self.status, "metadata": self.metadata, "request_counts": self.counts,
            "errors": {"object": "list", "data": self.errors} if self.errors else None,
            "output_file_id": self.output_file_id, "error_file_id": self.error_file_id,
            "expires_at": self.times["created_at"] + 86400, **self.times,
        }  # fmt: skip


def read_creation(raw: bytes) -> tuple[str, dict[str, str]]:
    """The body of POST /v1/batches: (input file's id, metadata). Raises wire.ApiError."""
    try:
        body = json.loads(raw)
        file_id, metadata = str(body["input_file_id"]), dict(body.get("metadata") or {})
        known = (body["endpoint"], body["completion_window"]) == (ENDPOINT, "24h")
    except (ValueError, RecursionError, KeyError, TypeError):
        raise wire.ApiError(400, "invalid_request", "Give input_file_id, endpoint and completion_window.") from None
    if not known:
        raise wire.ApiError(400, "invalid_value", f"Only endpoint {ENDPOINT} and completion_window 24h are here.")
    if len(metadata) > MAX_METADATA or any(
        not isinstance(value, str) or len(value) > MAX_METADATA_CHARS for value in metadata.values()
    ):
        raise wire.ApiError(400, "invalid_value", "metadata: at most 16 texts of 512 characters.")
    return file_id, metadata


def error_entry(code: str, message: str, line: int | None) -> dict[str, object]:
    return {"code": code, "message": message, "param": None, "line": line}


def gone(code: str) -> dict[str, str]:
    return {"code": code, "message": "This request could not be executed before the batch ended."}


def reply_bytes(status: int, body: bytes) -> bytes:
    return b'{"status_code":%d,"request_id":"req_replay","body":%b}' % (status, body)


def result_line(custom_id: str, response: bytes | None, error: dict[str, str] | None) -> bytes:
    name = json.dumps(custom_id).encode()
    said = json.dumps(error).encode()
    return b'{"id":"batch_req_replay","custom_id":%b,"response":%b,"error":%b}\n' % (name, response or b"null", said)
