"""Always one model: the two ends that every curve lies between (all weak, all strong), as routers.

Nothing to train. Where it is fitted, "strong" and "weak" are the models of highest and lowest mean known quality
there (the later and the earlier one on a tie); unfitted, the last and the first of `models`. Legend: n prompts, m
models, weakest first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from routing.data.training_data import TrainingData, as_outcomes
from routing.errors import RoutingError
from routing.routers.base import Router, check_models


class AlwaysRouter(Router):
    """Expected quality 1 for one model and 0 for the others, whatever the prompt.

    models: m names, weakest first; default (), those of the data it is fitted on.
    choice: default "strong"; "strong", "weak" or a model's name.
    """

    name: ClassVar[str] = "always"
    needs_training: ClassVar[bool] = False

    def __init__(self, models: Sequence[str] = (), choice: str = "strong") -> None:
        self.models, self.choice = list(check_models(models)), choice
        if not isinstance(choice, str):
            raise RoutingError(f"router 'always': choice is {choice!r}; it must be strong, weak or a model's name")
        if self.models:
            self.models_ = tuple(self.models)
            self.chosen_ = self._position(np.arange(len(self.models)))

    def fit(self, data: TrainingData) -> Self:
        """Take over the models of `data`, and the choice among them. Raises RoutingError for a name that is not one of them."""
        self.chosen_ = self._position(self._start_fit(as_outcomes(data)))
        return self

    def predict(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """(n, m) float32: 1 in the column of the choice, 0 elsewhere."""
        row = np.zeros(len(self._require_models()), np.float32)
        row[self.chosen_] = 1
        return np.tile(row, (len(prompts), 1))

    def state(self) -> dict[str, NDArray[Any]]:
        """`chosen` (1,): column of the choice."""
        self._require_models()
        return {"chosen": np.array([self.chosen_], np.int32)}

    def load_state(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Inverse of `state`. Raises ValueError for a column that is not there."""
        self.chosen_ = int(arrays["chosen"].reshape(1)[0])
        if not 0 <= self.chosen_ < len(self.models_):
            raise ValueError(f"chosen model {self.chosen_} of {len(self.models_)}")

    def _position(self, strength: NDArray[Any]) -> int:
        """Column of the choice, given how strong each model is, (m,)."""
        if self.choice in self.models_:
            return self.models_.index(self.choice)
        if self.choice == "weak":
            return int(np.argmin(strength))
        if self.choice == "strong":
            return len(strength) - 1 - int(np.argmax(strength[::-1]))
        raise RoutingError(
            f"router 'always': choice is {self.choice!r}; it must be strong, weak or one of {', '.join(self.models_)}"
        )
