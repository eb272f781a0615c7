"""Matrix factorization: a score of model M for prompt q from a learned vector per model and a projection of the prompt.

RouteLLM (arXiv 2406.18665, section 4.2.2): delta(M, q) = w2 . (v_M * (W1' v_q + b)), P(a beats b) = sigmoid(delta(a, q) -
delta(b, q)), fitted to battles by Adam on the cross-entropy, with noise on the text vectors. Once fitted, delta is
linear in v_q for every model, so the factors collapse into one weight column per model on loading and on saving:
predicting costs what making the text vectors costs (0.5 ms a prompt of hashed text). Training: epochs x battles, about
20,000 battles a second on one core. Prefer `similarity` below a few hundred battles. Legend: n prompts, N distinct
training prompts, d dimensions of text, m models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from routing.errors import RoutingError
from routing.preferences import Preferences
from routing.routers.base import Router, TrainingData, check_models
from routing.routers.space import TextSpace
from routing.tiers import win_rates

TIES = ("half", "drop")


class FactorizationRouter(Router):
    """Win rates from factors of models and prompts.

    `models`: the models to give win rates for, weakest first; by default all of the training data. All battles train
    the projection, whoever fought them. A name "tier-0" (the strongest) to "tier-9" puts one vector per tier in place
    of one per model. `form`: "paper" has the bias b and free model vectors; "code" scales model vectors to unit length
    and has no b. `ties`: "half" counts a tie as half a win for both, "drop" leaves ties out as the published code does
    (the win rate is then that of decided battles). `noise`: standard deviation added to every coordinate of a text
    vector in training, with vectors of unit length; the published code has 0.1 on 1,536 dimensions.
    """

    name: ClassVar[str] = "mf"
    pairwise: ClassVar[bool] = True

    def __init__(
        self,
        models: Sequence[str] = (),
        form: str = "paper",
        ties: str = "half",
        dim: int = 128,
        epochs: int = 30,
        batch_size: int = 64,
        learning_rate: float = 3e-4,
        weight_decay: float = 1e-5,
        noise: float = 0.1,
        n_tiers: int = 10,
        features: Mapping[str, Any] | None = None,
        n_components: int = 256,
        structure_weight: float = 0.1,
        seed: int = 0,
    ) -> None:
        if form not in ("paper", "code") or ties not in TIES:
            raise RoutingError(f"router 'mf': form is {form!r} and ties {ties!r}; paper or code, and half or drop")
        if min(dim, epochs, batch_size, n_tiers - 1) < 1 or learning_rate <= 0 or min(weight_decay, noise) < 0:
            raise RoutingError(
                "router 'mf': dim, epochs and batch_size must be at least 1, learning_rate above 0, weight_decay and"
                " noise not negative, n_tiers at least 2"
            )
        self.models, self.form, self.ties, self.dim = list(check_models(models)), form, ties, dim
        self.epochs, self.batch_size, self.learning_rate = epochs, batch_size, learning_rate
        self.weight_decay, self.noise, self.n_tiers = weight_decay, noise, n_tiers
        self.features = dict(features or {"kind": "hashed", "n_features": 2**13})
        self.n_components, self.structure_weight, self.seed = n_components, structure_weight, seed
        self._space = TextSpace(self.features, n_components, structure_weight, seed)

    def fit(self, data: TrainingData) -> Self:
        battles = self._start_pairs(data, self.models, self.n_tiers)
        position = {prompt: row for row, prompt in enumerate(dict.fromkeys(battles.prompts or data.prompts))}
        vectors = self._space.fit(list(position))
        weights = np.zeros((vectors.shape[1], len(self.models_)))
        intercept = np.zeros(len(self.models_))
        if len(battles):
            fought = battles.models
            rows = np.array([position[prompt] for prompt in battles.prompts], np.intp)
            columns = [fought.index(name) for name in self.models_]
            all_weights, all_intercepts = self._train(battles, fought, vectors, rows)
            weights, intercept = all_weights[:, columns], all_intercepts[columns]
        # Rounded here, not on saving: a loaded router predicts exactly what the fitted one does.
        self.weights_ = self._space.collapse(weights).astype(np.float32)
        self.intercept_ = intercept
        return self

    def _train(
        self, battles: Preferences, models: Sequence[str], vectors: NDArray[np.float32], rows: NDArray[np.intp]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The collapsed factors, (d, m) and (m,), of delta = v_q @ weights + intercept."""
        import torch
        from torch.nn import functional

        label = torch.from_numpy(battles.winner.astype(np.float32))
        a, b = map(torch.from_numpy, battles.sides(models))
        prompt, text = torch.from_numpy(rows), torch.from_numpy(vectors)
        used = torch.arange(len(label)) if self.ties == "half" else torch.nonzero(label != 0.5).flatten()
        if not len(used):
            raise RoutingError("router 'mf': all battles are ties and ties are dropped; give ties='half'")
        draw = torch.Generator().manual_seed(self.seed)
        d, m = text.shape[1], len(models)
        model_vectors = torch.randn(m, self.dim, generator=draw)
        # As torch.nn.Linear starts: uniform within 1 / sqrt(inputs).
        w1 = (2 * torch.rand(d, self.dim, generator=draw) - 1) / d**0.5
        w2 = (2 * torch.rand(self.dim, generator=draw) - 1) / self.dim**0.5
        bias = torch.zeros(self.dim)
        learnt = [model_vectors, w1, w2, *([bias] if self.form == "paper" else [])]
        for tensor in learnt:
            tensor.requires_grad_()

        def of_models() -> torch.Tensor:
            return functional.normalize(model_vectors, dim=1) if self.form == "code" else model_vectors

        adam = torch.optim.Adam(learnt, lr=self.learning_rate, weight_decay=self.weight_decay)
        for _ in range(self.epochs):
            shuffled = used[torch.randperm(len(used), generator=draw)]
            for at in range(0, len(used), self.batch_size):
                batch = shuffled[at : at + self.batch_size]
                q = text[prompt[batch]]
                q = q + self.noise * torch.randn(q.shape, generator=draw)
                v = of_models()
                logit = ((v[a[batch]] - v[b[batch]]) * (q @ w1 + bias)) @ w2
                loss = functional.binary_cross_entropy_with_logits(logit, label[batch])
                adam.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                adam.step()
        with torch.no_grad():
            scaled = (of_models() * w2).double()
            return (w1.double() @ scaled.T).numpy(), (bias.double() @ scaled.T).numpy()

    def predict(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        self._require_models()
        if not len(prompts):
            return np.empty((0, len(self.models_)), np.float32)
        return win_rates(self._space.linear(prompts, self.weights_.astype(np.float64)) + self.intercept_)

    def hyperparameters(self) -> dict[str, Any]:
        return {
            "models": self.models,
            "form": self.form,
            "ties": self.ties,
            "dim": self.dim,
            "epochs": self.epochs,
            "batch_size": self.batch_size,
            "learning_rate": self.learning_rate,
            "weight_decay": self.weight_decay,
            "noise": self.noise,
            "n_tiers": self.n_tiers,
            "features": self.features,
            "n_components": self.n_components,
            "structure_weight": self.structure_weight,
            "seed": self.seed,
        }

    def state(self) -> dict[str, NDArray[Any]]:
        self._require_models()
        return {"weights": self.weights_, "intercept": self.intercept_, **self._space.state(projection=False)}

    def load_state(self, arrays: dict[str, NDArray[Any]]) -> None:
        self._space.load_state(arrays, projection=False)
        self.weights_ = arrays["weights"].reshape(-1, len(self.models_))
        self.intercept_ = arrays["intercept"].reshape(len(self.models_))
