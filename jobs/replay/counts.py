"""What the server counted: the proof of "paid once" that tests read at GET /stats.

An answer counts when it is handed to a connection that is still open. One whose client left before that (a killed
process, a time-out) is `abandoned`, with its tokens: a provider might bill it, so it is no answer, yet not forgotten.
`requests` = answered + abandoned + sum of faults + sum of refused + the open ones. Memory: about 100 bytes for each
distinct (model, messages). Rows of a batch are requests and answers like others; `batches` counts the batches, and
`by_tier` the answers' tokens by model and by what is charged for them: default, flex or batch.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from jobs.replay.options import NAMED_FAULTS, STATUS_FAULTS

BATCH_COUNTS = ("created", "completed", "failed", "expired", "cancelled", "peak_enqueued_tokens")
_encode = json.JSONEncoder(sort_keys=True, separators=(",", ":")).encode


class Counts:
    """Counters of one server. Lives on one event loop: no locks."""

    def __init__(self, models: Iterable[str], faults: Iterable[str] = ()) -> None:
        self.requests = 0
        self.answered = 0
        self.repeated = 0
        self.peak_in_flight = 0
        self.faults = Counter(dict.fromkeys((*STATUS_FAULTS, *NAMED_FAULTS, *faults), 0))
        self.refused: Counter[str] = Counter()
        self._in_flight = 0
        self._seen: set[bytes] = set()
        self._by_model = {model: _usage() for model in models}
        self.batches: Counter[str] = Counter(dict.fromkeys(BATCH_COUNTS, 0))
        self._by_tier: dict[str, dict[str, dict[str, int]]] = {}
        self._abandoned: dict[str, dict[str, int]] = {}

    @contextmanager
    def request(self) -> Iterator[int]:
        """Counts one completion request as in flight; gives its number, from 0."""
        ordinal = self.requests
        self.requests += 1
        self._in_flight += 1
        self.peak_in_flight = max(self.peak_in_flight, self._in_flight)
        try:
            yield ordinal
        finally:
            self._in_flight -= 1

    def answer(
        self, model: str, messages: Any, prompt_tokens: int, completion_tokens: int, tier: str = "default"
    ) -> None:
        """Counts one answer, and whether the same (model, messages) was answered before."""
        key = _key(model, messages)
        self.repeated += key in self._seen
        self._seen.add(key)
        self.answered += 1
        _add(self._by_model[model], prompt_tokens, completion_tokens)
        of_tier = self._by_tier.setdefault(model, {}).setdefault(tier, _usage())
        _add(of_tier, prompt_tokens, completion_tokens)

    def abandon(self, model: str, prompt_tokens: int, completion_tokens: int) -> None:
        """Counts one answer that had nobody left to go to."""
        _add(self._abandoned.setdefault(model, _usage("requests")), prompt_tokens, completion_tokens, "requests")

    def as_json(self) -> dict[str, Any]:
        """The body of GET /stats."""
        return {
            "requests": self.requests,
            "answered": self.answered,
            "repeated": self.repeated,
            "peak_in_flight": self.peak_in_flight,
            "faults": dict(self.faults),
            "by_model": self._by_model,
            "in_flight": self._in_flight,
            "refused": dict(self.refused),
            "abandoned": self._abandoned,
            "batches": dict(self.batches),
            "by_tier": self._by_tier,
        }


def _usage(unit: str = "answered") -> dict[str, int]:
    return {unit: 0, "prompt_tokens": 0, "completion_tokens": 0}


def _add(usage: dict[str, int], prompt_tokens: int, completion_tokens: int, unit: str = "answered") -> None:
    usage[unit] += 1
    usage["prompt_tokens"] += prompt_tokens
    usage["completion_tokens"] += completion_tokens


def _key(model: str, messages: Any) -> bytes:
    """128 bits of (model, messages), the same whatever the order of the keys in a message."""
    return hashlib.blake2b(_encode([model, messages]).encode("ascii"), digest_size=16).digest()
