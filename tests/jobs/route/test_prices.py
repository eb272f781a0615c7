"""What calls cost by how they are made: own rates first, then the list's, then half of the standard one, and said so."""

from __future__ import annotations

import io
from datetime import date
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from jobs.errors import SpecError
from jobs.report.terminal import bill_table
from jobs.route.plan.plan import plan_fingerprint
from jobs.route.plan.prices import Rates, model_rates
from jobs.spec.loader import parse_spec
from routing.pricing import Price, half_price, tier_price


def rates(**model: Any) -> Rates:
    """Of the strong model of a job."""
    strong = {"engine": "openai", "model": "nobody-knows-it"} | model
    data = {
        "input": {"path": "x.parquet", "prompt": "q"}, "output": "out", "router": "random",
        "models": {"w": {"engine": "vllm", "source": "org/w"}, "s": strong}, "weak": "w", "strong": "s",
        "policy": {"strong_share": 0.3},
    }  # fmt: skip
    return model_rates(parse_spec(data), "s")


OWN = {"input": 2.0, "output": 8.0, "cached_input": 0.5}


def test_own_rates_win() -> None:
    price = {"per_million": OWN, "batch": {"input": 0.9, "output": 3.0}, "flex": {"input": 1.1, "output": 5.0}}
    at_once, batch = rates(price=price), rates(price=price, engine="openai_batch")
    flex = rates(price=price, service_tier="flex")
    assert at_once.used == Price(2.0, 8.0, 0.5)
    assert batch.used == Price(0.9, 3.0)
    assert (flex.used, flex.full) == (Price(1.1, 5.0), Price(2.0, 8.0, 0.5))
    assert (at_once.full, batch.full) == (None, None)
    assert set(at_once.known()) == {"standard", "flex", "batch"}
    assert {each.source for each in (at_once, batch, flex)} == {"job file"}
    assert rates(price={"batch": OWN}, engine="openai_batch").used == Price(2.0, 8.0, 0.5)


def test_half_is_assumed_and_said() -> None:
    batch, flex = (
        rates(price={"per_million": OWN}, engine="openai_batch"),
        rates(price={"per_million": OWN}, service_tier="flex"),
    )
    assert (batch.used.input_usd_per_million, batch.used.output_usd_per_million) == (1.0, 4.0)
    assert batch.assumed == "s: batch rate assumed, half of the standard one"
    assert (flex.used.output_usd_per_million, flex.full) == (4.0, Price(2.0, 8.0, 0.5))
    assert "flex rate assumed" in flex.assumed
    assert half_price(Price(2.0, 8.0, 1.5)).cached_input_usd_per_million == 1.0


def test_list_rates() -> None:
    listed = rates(model="gpt-5", engine="openai_batch")
    assert listed.assumed == ""
    assert listed.source == "genai-prices"
    assert listed.standard is not None
    assert listed.used.input_usd_per_million == listed.standard.input_usd_per_million / 2
    assert "flex" in rates(model="gpt-5").known()
    assert tier_price("gpt-4o", None, date(2026, 11, 21), "flex") is None, "no rate of its own in that tier"
    assert set(rates(model="gpt-4o").known()) == {"standard", "batch"}


@pytest.mark.parametrize(
    ("model", "words"),
    [
        ({}, "no known price"),
        ({"engine": "openai_batch"}, "no known price"),
        ({"service_tier": "flex", "price": {"flex": OWN}}, "no known standard price"),
    ],
)
def test_what_nobody_knows_is_asked_for(model: dict[str, Any], words: str) -> None:
    with pytest.raises(SpecError, match=f"models.s.price: {words}"):
        rates(**model)


def test_the_bill_shows_what_other_ways_of_asking_would_cost() -> None:
    entry = {"rows": 10, "usd": 6.0, "usd_by_rate": {"standard": 12.0, "batch": 6.0}}
    console = Console(width=100, file=io.StringIO(), force_terminal=False)
    console.print(bill_table({"by_model": {"gpt": entry, "small": {"rows": 5, "usd": 0.0, "usd_by_rate": {}}}}))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "gpt: $12.00 at once, $6.00 in batches (up to 24 h)" in shown
    assert "small: $" not in shown


def test_what_the_provider_says_it_charged_is_booked_and_the_plan_says_so() -> None:
    listed, own = rates(model="gpt-5", price="provider"), rates(price={"provider": True, "per_million": OWN})
    assert listed.used == rates(model="gpt-5").used
    assert own.used == Price(2.0, 8.0, 0.5)
    assert listed.assumed == own.assumed == "s: booked is what the provider says a reply cost; planned is by tokens"
    batch = rates(price={"provider": True, "per_million": OWN}, engine="openai_batch")
    assert batch.assumed.startswith("s: batch rate assumed") and batch.assumed.endswith("planned is by tokens")


def test_a_plan_needs_a_price_before_anything_is_charged() -> None:
    with pytest.raises(SpecError) as refused:
        rates(price="provider")
    assert str(refused.value) == (
        "models.s.price: provider says what a reply has cost, not what 'nobody-knows-it' will cost, and no price of it is known; "
        "give price: {provider: true, per_million: {input: …, output: …}} for plan and cap"
    )


@pytest.mark.parametrize("price", ["provider", {"provider": True}])
def test_a_model_that_runs_here_says_no_price(price: Any) -> None:
    with pytest.raises(
        SpecError, match=r"price\.provider is for APIs, .*engine vllm runs here: give price\.per_million"
    ):
        rates(engine="vllm", source="org/s", price=price)


@pytest.mark.parametrize("price", ["free", {"provider": "yes please"}, {"provider": True, "gpu_hour_usd": 2}])
def test_other_words_for_a_price_are_refused_in_one_line(price: Any) -> None:
    with pytest.raises(SpecError, match=r"models\.s\.price") as refused:
        rates(price=price)
    assert "\n" not in str(refused.value)


def test_what_is_booked_of_replies_makes_no_other_plan() -> None:
    """Nor does a run of before this key plan anew."""
    run: Any = SimpleNamespace(identity=SimpleNamespace(fingerprints={}))

    def mark(price: Any) -> str:
        model = {"engine": "openai", "price": price}
        data = {
            "input": {"path": "x.parquet", "prompt": "q"}, "output": "out", "router": "random", "policy": {"strong_share": 0.3},
            "models": {"w": {"engine": "vllm", "source": "org/w"}, "s": model}, "weak": "w", "strong": "s",
        }  # fmt: skip
        return plan_fingerprint(run, parse_spec(data))

    own = {"per_million": OWN}
    assert mark(own) == mark(own | {"provider": True}) != mark({"per_million": OWN | {"output": 9.0}})
