"""Matrix factorization: a score of model M for prompt q from a learned vector per model and a projection of the prompt.

RouteLLM (arXiv 2406.18665, section 4.2.2): delta(M, q) = w2 . (v_M * (W1' v_q + b)), P(a beats b) = sigmoid(delta(a, q) -
delta(b, q)), fitted to battles by Adam on the cross-entropy, with noise on the text vectors. Once fitted, delta is
linear in v_q for every model, so the factors collapse into one weight column per model on loading and on saving:
predicting costs what making the text vectors costs. Training: epochs x prompts, a batch holding all battles of its
prompts; 600 rows of 11 models (33,000 battles, 30 epochs) take 8 s with their features on one core, where a step per
64 battles took 43 s and ranked no better. Prefer `similarity` below a few hundred battles. Legend: n prompts, N distinct
training prompts, d dimensions of text, m models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from routing.data.preferences import Preferences
from routing.data.tiers import win_rates
from routing.data.training_data import TrainingData
from routing.errors import RoutingError
from routing.routers.base import check_models
from routing.routers.text.base import LinearTextRouter

TIES = ("half", "drop")


class FactorizationRouter(LinearTextRouter):
    """Win rates from factors of models and prompts. All battles train the projection, whoever fought them.

    models: m names to give win rates for, weakest first; default (), all of the training data. "tier-0" (the strongest) to
        "tier-9" put one vector per tier in place of one per model.
    form: default "paper", with the bias b and free model vectors; "code": model vectors of unit length and no b.
    ties: default "half", a tie is half a win for both; "drop" leaves ties out as the published code does (the win rate is then
        that of decided battles).
    dim: default 128, the paper's; width of the factors.
    epochs: default 30; passes over the prompts.
    batch_size: default 64; battles of a step where every prompt has one; more where they have several.
    learning_rate: default 3e-4, the published code's; Adam's.
    weight_decay: default 1e-5; Adam's.
    noise: default 0.1; standard deviation added to every coordinate of a text vector in training, with vectors of unit length;
        the published code has 0.1 on 1,536 dimensions.
    n_tiers: default 10, at least 2; tiers made where `models` names tiers.
    features: JSON spec of the text features, see `routing.features.registry.make_features`; default None, hashed n-grams in
        8,192 buckets.
    n_components: default 256; k, directions that hashed n-grams are projected on; an encoder keeps its width.
    structure_weight: default 0.1; standard deviation of a structure count beside text vectors of length 1; 0 leaves the form
        out.
    seed: default 0; of the projection, the starts and the batches.
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
        self._use_space(features, n_components, structure_weight, seed, 2**13)

    def fit(self, data: TrainingData) -> Self:
        """Fit the factors by Adam and collapse them into weights on the text.

        Raises RoutingError for no battles, battles that are all ties where ties are dropped, or a model that the data does not
        have.
        """
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
        return self._keep(weights, intercept)

    def _train(
        self, battles: Preferences, models: Sequence[str], vectors: NDArray[np.float32], rows: NDArray[np.intp]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """The collapsed factors, (d, m) and (m,), of delta = v_q @ weights + intercept."""
        import torch
        from torch.nn import functional

        used = np.flatnonzero(battles.winner != 0.5) if self.ties == "drop" else np.arange(len(battles))
        if not len(used):
            raise RoutingError("router 'mf': all battles are ties and ties are dropped; give ties='half'")
        # By prompt: a prompt's vector is read once for all of its battles, 55 of them with the outcomes of 11 models.
        used = used[np.argsort(rows[used], kind="stable")]
        prompt, count = np.unique(rows[used], return_counts=True)
        label = torch.from_numpy(battles.winner[used].astype(np.float32))
        a, b = (torch.from_numpy(side[used]) for side in battles.sides(models))
        text = torch.from_numpy(vectors[prompt])
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

        # With c battles a prompt a step holds sqrt(c) times as many battles, of sqrt(c) times fewer prompts, and is as much
        # longer: an epoch moves the factors as far as with one battle a prompt.
        fold = (len(used) / len(prompt)) ** 0.5
        rate, n_prompts = self.learning_rate * fold, math.ceil(self.batch_size / fold)
        adam = torch.optim.Adam(learnt, lr=rate, weight_decay=self.weight_decay, fused=True)
        first = np.cumsum(count) - count
        for _ in range(self.epochs):
            shuffled = torch.randperm(len(prompt), generator=draw)
            for batch in torch.split(shuffled, n_prompts):
                q = text[batch]
                q = q + self.noise * torch.randn(q.shape, generator=draw)
                delta = (q @ w1 + bias) @ (of_models() * w2).T
                battle, row = map(torch.from_numpy, _ranges(first[batch.numpy()], count[batch.numpy()]))
                logit = delta[row, a[battle]] - delta[row, b[battle]]
                loss = functional.binary_cross_entropy_with_logits(logit, label[battle])
                adam.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                adam.step()
        with torch.no_grad():
            scaled = (of_models() * w2).double()
            return (w1.double() @ scaled.T).numpy(), (bias.double() @ scaled.T).numpy()

    def _predict_chunk(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        return win_rates(self._scores(prompts))


def _ranges(first: NDArray[np.intp], count: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """The numbers first[i] .. first[i] + count[i] - 1 of every i in order, and the i of each."""
    row = np.repeat(np.arange(len(first)), count)
    return np.arange(len(row)) - (np.cumsum(count) - count - first)[row], row
