"""What a model's calls cost by how they are made: at once, in the flex tier, in batches; and which of it this job pays.

The job file's own prices win, rate by rate; then the dated list prices of `genai-prices`. A half-price rate that nobody
knows is taken as half of the standard one, which is what providers charge, and is marked as assumed.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date

from jobs.errors import SpecError
from jobs.spec.job import JobSpec
from jobs.spec.models import ModelSpec, PerMillion
from routing.errors import RoutingError
from routing.pricing import Price, default_price, half_price, tier_price

LIST = "genai-prices"


@dataclass(frozen=True, slots=True)
class Rates:
    """One model's prices."""

    used: Price
    """What this job's calls cost, by their engine and service tier."""
    source: str
    assumed: str = ""
    """One line where `used` rests on an assumption, or is not what is booked."""
    standard: Price | None = None
    """Of a call that is answered at once. None: not known, or not metered."""
    flex: Price | None = None
    batch: Price | None = None
    full: Price | None = None
    """What a call costs that the provider serves in its standard tier although flex was asked for; None without flex."""

    def known(self) -> dict[str, Price]:
        """`standard`, `flex` and `batch`, where known."""
        rates = {"standard": self.standard, "flex": self.flex, "batch": self.batch}
        return {name: price for name, price in rates.items() if price is not None}


def model_rates(spec: JobSpec, name: str) -> Rates:
    """Raises SpecError for a metered model whose price nobody knows."""
    model = spec.models[name]
    own = model.price
    if own is not None and own.gpu_hour_usd is not None:
        return Rates(Price(0.0, 0.0, gpu_hour_usd=own.gpu_hour_usd), "job file")
    if model.traits.runs == "here":
        if own is not None and own.per_million is not None:
            return Rates(_own(own.per_million), "job file")
        return Rates(Price(0.0, 0.0), "none given: counted as free")
    rates = {tier: getattr(own, field) for tier, field in _FIELDS.items()} if own is not None else {}
    given = {tier: _own(price) for tier, price in rates.items() if price is not None}
    # Rates of one source only: the list's batch rate says nothing about a price the owner has agreed on.
    listed = {} if "standard" in given else _listed(model, name)
    known = {**listed, **given}
    tier = "batch" if model.traits.runs == "batches" else "flex" if model.service_tier == "flex" else "standard"
    if tier == "flex" and "standard" not in known:
        raise SpecError(
            f"models.{name}.price: no known standard price for {model.model or name!r}, which a provider may charge for "
            "flex; give price: {per_million: {input: …, output: …}} beside flex"
        )
    used, assumed = known.get(tier), ""
    if used is None and "standard" in known:
        used = half_price(known["standard"])
        assumed = f"{name}: {tier} rate assumed, half of the standard one"
    charged = own is not None and own.provider
    if used is None and charged:
        raise SpecError(
            f"models.{name}.price: provider says what a reply has cost, not what {model.model or name!r} will cost, and no price "
            "of it is known; give price: {provider: true, per_million: {input: …, output: …}} for plan and cap"
        )
    if charged:
        said = f"{name}: booked is what the provider says a reply cost; planned is by tokens"
        assumed = f"{assumed}; {said}" if assumed else said
    if used is None:
        raise SpecError(
            f"models.{name}.price: no known price for {model.model or name!r}; "
            "give price: {per_million: {input: …, output: …}}"
        )
    source = "job file" if tier in given or "standard" in given else LIST
    full = known["standard"] if tier == "flex" else None
    return Rates(used, source, assumed, known.get("standard"), known.get("flex"), batch=known.get("batch"), full=full)


_FIELDS = {"standard": "per_million", "flex": "flex", "batch": "batch"}


def _own(price: PerMillion) -> Price:
    return Price(price.input, price.output, price.cached_input)


def _listed(model: ModelSpec, name: str) -> dict[str, Price]:
    """Today's list prices of a model, by tier."""
    provider_model = model.model or name
    try:
        standard = default_price(provider_model, model.base_url, date.today())
        tiers = {tier: tier_price(provider_model, model.base_url, date.today(), tier) for tier in ("flex", "batch")}
    except RoutingError:
        return {}
    return {tier: price for tier, price in ({"standard": standard} | tiers).items() if price is not None}
