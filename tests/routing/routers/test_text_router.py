"""What routers on text share: prediction in chunks, and one regression per model."""

import numpy as np
import pytest

from routing.data.outcomes import Outcomes
from routing.routers.registry import create
from routing.routers.text import base as text
from routing.routers.text.base import chunks, regress_each

SMALL = {"features": {"kind": "hashed", "n_features": 256}, "n_components": 8}


def sums(n):
    prompts = [f"add {i} and {i % 7}" if i % 2 else f"prove theorem {i} {'at length ' * (i % 5)}" for i in range(n)]
    quality = np.random.default_rng(0).random((n, 2)).astype(np.float32)
    return Outcomes([str(i) for i in range(n)], prompts, ["d"] * n, ("weak", "strong"), quality)


def test_chunks_cover_the_prompts_within_both_limits(monkeypatch):
    monkeypatch.setattr(text, "CHUNK_ROWS", 3)
    monkeypatch.setattr(text, "CHUNK_CHARS", 10)
    prompts = ["a", "b", "c", "d", "x" * 50, "e", "", "f"]
    parts = [prompts[rows] for rows in chunks(prompts)]
    assert parts == [["a", "b", "c"], ["d", "x" * 50], ["e", "", "f"]]
    assert list(chunks([])) == []


@pytest.mark.parametrize("name", ["linear", "knn", "category", "gp", "forest", "similarity", "mlp", "calibrated"])
def test_the_cuts_do_not_show_and_no_transform_sees_more_than_a_chunk(name, monkeypatch):
    router = create(name, **SMALL, **({"epochs": 2, "n_nets": 1} if name == "mlp" else {})).fit(sums(60))
    prompts = sums(50).prompts
    whole = router.predict(prompts)
    monkeypatch.setattr(text, "CHUNK_ROWS", 7)
    asked = []
    features = router._space.features
    transform = features.transform
    monkeypatch.setattr(features, "transform", lambda some: asked.append(len(some)) or transform(some))
    np.testing.assert_array_equal(router.predict(prompts), whole)
    assert max(asked, default=0) <= 7


def test_a_model_without_contrast_or_rows_gets_its_mean():
    inputs = np.random.default_rng(0).normal(size=(20, 3))
    quality = np.full((20, 3), np.nan, np.float32)
    quality[:, 0], quality[:2, 1], quality[:, 2] = 0.5, [0, 1], inputs[:, 1]
    asked = []

    def regress(x, y):
        asked.append(len(y))
        return np.linalg.lstsq(x, y, rcond=None)[0], 0.0

    weights, intercept = regress_each(inputs, quality, regress)
    assert asked == [20]
    np.testing.assert_allclose(weights, [[0, 0, 0], [0, 0, 1], [0, 0, 0]], atol=1e-6)
    np.testing.assert_allclose(intercept, [0.5, 0.5, 0])
