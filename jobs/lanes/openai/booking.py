"""What the requests of one model may cost and what their replies did: reserved before a request goes, booked when it is over.

Dollars are reserved by the most tokens that a request can come to, in whatever tier it is served. What is booked is what the reply
says it used; its bound, where it does not say so or cannot be believed. No network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from jobs.lanes.base import LaneContext
from jobs.lanes.chat import max_completion_tokens, request_tokens_bound
from jobs.lanes.replies import Completion
from jobs.lanes.usage import SERVERS_OWN_TOKENS, Usage
from jobs.money.sender import Allowance
from routing.pricing import tokens_cost_usd


@dataclass(frozen=True, slots=True)
class Reserved:
    """What is set aside for one attempt."""

    usd: float
    """Its worst case."""
    tokens: float
    """What it is expected to use, for the rate limit."""
    prompt_bound: int
    """`request_tokens_bound` of its request, without what was learnt."""
    n_bytes: int
    """Of its payload."""


class Booking:
    """Reserves and books the attempts of one process. Lives on the event loop of its allowance."""

    def __init__(self, context: LaneContext, allowance: Allowance) -> None:
        self.extra_tokens = 0
        """Most prompt tokens an answer had beyond its bound (a server's own chat template): added to later bounds."""
        self._context, self._allowance = context, allowance
        self._completion_tokens = float(context.sampling.get("max_completion_tokens") or context.sampling["max_tokens"])
        self._tokens_per_byte = 1 / 3

    def reserved(self, request: Mapping[str, Any], n_bytes: int) -> Reserved:
        """For an attempt of `request`, whose payload has `n_bytes`."""
        bound = request_tokens_bound(request)
        return Reserved(
            usd=self.worst_usd(bound + self.extra_tokens, max_completion_tokens(request)),
            tokens=n_bytes * self._tokens_per_byte + self._completion_tokens,
            prompt_bound=bound,
            n_bytes=n_bytes,
        )

    def book_answer(self, reserved: Reserved, completion: Completion) -> float:
        """An attempt brought an answer. Its dollars."""
        usage, cost_usd = completion.usage, self.cost_usd(completion)
        self._allowance.add(full_rate=int(self.at_full_rate(completion)))
        used = reserved.tokens if usage.source == "bound" else usage.prompt_tokens + usage.completion_tokens
        self._allowance.settle(reserved.usd, cost_usd, 0.0, used - reserved.tokens)
        self._learn(reserved, usage)
        return cost_usd

    def book_loss(self, reserved: Reserved, lost_usd: float | None) -> float:
        """An attempt brought nothing; `lost_usd` None: nobody knows what it cost. The dollars that count as lost."""
        if lost_usd is None:
            self._allowance.settle(reserved.usd, 0.0, reserved.usd)
            return reserved.usd
        self._allowance.settle(reserved.usd, 0.0, lost_usd, -reserved.tokens)
        return lost_usd

    def known(self, completion: Completion, request: Mapping[str, Any], raw: bytes) -> Completion:
        """The completion with its usage as it is to be booked: a guess may be low, and a cap has to hold."""
        if completion.usage.source == "estimated" and self._allowance.capped:
            return replace(completion, usage=self._most_used(request, raw))
        return completion

    def unusable_usd(self, usage: Usage | None, request: Mapping[str, Any], raw: bytes) -> float:
        """What a reply with status 200 costs that holds no answer. `usage`: what it says it used, if it does."""
        usage = usage or self._most_used(request, raw)
        return self.worst_usd(usage.prompt_tokens, usage.completion_tokens)

    def _most_used(self, request: Mapping[str, Any], raw: bytes) -> Usage:
        """Of a reply that does not tell, or not so that it can be believed: no more tokens came than bytes."""
        bound = request_tokens_bound(request) + self.extra_tokens
        return Usage(bound, min(max_completion_tokens(request), len(raw)), source="bound")

    def cost_usd(self, completion: Completion) -> float:
        """What an answer costs, in the tier it was served in; at most, where nobody said how many tokens it had."""
        usage, price = completion.usage, self._context.price
        if usage.source == "bound":
            return self.worst_usd(usage.prompt_tokens, usage.completion_tokens)
        if self.at_full_rate(completion):
            price = self._context.full_price or price
        return tokens_cost_usd(price, usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens or 0)

    def at_full_rate(self, completion: Completion) -> bool:
        """The flex tier was asked for, and the provider says that it served another."""
        return self._context.full_price is not None and completion.tier not in ("", self._context.model.service_tier)

    def worst_usd(self, prompt_tokens: int, completion_tokens: int) -> float:
        """Most that these tokens may cost: in whatever tier they are served."""
        prices = (self._context.price, self._context.full_price or self._context.price)
        return max(tokens_cost_usd(price, prompt_tokens, completion_tokens) for price in prices)

    def _learn(self, reserved: Reserved, usage: Usage) -> None:
        """Better estimates from an answer that says what it used."""
        if usage.source == "bound":
            return
        beyond = min(usage.prompt_tokens - reserved.prompt_bound, SERVERS_OWN_TOKENS)
        self.extra_tokens = max(self.extra_tokens, beyond)
        self._completion_tokens += 0.02 * (usage.completion_tokens - self._completion_tokens)
        self._tokens_per_byte += 0.02 * (usage.prompt_tokens / max(1, reserved.n_bytes) - self._tokens_per_byte)
