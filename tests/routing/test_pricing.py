"""Prices: arithmetic to the cent, list prices without a network, bounds that hold."""

from __future__ import annotations

import math
import socket
from datetime import date

import numpy as np
import pytest

from routing.errors import RoutingError
from routing.pricing import (
    Price,
    default_price,
    prompt_tokens_bound,
    tokens_cost_usd,
)

DAY = date(2026, 11, 21)


def test_tokens_cost_scalar_and_array():
    price = Price(2.5, 10.0, 1.25)
    assert tokens_cost_usd(price, 1_000_000, 100_000) == pytest.approx(3.5)
    assert tokens_cost_usd(price, 1_000_000, 0, 400_000) == pytest.approx(0.6 * 2.5 + 0.4 * 1.25)
    assert isinstance(tokens_cost_usd(price, 10, 1), float)
    prompt, completion = np.array([1_000, 0]), np.array([10, 20])
    dollars = tokens_cost_usd(price, prompt, completion)
    np.testing.assert_allclose(dollars, [(2500 + 100) / 1e6, 200 / 1e6])
    assert dollars.dtype == np.float64


def test_cached_tokens_cost_like_the_others_where_no_price_is_set_and_never_less_than_nothing():
    assert tokens_cost_usd(Price(3, 0), 100, 0, 60) == tokens_cost_usd(Price(3, 0), 100, 0)
    assert tokens_cost_usd(Price(3, 0, 0.3), 100, 0, 250) == pytest.approx(100 * 0.3 / 1e6)


def test_unknown_tokens_stay_unknown():
    assert math.isnan(tokens_cost_usd(Price(3, 1), math.nan, 5))


def test_long_prompts_cost_their_own_price_throughout():
    price = Price(3, 15, long_prompt_tokens=200_000, long_prompt=Price(6, 22.5))
    got = tokens_cost_usd(price, np.array([200_000, 200_001]), np.array([1000, 1000]))
    np.testing.assert_allclose(got, [(200_000 * 3 + 15_000) / 1e6, (200_001 * 6 + 22_500) / 1e6])


@pytest.mark.parametrize(
    "field", ["input_usd_per_million", "output_usd_per_million", "cached_input_usd_per_million", "gpu_hour_usd"]
)
@pytest.mark.parametrize("value", [-0.01, math.nan, math.inf])
def test_negative_prices_are_refused_by_name(field, value):
    with pytest.raises(RoutingError, match=rf"price\.{field} must be a finite number of dollars, 0 or more"):
        Price(**{field: value})


@pytest.fixture
def no_network(monkeypatch):
    """Any attempt to open a connection fails the test."""

    def refuse(*args, **kwargs):
        raise AssertionError("a price look-up opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize(
    ("model", "base_url", "dollars", "matched"),
    [
        ("gpt-4o-2024-08-06", None, (2.5, 10, 1.25), "openai/"),
        ("gpt-4-1106-preview", "https://api.openai.com/v1", (10, 30, None), "openai/"),
        ("gpt-4o", "http://127.0.0.1:8000/v1", (2.5, 10, 1.25), "openai/"),
        ("openai/gpt-4o", None, (2.5, 10, 1.25), "openai/"),
        ("openai/gpt-4o", "https://openrouter.ai/api/v1", (2.5, 10, 1.25), "openrouter/"),
    ],
)
def test_list_prices_come_from_the_package(model, base_url, dollars, matched):
    price = default_price(model, base_url, DAY)
    assert price is not None
    assert (price.input_usd_per_million, price.output_usd_per_million, price.cached_input_usd_per_million) == dollars
    assert price.source.startswith("genai-prices ")
    assert matched in price.source


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("model", ["", "strong", "/models/llama-small", "s3://bucket/model", "text-embedding-3-small"])
def test_a_model_without_a_list_price_has_none(model):
    assert default_price(model, None, DAY) is None


def test_batch_rates_and_tiers():
    standard, batch = default_price("gpt-4o", None, DAY), default_price("gpt-4o", None, DAY, "batch")
    assert batch.input_usd_per_million == standard.input_usd_per_million / 2
    tiered = default_price("gemini-2.5-pro", None, DAY)
    assert tiered.long_prompt_tokens == 200_000
    assert tiered.long_prompt.input_usd_per_million > tiered.input_usd_per_million


def test_prompt_bound_counts_bytes_and_messages():
    assert prompt_tokens_bound([{"role": "user", "content": "héllo"}]) == 6 + 8
    assert prompt_tokens_bound([{"role": "system", "content": "ab"}, {"role": "user", "content": "c"}]) == 3 + 16
    assert prompt_tokens_bound([{"role": "user", "content": [{"type": "text", "text": "abc"}, "de"]}]) == 5 + 8
    assert prompt_tokens_bound([{"role": "assistant", "content": None, "name": "bob"}]) == 3 + 8
    assert prompt_tokens_bound([{"role": "user", "content": "\ud800"}]) == 3 + 8
    with pytest.raises(RoutingError, match="part of type 'image_url'"):
        prompt_tokens_bound([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}])
