"""What a provider says of one of its batches, as far as it is read here. No network.

Providers leave fields out and put null where another has an object: what is missing or of an odd type is empty here, and only
who needs it complains.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jobs.lanes.chat import JsonObject

FINAL = ("completed", "failed", "expired", "cancelled")
GONE = "gone"
"""No status of the provider's: it does not know the batch."""
_ENDS = ("completed_at", "expired_at", "cancelled_at", "finalizing_at")


@dataclass(frozen=True, slots=True)
class BatchError:
    """Why a batch failed as a whole: the first of its errors."""

    code: str = ""
    message: str = "no reason given"
    line: int | None = None
    """Of the file, where it is about one."""


@dataclass(frozen=True, slots=True)
class BatchState:
    """One batch of the provider's at one time."""

    batch_id: str
    """"" where the provider tells none."""
    status: str
    latency_s: float = 0.0
    """From creation to end; 0 where the provider does not tell both."""
    files: tuple[str, ...] = ()
    """Ids of the files that hold its results: of answers, then of errors; those that there are."""
    error: BatchError = BatchError()

    @classmethod
    def from_json(cls, batch: JsonObject) -> BatchState:
        """Of a batch object. Raises nothing."""
        batch_id, status = batch.get("id"), batch.get("status")
        return cls(
            batch_id if isinstance(batch_id, str) else "",
            status if isinstance(status, str) else "",
            _latency_s(batch),
            tuple(str(batch[name]) for name in ("output_file_id", "error_file_id") if batch.get(name)),
            _first_error(batch.get("errors")),
        )


def _latency_s(batch: JsonObject) -> float:
    end = next((batch[name] for name in _ENDS if isinstance(batch.get(name), int | float)), None)
    created = batch.get("created_at")
    return max(0.0, float(end - created)) if end is not None and isinstance(created, int | float) else 0.0


def _first_error(errors: Any) -> BatchError:
    listed = errors.get("data") if isinstance(errors, dict) else None
    first = listed[0] if isinstance(listed, list) and listed and isinstance(listed[0], dict) else {}
    line = first.get("line")
    return BatchError(
        str(first.get("code") or ""),
        str(first.get("message") or "no reason given"),
        line if isinstance(line, int) and line > 0 else None,
    )
