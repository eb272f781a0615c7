"""Outcomes: what each of several models did with each of many prompts. Legend: n prompts, m models."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Outcomes:
    """A prompts x models table; unknown entries are NaN (numbers) or None (text)."""

    ids: Sequence[str]
    """n identifiers."""
    prompts: Sequence[str]
    """n prompt texts."""
    datasets: Sequence[str]
    """n names of the set (or category) each prompt came from."""
    models: tuple[str, ...]
    """m model names."""
    quality: NDArray[np.float32]
    """(n, m), 0..1."""
    cost_usd: NDArray[np.float64] | None = None
    """(n, m), dollars a call; None where the table has no cost."""
    responses: NDArray[np.object_] | None = None
    """(n, m) of str or None."""
    prompt_tokens: NDArray[np.float64] | None = None
    """(n, m)."""
    completion_tokens: NDArray[np.float64] | None = None
    """(n, m)."""
    latency_s: NDArray[np.float64] | None = None
    """(n, m)."""
