"""How far a model's replies have gone beyond what their requests were reserved at: all of its later reservations have it in them.

A server may add to a prompt, count reasoning that `max_tokens` leaves out, or charge more than its price says. The first reply that
shows it is booked whole, and whoever reads it tells the governor, which tells every sender of the model and writes it down, so that
the next start of the run knows it too:

    bounds/model=ALIAS.json    {"prompt_tokens", "completion_tokens", "completion_ratio", "usd_ratio", "usd"}
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, fields

from jobs.storage.manifest import damaged, read_json
from jobs.storage.store import Store

FOLDER = "bounds"


@dataclass(frozen=True, slots=True)
class Excess:
    """The most that was seen of one model; the default is of one that keeps to its bounds."""

    prompt_tokens: int = 0
    """Beyond the bound of a prompt: a server's own template and instructions, what its tools found."""
    completion_tokens: int = 0
    """Beyond a request's limit."""
    completion_ratio: float = 1.0
    """Completion tokens as a multiple of a request's limit."""
    usd_ratio: float = 1.0
    """Dollars as a multiple of what such tokens cost at most."""
    usd: float = 0.0
    """Dollars of a request whose tokens cost nothing by its price."""

    def __or__(self, other: Excess) -> Excess:
        """The larger of both, field by field."""
        return Excess(*(max(getattr(self, each.name), getattr(other, each.name)) for each in fields(Excess)))

    def completion_bound(self, limit: int) -> int:
        """Most completion tokens of a request with this limit: an excess may be the same for all, or grow with the limit."""
        return max(limit + self.completion_tokens, math.ceil(limit * self.completion_ratio - 1e-9))

    def prompt_bound(self, bound: int) -> int:
        return bound + self.prompt_tokens


def read_excess(store: Store, alias: str) -> Excess:
    """What earlier starts of the run have learnt of a model. Raises StoreError for a damaged file."""
    found = read_json(store, _name(alias))
    if found is None:
        return Excess()
    try:
        excess = Excess(
            int(found["prompt_tokens"]),
            int(found["completion_tokens"]),
            float(found["completion_ratio"]),
            float(found["usd_ratio"]),
            float(found["usd"]),
        )
    except (KeyError, TypeError, ValueError, OverflowError):
        raise damaged(store, _name(alias)) from None
    return excess | Excess()


def write_excess(store: Store, alias: str, excess: Excess) -> None:
    """Raises StoreError."""
    store.write(_name(alias), json.dumps(asdict(excess)).encode())


def _name(alias: str) -> str:
    return f"{FOLDER}/model={alias}.json"
