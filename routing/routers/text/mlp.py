"""Multilayer perceptron: two layers of 100 from text vectors to the quality of every model (RouterBench's MLP).

Trained in torch (Adam, squared error over the known qualities alone, so one net serves all models), stopped by a
held-out tenth, averaged over a few nets with different held-out rows; predicted in numpy, so a loaded router needs no
torch. Fit: about a second per thousand rows. Predict: bounded by making the n-grams. Needs thousands of rows to beat
the linear router. Legend: n prompts, m models, d vector dimensions, h hidden units, e nets.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from routing.data.training_data import TrainingData, as_outcomes
from routing.errors import RoutingError
from routing.routers.text.base import TextRouter

MIN_ROWS = 20
"""Fewer rows cannot both train and stop a net; the router then predicts each model's mean."""
BATCH, LEARNING_RATE, PATIENCE = 64, 1e-3, 8
BLOCK = 64
"""Prompts per matrix product, short blocks padded: BLAS sums every row the same way, alone and in a batch."""
Arrays = dict[str, NDArray[np.float32]]
SHAPES = ("w1", "b1", "w2", "b2", "w3", "b3")


class MLPRouter(TextRouter):
    """Perceptrons of two hidden layers with ReLU, averaged and clipped to [0, 1].

    hidden: default 100, RouterBench's; h, units of each layer.
    n_nets: default 3; e, nets averaged, each with other held-out rows.
    epochs: default 100; passes over the training rows at most (PATIENCE without progress ends a net earlier).
    weight_decay: default 0.01; AdamW's.
    features: JSON spec of the text features, see `routing.features.registry.make_features`; default None, hashed n-grams in
        4,096 buckets.
    n_components: default 128; k, directions that hashed n-grams are projected on; an encoder keeps its width.
    structure_weight: default 0.2; standard deviation of a structure count beside text vectors of length 1; 0 leaves the form
        out.
    seed: default 0; of the projection, the held-out rows and the starts of the nets.
    """

    name: ClassVar[str] = "mlp"

    def __init__(
        self,
        hidden: int = 100,
        n_nets: int = 3,
        epochs: int = 100,
        weight_decay: float = 0.01,
        features: Mapping[str, Any] | None = None,
        n_components: int = 128,
        structure_weight: float = 0.2,
        seed: int = 0,
    ) -> None:
        if min(hidden, n_nets, epochs) < 1 or weight_decay < 0:
            raise RoutingError("router 'mlp': hidden, n_nets and epochs must be at least 1, weight_decay not negative")
        self.hidden, self.n_nets, self.epochs, self.weight_decay = hidden, n_nets, epochs, weight_decay
        self._use_space(features, n_components, structure_weight, seed)

    def fit(self, data: TrainingData) -> Self:
        """Train the nets on centred qualities; with fewer than MIN_ROWS rows every model has its mean.

        Raises RoutingError for no rows, or a model without a known quality.
        """
        outcomes = as_outcomes(data)
        means = self._start_fit(outcomes).astype(np.float32)
        vectors = self._space.fit(outcomes.prompts)
        quality = outcomes.quality - means
        # A model that is always equally good has nothing to explain; its column stays exactly zero.
        constant = np.nanmax(quality, axis=0) == np.nanmin(quality, axis=0)
        d, m, h = vectors.shape[1], len(means), self.hidden
        shapes = dict(zip(SHAPES, [(d, h), (h,), (h, h), (h,), (h, m), (m,)], strict=True))
        self.nets_: Arrays = {name: np.zeros((self.n_nets, *shape), np.float32) for name, shape in shapes.items()}
        if len(outcomes) >= MIN_ROWS and not constant.all():
            for e in range(self.n_nets):
                for name, value in self._train(vectors, quality, self.seed * 1000 + e).items():
                    self.nets_[name][e] = value
        self.nets_["w3"][..., constant] = 0
        self.nets_["b3"][..., constant] = 0
        self.mean_quality_ = means
        return self

    def _predict_chunk(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        result = np.empty((len(prompts), len(self.models_)), np.float32)
        vectors = self._space.transform(prompts)
        net = self.nets_
        padded = np.zeros((BLOCK, vectors.shape[1]), np.float32)
        for start in range(0, len(prompts), BLOCK):
            part = vectors[start : start + BLOCK]
            padded[: len(part)], padded[len(part) :] = part, 0
            first = np.maximum(padded @ net["w1"] + net["b1"][:, None], 0)
            second = np.maximum(first @ net["w2"] + net["b2"][:, None], 0)
            third = (second @ net["w3"] + net["b3"][:, None]).mean(axis=0)
            result[start : start + BLOCK] = np.clip(third[: len(part)] + self.mean_quality_, 0, 1)
        return result

    def state(self) -> dict[str, NDArray[Any]]:
        """`w1` (e, d, h), `b1` (e, h), `w2` (e, h, h), `b2` (e, h), `w3` (e, h, m), `b3` (e, m), `mean_quality` (m,), and the
        space's.
        """
        return {**super().state(), **self.nets_, "mean_quality": self.mean_quality_}

    def load_state(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Inverse of `state`. Raises KeyError or ValueError for arrays that are missing or misshapen."""
        super().load_state(arrays)
        e, h, m = self.n_nets, self.hidden, len(self.models_)
        shapes = [(e, -1, h), (e, h), (e, h, h), (e, h), (e, h, m), (e, m)]
        self.nets_ = {name: arrays[name].reshape(shape) for name, shape in zip(SHAPES, shapes, strict=True)}
        self.mean_quality_ = arrays["mean_quality"].reshape(m)

    def _train(self, vectors: NDArray[np.float32], quality: NDArray[np.float32], seed: int) -> Arrays:
        """One net on centred quality (n, m), NaN where unknown; its arrays by name."""
        import torch  # two seconds to import, which prediction does without

        known = ~np.isnan(quality)
        x, y, mask = (
            torch.from_numpy(np.asarray(part, np.float32)) for part in (vectors, np.nan_to_num(quality), known)
        )
        # Inputs of about unit variance overall, one factor for all dimensions so that the leading ones still lead.
        scale = float(1 / max(1e-6, vectors.std()))
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(x), generator=generator)
        held, train = order[: max(1, len(x) // 10)], order[max(1, len(x) // 10) :]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            net = torch.nn.Sequential(
                torch.nn.Linear(x.shape[1], self.hidden),
                torch.nn.ReLU(),
                torch.nn.Linear(self.hidden, self.hidden),
                torch.nn.ReLU(),
                torch.nn.Linear(self.hidden, y.shape[1]),
            )

        def error(rows: Any) -> Any:
            squares = torch.square(net(x[rows] * scale) - y[rows]) * mask[rows]
            return squares.sum() / mask[rows].sum().clamp(min=1)

        optimiser = torch.optim.AdamW(net.parameters(), lr=LEARNING_RATE, weight_decay=self.weight_decay)
        best, best_error, waited = _arrays(net, scale), float("inf"), 0
        for _ in range(self.epochs):
            for rows in torch.split(train[torch.randperm(len(train), generator=generator)], BATCH):
                optimiser.zero_grad()
                error(rows).backward()
                optimiser.step()
            with torch.no_grad():
                now = float(error(held))
            waited += 1
            if now < best_error:
                best, best_error, waited = _arrays(net, scale), now, 0
            if waited >= PATIENCE:
                break
        return best


def _arrays(net: Any, scale: float) -> Arrays:
    """Weights as (inputs, outputs), the scale of the inputs folded into the first."""
    w1, b1, w2, b2, w3, b3 = (part.detach().numpy().copy() for part in net.parameters())
    return {"w1": w1.T * scale, "b1": b1, "w2": w2.T, "b2": b2, "w3": w3.T, "b3": b3}
