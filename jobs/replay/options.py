"""Settings of the replay server, checked once here, and the `--fault 429=0.1,hang=0.01` notation.

Every mistake is a SpecError whose one line names the option, the value and the fix.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from jobs.errors import SpecError

STATUS_FAULTS = ("429", "500", "503")
"""Always listed in /stats; any other HTTP status 400..599 may be asked for too."""
NAMED_FAULTS = ("429_bare", "quota", "hang", "drip", "cut", "bad_json", "empty")
"""`hang` says nothing at all; `drip` says a byte now and then, so that only a deadline for the whole request ends it."""
BATCH_WIDE_FAULTS = ("failed", "lost_reply", "late")
"""Of a whole batch: it fails; it is created, but the reply says HTTP 500; it is created after its connection was cut."""
BATCH_ROW_FAULTS = ("expired", "missing", "empty")
"""Of one row of a batch; any HTTP status 400..599 too."""


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """What one replay server does. Raises SpecError on a value that cannot be meant."""

    outcomes: tuple[str, ...] = ()
    """Paths or URIs that `routing.data.outcome_readers.read_outcomes` reads; the first that knows a (prompt, model) wins."""
    port: int = 8000
    """0 takes a free one."""
    host: str = "127.0.0.1"
    """Loopback by default: the server has no protection beyond `api_key`."""
    latency_s: float = 0.05
    """Wait before every answer, and before every fault but the 429s (a provider turns those away at once)."""
    faults: Mapping[str, float] = field(default_factory=dict)
    """Fault name -> probability a request; together at most 1."""
    batch_latency_s: float = 1.0
    """From the creation of a batch to its end."""
    batch_faults: Mapping[str, float] = field(default_factory=dict)
    """Fault name -> probability a batch (BATCH_WIDE_FAULTS) or a row of one; the two kinds are drawn apart."""
    enqueued_tokens: int | None = None
    """Prompt tokens of a model that may wait in batches; one batch more fails with token_limit_exceeded."""
    flex_default_share: float = 0.0
    """Share of the requests for the tier `flex` that are served, and said to be served, in the tier `default`."""
    retry_after_s: float = 1.0
    """The Retry-After of a drawn 429; one from the rate limit says when the next request fits, in whole seconds."""
    requests_per_minute: int | None = None
    """Token bucket of this size, full at the start, refilled evenly; None: no limit, and no x-ratelimit headers."""
    burst: int | None = None
    """Size of the bucket where it is not `requests_per_minute`: small to see whether a client spreads its requests."""
    seed: int = 0
    """The fault of request number i is a function of (seed, i) alone."""
    api_key: str | None = field(default=None, repr=False)
    """Where given, any other bearer token gets 401."""
    verbose: bool = False
    """One access line a request on standard error."""
    json: bool = False
    """The first line on standard output is a JSON object {"url", "models", "prompts"} instead of the bare URL."""

    def __post_init__(self) -> None:
        _require(0 <= self.port <= 65535, "port", self.port, "give 0 (any free port) to 65535")
        _require(0 <= self.latency_s < math.inf, "latency-s", self.latency_s, "give seconds, 0 or more")
        _require(0 <= self.retry_after_s < math.inf, "retry-after-s", self.retry_after_s, "give seconds, 0 or more")
        _require(
            self.requests_per_minute is None or self.requests_per_minute > 0,
            "requests-per-minute",
            self.requests_per_minute,
            "give a whole number above 0, or leave it out for no limit",
        )
        _require(self.burst is None or self.burst > 0, "burst", self.burst, "give a whole number above 0")
        _require(
            self.burst is None or self.requests_per_minute is not None,
            "burst",
            self.burst,
            "it sizes the bucket of --requests-per-minute: give that too",
        )
        _require(
            0 <= self.batch_latency_s < math.inf, "batch-latency-s", self.batch_latency_s, "give seconds, 0 or more"
        )
        _require(
            self.enqueued_tokens is None or self.enqueued_tokens > 0,
            "enqueued-tokens",
            self.enqueued_tokens,
            "give a whole number above 0, or leave it out for no limit",
        )
        _require(
            0 <= self.flex_default_share <= 1, "flex-default-share", self.flex_default_share, "give a share from 0 to 1"
        )
        _require(self.api_key != "", "api-key", "''", "give a key, or leave it out to accept any")
        check_faults(self.faults)
        for wide in (True, False):
            drawn = {name: share for name, share in self.batch_faults.items() if (name in BATCH_WIDE_FAULTS) == wide}
            check_faults(drawn, BATCH_WIDE_FAULTS if wide else BATCH_ROW_FAULTS, "batch-fault")


def parse_faults(texts: Iterable[str], option: str = "fault") -> dict[str, float]:
    """`["429=0.1,hang=0.01", "cut=.02"]` -> {"429": .1, "hang": .01, "cut": .02}. Raises SpecError.

    option: the name in messages; the names and the sum of a `batch-fault` are for ReplayOptions to check.
    """
    shares: dict[str, float] = {}
    for item in (item.strip() for text in texts for item in text.split(",")):
        if not item:
            continue
        name, equals, number = item.partition("=")
        name = name.strip()
        _require(bool(equals), option, repr(item), "write NAME=PROBABILITY, such as 429=0.1")
        _require(name not in shares, option, repr(name), "is given twice: keep one")
        try:
            shares[name] = float(number)
        except ValueError:
            raise SpecError(f"{option}: {item!r}: the probability is not a number; write {name}=0.1") from None
    if option == "fault":
        check_faults(shares)
    return shares


def check_faults(shares: Mapping[str, float], named: tuple[str, ...] = NAMED_FAULTS, option: str = "fault") -> None:
    """Raises SpecError on an unknown fault name, a probability outside 0..1, or a sum above 1."""
    for name, share in shares.items():
        known = name in named or (name.isascii() and name.isdigit() and 400 <= int(name) <= 599)
        _require(known, option, repr(name), f"use an HTTP status (400..599) or one of {', '.join(named)}")
        _require(0 <= share <= 1, option, f"{name}={share}", "give a probability from 0 to 1")
    total = math.fsum(shares.values())
    _require(total <= 1 + 1e-9, option, f"sum {total:g}", "the probabilities together may not pass 1: lower one")


def _require(ok: bool, name: str, value: object, fix: str) -> None:
    if not ok:
        raise SpecError(f"{name}: {value}: {fix}")
