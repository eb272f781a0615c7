"""Small outcomes with a rule to learn: prompts of two topics, and models that are each good at one of them."""

from __future__ import annotations

import numpy as np

from routing.data.outcomes import Outcomes

TOPICS = {"algebra": "solve the equation for x and simplify", "poetry": "write a verse about the river at night"}


def two_topics(
    n: int = 240, seed: int = 0, models: tuple[str, ...] = ("org/weak-7b", "strong-model"), cost: bool = True
) -> Outcomes:
    """The first model is right on poetry (90 %) and seldom on algebra (20 %), the last one nearly always; dollars 1 to 30."""
    rng = np.random.default_rng(seed)
    topics = rng.choice(list(TOPICS), n)
    hard = (topics == "algebra").astype(float)
    skill = np.linspace(0, 1, len(models))
    right = np.where(hard[:, None] > 0, 0.2 + 0.75 * skill, 0.9 + 0.05 * skill)
    quality = (rng.random((n, len(models))) < right).astype(np.float32)
    dollars = np.geomspace(1, 30, len(models)) * 1e-3 * rng.uniform(0.8, 1.2, (n, 1))
    return Outcomes(
        ids=[str(i) for i in range(n)],
        prompts=[f"{TOPICS[topic]}, number {i} of {rng.integers(1000)}" for i, topic in enumerate(topics)],
        datasets=topics.tolist(),
        models=models,
        quality=quality,
        cost_usd=dollars if cost else None,
    )
