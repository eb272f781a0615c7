"""Prices: tokens and GPU time into dollars, and what a bill says about where a price came from.

Own prices (the job file's) always win; else the `genai-prices` package has dated provider prices, read here from the
table inside the package: no network, and the same job gives the same bill. Dollars are float64; a price is dollars
per million tokens. Token counts follow OpenAI: cached tokens are part of the prompt's, reasoning tokens part of the
completion's. Everything is arithmetic on scalars or arrays; the first look-up loads the table (0.5 s).
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, overload

import genai_prices
import numpy as np
from genai_prices.types import TieredPrices
from numpy.typing import NDArray

from routing.errors import RoutingError

OWN = "job file"
MESSAGE_TOKENS = 8
"""Bound on what a chat format adds to a message; OpenAI's adds 3, and 3 to the whole."""


@dataclass(frozen=True, slots=True)
class Price:
    """What a model costs: by token, or by the hour of the GPUs it runs on. Raises RoutingError for a negative price."""

    input_usd_per_million: float = 0.0
    output_usd_per_million: float = 0.0
    cached_input_usd_per_million: float | None = None
    """None: cached prompt tokens cost what the others do."""
    gpu_hour_usd: float | None = None
    """Dollars for one GPU for one hour; such a model's tokens cost nothing beside it."""
    long_prompt_tokens: int | None = None
    """Calls with more prompt tokens than this cost `long_prompt` throughout. None: one price for all."""
    long_prompt: Price | None = None
    source: str = OWN
    """`job file`, or `genai-prices <version>` and what was matched."""

    def __post_init__(self) -> None:
        if (self.long_prompt is None) != (self.long_prompt_tokens is None):
            raise RoutingError("price.long_prompt and price.long_prompt_tokens belong together: give both or neither")
        for name in ("input_usd_per_million", "output_usd_per_million", "cached_input_usd_per_million", "gpu_hour_usd"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise RoutingError(f"price.{name} must be a finite number of dollars, 0 or more, not {value!r}")


@overload
def tokens_cost_usd(
    price: Price, prompt_tokens: float, completion_tokens: float, cached_tokens: float = 0
) -> float: ...


@overload
def tokens_cost_usd(
    price: Price,
    prompt_tokens: NDArray[Any],
    completion_tokens: NDArray[Any] | float,
    cached_tokens: NDArray[Any] | float = 0,
) -> NDArray[np.float64]: ...


def tokens_cost_usd(price: Price, prompt_tokens: Any, completion_tokens: Any, cached_tokens: Any = 0) -> Any:
    """Dollars of calls with these token counts, scalars or arrays of one shape. Not known (NaN) in, not known out.

    price: per token; GPU time is not in it.
    prompt_tokens: of each call; past `long_prompt_tokens` all of its tokens cost `long_prompt`.
    completion_tokens: of each call, reasoning included.
    cached_tokens: counted inside prompt_tokens; a provider that reports them beside (Anthropic) is for the lane to add up.
    """
    prompt, completion = np.asarray(prompt_tokens, np.float64), np.asarray(completion_tokens, np.float64)
    cached = np.minimum(np.asarray(cached_tokens, np.float64), prompt)
    dollars = _flat_cost_usd(price, prompt, completion, cached)
    if price.long_prompt is not None and price.long_prompt_tokens is not None:
        dollars = np.where(
            prompt > price.long_prompt_tokens, _flat_cost_usd(price.long_prompt, prompt, completion, cached), dollars
        )
    return dollars if dollars.ndim else float(dollars)


def _flat_cost_usd(price: Price, prompt: Any, completion: Any, cached: Any) -> NDArray[np.float64]:
    per_cached = price.cached_input_usd_per_million
    per_cached = price.input_usd_per_million if per_cached is None else per_cached
    total = (prompt - cached) * price.input_usd_per_million + cached * per_cached
    return np.asarray((total + completion * price.output_usd_per_million) / 1e6, np.float64)


def default_price(provider_model: str, base_url: str | None, on: date, service_tier: str | None = None) -> Price | None:
    """The provider's list price on a day, None where the package knows no such model.

    The provider is the one whose API `base_url` belongs to; of any other address (a gateway, a replay server) and of none, the
    one the model's name points to: `openai/gpt-4o` or `gpt-4o`. Prices that change with the hour are those of noon UTC.

    provider_model: the model's name at its provider.
    base_url: of the API it is asked at; None for the provider's own.
    on: the day.
    service_tier: `batch`, `flex`, `priority`, where the provider has such rates; None for the standard one.
    """
    noon = datetime(on.year, on.month, on.day, 12, tzinfo=UTC)
    tier = {"processing" if service_tier == "batch" else "service_tier": service_tier} if service_tier else None
    places: list[dict[str, str]] = [{"provider_api_url": base_url}] if base_url else []
    places += [{"provider_id": "litellm"}] if "/" in provider_model else [{}]
    for place in places:
        try:
            found = genai_prices.calc_price(
                genai_prices.Usage(input_tokens=0, output_tokens=0),
                provider_model,
                genai_request_timestamp=noon,
                price_context=tier,
                **place,
            )
        except LookupError:
            continue
        rates = found.model_price
        if rates.input_mtok is None or rates.output_mtok is None:
            continue
        source = f"genai-prices {genai_prices.__version__}: {found.provider.id}/{found.model.id}"
        return _price(rates.input_mtok, rates.output_mtok, rates.cache_read_mtok, source)
    return None


def tier_price(provider_model: str, base_url: str | None, on: date, tier: str) -> Price | None:
    """The list price in a cheaper tier; None where the package has no rate of that tier's own.

    provider_model, base_url, on: as in `default_price`.
    tier: `batch` or `flex`.
    """
    standard = default_price(provider_model, base_url, on)
    found = default_price(provider_model, base_url, on, tier)
    return None if found is None or found == standard else found


def half_price(price: Price) -> Price:
    """Half of a metered price: what providers charge for batches and slow tiers.

    Cached tokens stay at their rate where that is less: not every provider halves it, and a bill may say too much.
    """
    input_usd, cached = price.input_usd_per_million / 2, price.cached_input_usd_per_million
    return replace(
        price,
        input_usd_per_million=input_usd,
        output_usd_per_million=price.output_usd_per_million / 2,
        cached_input_usd_per_million=None if cached is None else min(cached, input_usd),
        long_prompt=None if price.long_prompt is None else half_price(price.long_prompt),
        source=f"half of {price.source}",
    )


Rate = Decimal | TieredPrices


def _price(input_rate: Rate, output_rate: Rate, cached_rate: Rate | None, source: str) -> Price:
    """Two or more tiers become two, the upper one at the dearest rate: a bill may say too much, never too little."""
    rates = [input_rate, output_rate, cached_rate]
    low = [None if r is None else float(r.base if isinstance(r, TieredPrices) else r) for r in rates]
    starts = [tier.start for r in rates if isinstance(r, TieredPrices) for tier in r.tiers]
    if not starts:
        return Price(low[0] or 0.0, low[1] or 0.0, low[2], source=source)
    high = [
        max([float(r.base), *(float(tier.price) for tier in r.tiers)]) if isinstance(r, TieredPrices) else same
        for r, same in zip(rates, low, strict=True)
    ]
    upper = Price(high[0] or 0.0, high[1] or 0.0, high[2], source=source)
    return Price(low[0] or 0.0, low[1] or 0.0, low[2], long_prompt_tokens=min(starts), long_prompt=upper, source=source)


def prompt_tokens_bound(messages: Sequence[Mapping[str, Any]]) -> int:
    """Most prompt tokens that chat messages can come to: UTF-8 bytes + 8 per message. For reservations.

    Holds for tokenizers that fall back to bytes, as all current ones do. What a chat template adds of its own (a
    default system prompt), tools and a response schema are not in it. Raises RoutingError for a part that is not
    text: its tokens cannot be told from its bytes.
    """
    return sum(_message_bytes(message) for message in messages) + MESSAGE_TOKENS * len(messages)


def _message_bytes(message: Mapping[str, Any]) -> int:
    total = 0
    for field, value in message.items():
        if field == "role" or value is None:
            continue
        if isinstance(value, str):
            total += _utf8_bytes(value)
        elif field == "content" and isinstance(value, list):
            for part in value:
                if isinstance(part, str):
                    total += _utf8_bytes(part)
                elif isinstance(part, Mapping) and isinstance(part.get("text"), str):
                    total += _utf8_bytes(part["text"])
                else:
                    kind = part.get("type") if isinstance(part, Mapping) else type(part).__name__
                    raise RoutingError(f"messages: content has a part of type {kind!r}; only text has a token bound")
        else:
            total += _utf8_bytes(json.dumps(value, ensure_ascii=False))
    return total


def _utf8_bytes(text: str) -> int:
    """Lone surrogates, which UTF-8 cannot hold, count as the 3 bytes of the replacement character."""
    return len(text.encode("utf-8", "surrogatepass"))
