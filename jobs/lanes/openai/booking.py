"""What the requests of one model may cost and what their replies did: reserved before a request goes, booked when it is over.

Dollars are reserved by the most tokens that a request can come to, in whatever tier it is served. What is booked is what the reply
says it used; its bound, where it does not say so or cannot be believed; or with `price: provider` what it says was charged. A reply
that costs more than was reserved is booked whole, and all later requests of the model are bound by what it went beyond, too
(jobs.money.excess). No network.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from jobs.lanes.base import LaneContext
from jobs.lanes.chat import max_completion_tokens, request_tokens_bound
from jobs.lanes.replies import Completion
from jobs.lanes.usage import SERVERS_OWN_TOKENS, Usage, header_usd
from jobs.money.excess import Excess
from jobs.money.sender import Allowance
from routing.pricing import tokens_cost_usd


@dataclass(frozen=True, slots=True)
class Bounds:
    """Most tokens of a request by its own texts and limit, without what replies have shown."""

    prompt: int
    completion: int

    @classmethod
    def of(cls, request: Mapping[str, Any]) -> Bounds:
        return cls(request_tokens_bound(request), max_completion_tokens(request))

    def beyond(self, usage: Usage | None, paid_usd: float, context: LaneContext, known: Excess) -> Excess:
        """What a reply shows of its server, in tokens or, where they do not account for it, in dollars. `known`: before."""
        excess = known
        if usage is not None and usage.source == "provider":
            excess |= Excess(
                min(usage.prompt_tokens - self.prompt, SERVERS_OWN_TOKENS),
                usage.completion_tokens - self.completion,
                usage.completion_tokens / self.completion,
            )
        worst_usd = self.worst_usd(context, excess)
        if 0 < worst_usd < paid_usd:
            return excess | Excess(usd_ratio=excess.usd_ratio * paid_usd / worst_usd)
        return excess if worst_usd else excess | Excess(usd=paid_usd)

    def most_used(self, usage: Usage, excess: Excess) -> Usage:
        """What a reply that does not tell its usage is booked at under a cap: a guess may be low. `usage`: the guess."""
        told_prompt, told_completion = usage.told
        prompt = max(excess.prompt_bound(self.prompt), told_prompt)
        completion = max(excess.completion_bound(self.completion), told_completion)
        return replace(usage, prompt_tokens=prompt, completion_tokens=completion, source="bound")

    def worst_usd(self, context: LaneContext, excess: Excess) -> float:
        """Most that the request may cost."""
        prompt, completion = excess.prompt_bound(self.prompt), excess.completion_bound(self.completion)
        return max(excess.usd, excess.usd_ratio * most_usd(context, prompt, completion))


def most_usd(context: LaneContext, prompt_tokens: int, completion_tokens: int) -> float:
    """Most that these tokens may cost: in whatever tier they are served, cached or not."""
    prices = (context.price, context.full_price or context.price)
    return max(
        tokens_cost_usd(price, prompt_tokens, completion_tokens, cached)
        for price in prices
        for cached in (0, prompt_tokens)
    )


def answer_usd(context: LaneContext, usage: Usage, at_full_rate: bool = False) -> float:
    """What an answer costs: what was charged where the job goes by that, else its tokens; at most, where nobody said how many.

    at_full_rate: it was served in the standard tier although flex was asked for.
    """
    if is_charged(context) and usage.charged_usd is not None:
        return usage.charged_usd
    if usage.source == "bound":
        return most_usd(context, usage.prompt_tokens, usage.completion_tokens)
    price = context.full_price if at_full_rate and context.full_price else context.price
    return tokens_cost_usd(price, usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens or 0)


def is_charged(context: LaneContext) -> bool:
    """The job books what the provider says it charged."""
    return context.model.price is not None and context.model.price.provider


@dataclass(slots=True, eq=False)
class Reserved:
    """What is set aside for one attempt."""

    usd: float
    """Its worst case, as far as is known by now."""
    sent_usd: float
    """The same when it was sent."""
    tokens: float
    """What it is expected to use, for the rate limit."""
    bounds: Bounds
    n_bytes: int
    """Of its payload."""


class Booking:
    """Reserves and books the attempts of one process. Lives on the event loop of its allowance."""

    def __init__(self, context: LaneContext, allowance: Allowance) -> None:
        self._context, self._allowance = context, allowance
        self._completion_tokens = float(context.sampling.get("max_completion_tokens") or context.sampling["max_tokens"])
        self._tokens_per_byte = 1 / 3
        self._under_way: set[Reserved] = set()
        allowance.on_learnt = self._hold_more

    async def reserve(self, request: Mapping[str, Any], n_bytes: int) -> Reserved:
        """Dollars and leave for an attempt of `request`, whose payload has `n_bytes`. Raises as Allowance.take does."""
        bounds = Bounds.of(request)
        while True:
            usd = bounds.worst_usd(self._context, self._allowance.terms.excess)
            tokens = n_bytes * self._tokens_per_byte + self._completion_tokens
            await self._allowance.take(usd, tokens)
            if usd >= bounds.worst_usd(self._context, self._allowance.terms.excess):
                reserved = Reserved(usd, usd, tokens, bounds, n_bytes)
                self._under_way.add(reserved)
                return reserved
            self._allowance.settle(usd, 0.0, 0.0, -tokens)  # more was learnt while it waited

    def book_answer(self, reserved: Reserved, completion: Completion) -> float:
        """An attempt brought an answer. Its dollars."""
        usage, at_full_rate = completion.usage, self.at_full_rate(completion)
        cost_usd = answer_usd(self._context, usage, at_full_rate)
        uncharged = is_charged(self._context) and usage.charged_usd is None
        self._allowance.add(full_rate=int(at_full_rate), uncharged=int(uncharged))
        self._under_way.discard(reserved)
        used = reserved.tokens if usage.source == "bound" else usage.prompt_tokens + usage.completion_tokens
        self._allowance.settle(reserved.usd, cost_usd, 0.0, used - reserved.tokens)
        self._learn(reserved, usage, cost_usd)
        if usage.source != "bound":
            self._completion_tokens += 0.02 * (usage.completion_tokens - self._completion_tokens)
            self._tokens_per_byte += 0.02 * (usage.prompt_tokens / max(1, reserved.n_bytes) - self._tokens_per_byte)
        return cost_usd

    def book_loss(self, reserved: Reserved, lost_usd: float | None) -> float:
        """An attempt brought nothing; `lost_usd` None: nobody knows what it cost. The dollars that count as lost."""
        self._under_way.discard(reserved)
        if lost_usd is None:
            self._allowance.settle(reserved.usd, 0.0, reserved.usd)
            return reserved.usd
        self._allowance.settle(reserved.usd, 0.0, lost_usd, -reserved.tokens)
        self._learn(reserved, None, lost_usd)
        return lost_usd

    def known(self, completion: Completion, request: Mapping[str, Any], headers: Mapping[str, str]) -> Completion:
        """The completion with its usage as it is to be booked. `request`, `headers`: of what it answers, of its reply."""
        usage = completion.usage
        if usage.source == "estimated" and self._allowance.terms.capped:
            usage = Bounds.of(request).most_used(usage, self._allowance.terms.excess)
        if usage.charged_usd is None and is_charged(self._context):
            usage = replace(usage, charged_usd=header_usd(headers))
        return replace(completion, usage=usage)

    def unusable_usd(self, usage: Usage | None, request: Mapping[str, Any], raw: bytes) -> float:
        """What a reply with status 200 costs that holds no answer. `usage`: what it says it used, if it does; else no more tokens
        came than bytes."""
        if usage is not None:
            return answer_usd(self._context, replace(usage, source="bound"))
        excess, bounds = self._allowance.terms.excess, Bounds.of(request)
        return most_usd(self._context, excess.prompt_bound(bounds.prompt), min(bounds.completion, len(raw)))

    def at_full_rate(self, completion: Completion) -> bool:
        """The flex tier was asked for, and the provider says that it served another."""
        return self._context.full_price is not None and completion.tier not in ("", self._context.model.service_tier)

    def _learn(self, reserved: Reserved, usage: Usage | None, paid_usd: float) -> None:
        """Later bounds hold what this reply shows."""
        if paid_usd > reserved.sent_usd * (1 + 1e-9):
            self._allowance.add(beyond=1, beyond_usd=paid_usd - reserved.sent_usd)
        self._allowance.learn(reserved.bounds.beyond(usage, paid_usd, self._context, self._allowance.terms.excess))

    def _hold_more(self) -> None:
        """What is under way may come to as much as what was learnt since it was sent: no other request gets those dollars."""
        excess = self._allowance.terms.excess
        for reserved in self._under_way:
            more_usd = reserved.bounds.worst_usd(self._context, excess) - reserved.usd
            if more_usd > 0:
                reserved.usd += more_usd
                self._allowance.hold(more_usd)
