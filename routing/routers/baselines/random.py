"""Random routing: the baseline every learned router must beat (APGR 0.5). Nothing to train, 1 microsecond a prompt.

The draw is a hash of seed and prompt, so it depends neither on the batch nor on the order, and equal prompts go the
same way. Legend: n prompts, m models.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import blake2b
from typing import ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from routing.data.training_data import TrainingData, as_outcomes
from routing.routers.base import Router, check_models


class RandomRouter(Router):
    """Expected qualities drawn uniformly from [0, 1).

    With two models 1 - u and u, as a pairwise router gives them: a threshold t on the win rate then sends a share of 1 - t to
    the strong model. With another number of models every entry is a draw of its own.

    models: m names, weakest first; default (), those of the data it is fitted on.
    seed: default 0; another seed is another draw for every prompt.
    """

    name: ClassVar[str] = "random"
    needs_training: ClassVar[bool] = False

    def __init__(self, models: Sequence[str] = (), seed: int = 0) -> None:
        self.models, self.seed = list(check_models(models)), seed
        if self.models:
            self.models_ = tuple(self.models)

    def fit(self, data: TrainingData) -> Self:
        """Take over the models of `data`; there is nothing to learn."""
        self._start_fit(as_outcomes(data))
        return self

    def predict(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """(n, m) float32 in [0, 1), a hash of seed and prompt. Raises RoutingError where no models are known."""
        m = len(self._require_models())
        key = str(self.seed).encode()[:64]
        words = bytearray()
        for prompt in prompts:
            words += blake2b(prompt.encode("utf-8", "surrogatepass"), key=key, digest_size=8).digest()
        draws = np.frombuffer(bytes(words), "<u8")
        if m == 2:
            u = _uniform(draws)
            return np.stack([1 - u, u], 1)
        # A different odd multiplier per model, then the finaliser of splitmix64: independent streams from one hash.
        steps = np.arange(1, m + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        mixed = draws[:, None] + steps
        mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return _uniform(mixed ^ (mixed >> np.uint64(31)))


def _uniform(words: NDArray[np.uint64]) -> NDArray[np.float32]:
    """The top 24 bits, what a float32 in [0, 1) can tell apart."""
    result: NDArray[np.float32] = (words >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)
    return result
