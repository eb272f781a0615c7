"""BERT classifier: any encoder with a linear head on its pooled state, fine-tuned in full (RouteLLM, arXiv 2406.18665).

Of battles between two models it learns three labels (strong wins, tie, weak wins); the win rate is P(strong wins), a
tie counting for the weak model, as in RouteLLM, whose hub checkpoints `from_classifier` turns into an artifact. Of
outcomes (and of battles between more than two models, each a row that knows its two sides) it learns one sigmoid per
model by binary cross-entropy on soft labels, unknown ones masked: expected quality, for any number of models. Cost at
full size: `benchmarks.training_cost`. Below some thousand rows a linear router on embeddings learns more from less.
Legend: n prompts, m models, b rows of a batch, d width, L outputs of the head.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from routing.data.preferences import Preferences
from routing.data.training_data import TrainingData, as_outcomes
from routing.errors import RoutingError
from routing.routers.base import check_models
from routing.routers.neural.base import NeuralRouter, autocast, pretrained_model, pretrained_tokenizer
from routing.routers.neural.training import seeded
from routing.text import whole

POOLINGS = ("mean", "cls", "classifier")
BATTLE_LABELS = 3
"""Strong wins, tie, weak wins: the order of RouteLLM's checkpoints."""
HEAD_DROPOUT = 0.1


class BertRouter(NeuralRouter):
    """Fine-tuned encoder. Batched = single to 1e-5 in float32, to 1e-2 under bf16 autocast.

    source: default xlm-roberta-base, RouteLLM's; any encoder by hub id or folder.
    pooling: default "mean"; "mean" or "cls" states under a new linear head, or "classifier", the architecture's own head (what
        RouteLLM trained).
    max_length: default 512; tokens kept of a prompt.
    steps: default 2000, RouteLLM's; of the fine-tuning.
    batch_size: default 16, RouteLLM's; rows of a step.
    learning_rate: default 1e-5, RouteLLM's; AdamW's at its highest.
    weight_decay: default 0.01, RouteLLM's; on matrices.
    tokens_per_batch: default 16,384; padded tokens of one forward pass: what bounds memory.
    validation_share: default 0.1; rows held out, by prompt, for the losses that `on_progress` hears.
    seed: default 0; of the held-out rows, the batches, dropout and new weights.
    """

    name: ClassVar[str] = "bert"

    def __init__(
        self,
        source: str = "FacebookAI/xlm-roberta-base",
        pooling: str = "mean",
        max_length: int = 512,
        steps: int = 2000,
        batch_size: int = 16,
        learning_rate: float = 1e-5,
        weight_decay: float = 0.01,
        tokens_per_batch: int = 16_384,
        validation_share: float = 0.1,
        seed: int = 0,
    ) -> None:
        super().__init__(
            source=source,
            max_length=max_length,
            steps=steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
            weight_decay=weight_decay,
            tokens_per_batch=tokens_per_batch,
            validation_share=validation_share,
            seed=seed,
        )
        if pooling not in POOLINGS:
            raise RoutingError(f"router 'bert': pooling is {pooling!r}; it must be one of {', '.join(POOLINGS)}")
        self.pooling = pooling
        self._head: Any = None

    @classmethod
    def from_classifier(cls, source: str, models: Sequence[str], **hyperparameters: Any) -> Self:
        """A trained router from a three-label sequence classifier, such as RouteLLM's hub checkpoints.

        `models`: (weak, strong). Labels are taken in RouteLLM's order: strong wins, tie, weak wins. Raises RoutingError
        for another number of labels or models.
        """
        names = check_models(models)
        if len(names) != 2:
            raise RoutingError(f"router 'bert': models is {models!r}; a classifier of battles knows (weak, strong)")
        router = cls(source, pooling="classifier", **hyperparameters)
        router._open(source)
        labels = router._model.config.num_labels
        if labels != BATTLE_LABELS:
            raise RoutingError(
                f"router 'bert': the classifier {source!r} has {labels} labels, not 3 (strong wins, tie, weak wins)"
            )
        router.models_, router.n_outputs_ = names, BATTLE_LABELS
        return router

    def fit(self, data: TrainingData) -> Self:
        """Fine-tune on battles of two models (three labels), or on outcomes (a sigmoid per model).

        Raises RoutingError for no rows, one label throughout, one prompt, a source that is no usable encoder, a loss that is
        not finite, or too little GPU memory; half-trained weights are dropped.
        """
        import torch

        of_battles = isinstance(data, Preferences) and len(data.models) == 2
        if of_battles:
            battles = self._start_pairs(data)
            prompts, targets = battles.prompts, _battle_targets(battles, self.models_)
        else:
            outcomes = as_outcomes(data)
            self._start_fit(outcomes)
            outcomes = outcomes.select(np.flatnonzero(~np.isnan(outcomes.quality).all(axis=1)))
            prompts, targets = outcomes.prompts, outcomes.quality.astype(np.float32)
        self._check_contrast(prompts, targets)
        self.n_outputs_ = targets.shape[1]
        with seeded(self.seed):
            self._open(self.source, **self._new_parts())
            self._new_head(targets)
            ids = self._encode(prompts)
            known = torch.from_numpy(~np.isnan(targets)).to(self._model.device)
            wanted = torch.from_numpy(np.nan_to_num(targets)).to(self._model.device)

            def row_losses(rows: NDArray[np.intp]) -> Any:
                logits = self._logits([ids[row] for row in rows])
                if of_battles:
                    return torch.nn.functional.cross_entropy(logits, wanted[rows], reduction="none")
                each = torch.nn.functional.binary_cross_entropy_with_logits(logits, wanted[rows], reduction="none")
                return (each * known[rows]).sum(1) / known[rows].sum(1)

            module = torch.nn.ModuleList([part for part in (self._model, self._head) if part is not None])
            self._fine_tune(module, row_losses, prompts, [len(row) for row in ids])
        return self

    def predict(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """(n, m) float32: win rates of a pair, or expected quality per model. Raises RoutingError for a router that is not
        fitted.
        """
        models = self._require_model()
        if not len(prompts):
            return np.empty((0, len(models)), np.float32)
        return self._score(prompts, self._encode, self._quality)

    def state(self) -> dict[str, NDArray[Any]]:
        """`n_outputs` (1,), and unless the head is the classifier's `head.weight` (L, d), `head.bias` (L,); the rest is in
        `model/`.
        """
        self._require_model()
        arrays: dict[str, NDArray[Any]] = {"n_outputs": np.array([self.n_outputs_])}
        if self._head is not None:
            arrays |= {f"head.{name}": value.cpu().numpy() for name, value in self._head.state_dict().items()}
        return arrays

    def load_state(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Inverse of `state`. Raises KeyError or ValueError for arrays that are missing, or other outputs than the models have."""
        import torch

        self.n_outputs_ = int(arrays["n_outputs"][0])
        if self.n_outputs_ != (len(self.models_) if not self._of_battles else BATTLE_LABELS):
            raise ValueError(f"{self.n_outputs_} outputs for {len(self.models_)} models")
        if self.pooling != "classifier":
            weight, bias = arrays["head.weight"], arrays["head.bias"]
            self._head = torch.nn.Linear(weight.shape[1], self.n_outputs_)
            self._head.load_state_dict({"weight": torch.from_numpy(weight), "bias": torch.from_numpy(bias)})

    @property
    def pairwise(self) -> bool:  # type: ignore[override]
        """True where it learnt from battles of two models, whose win rates `predict` gives."""
        return self._of_battles

    @property
    def _of_battles(self) -> bool:
        """True for three labels of a pair, False for one sigmoid per model."""
        return len(getattr(self, "models_", ())) == 2 and self.n_outputs_ == BATTLE_LABELS

    def _open(self, source: str, **options: Any) -> None:
        import torch
        from transformers import AutoModel, AutoModelForSequenceClassification

        self._tokenizer = pretrained_tokenizer(source)
        if self._tokenizer.pad_token_id is None:
            raise RoutingError(f"router 'bert': the tokenizer of {source!r} has no padding token; choose an encoder")
        kind: Any = AutoModelForSequenceClassification if self.pooling == "classifier" else AutoModel
        self._model = pretrained_model(kind, source, dtype=torch.float32, **options)
        if self._head is not None:
            self._head.to(self._model.device)

    def _new_parts(self) -> dict[str, Any]:
        """What a checkpoint may lack at the start: the architecture's own head, or a pooler that is not used."""
        if self.pooling != "classifier":
            return {"new_parts": ("pooler",)}
        heads = ("classifier", "pre_classifier", "pooler", "bert.pooler", "head", "score")
        return {"new_parts": heads, "num_labels": self.n_outputs_, "ignore_mismatched_sizes": True}

    def _new_head(self, targets: NDArray[np.float32]) -> None:
        """A fresh linear head whose biases are the base rates, so that training starts from them and not from 1/2."""
        import torch

        self._head = None
        if self.pooling == "classifier":
            return
        rates = torch.from_numpy(np.clip(np.nanmean(targets, axis=0), 0.01, 0.99))
        self._head = torch.nn.Linear(self._model.config.hidden_size, self.n_outputs_)
        torch.nn.init.normal_(self._head.weight, std=0.02)
        with torch.no_grad():
            self._head.bias.copy_(rates.log() if self._of_battles else torch.logit(rates))
        self._head.to(self._model.device)

    def _encode(self, prompts: Sequence[str]) -> list[list[int]]:
        """Token ids per prompt, the end cut off at `max_length` or at what the encoder takes, whichever is less."""
        limit = min(self.max_length, self._tokenizer.model_max_length, _positions(self._model))
        encoded = self._tokenizer(
            [whole(prompt) for prompt in prompts], truncation=True, max_length=limit, padding=False
        )
        ids: list[list[int]] = encoded["input_ids"]
        return ids

    def _quality(self, ids: list[list[int]]) -> Any:
        """(b, m): 1 - win rate and win rate of a pair, or one sigmoid per model."""
        import torch

        logits = self._logits(ids)
        if not self._of_battles:
            return logits.sigmoid()
        win_rate = logits.softmax(1)[:, 0]
        return torch.stack([1 - win_rate, win_rate], 1)

    def _logits(self, ids: list[list[int]]) -> Any:
        """(b, L) float32 of rows of token ids; with dropout while the model is in training mode."""
        import torch

        batch = self._tokenizer.pad({"input_ids": ids}, return_tensors="pt").to(self._model.device)
        with autocast(self._model.device):
            output = self._model(**batch)
        if self._head is None:
            return output.logits.float()
        states = output.last_hidden_state.float()
        if self.pooling == "cls":
            pooled = states[:, 0]
        else:
            mask = batch["attention_mask"].unsqueeze(-1).float()
            pooled = (states * mask).sum(1) / mask.sum(1)
        return self._head(torch.nn.functional.dropout(pooled, HEAD_DROPOUT, self._model.training))


def _battle_targets(battles: Preferences, models: Sequence[str]) -> NDArray[np.float32]:
    """(n, 3): probabilities of strong wins, tie, weak wins; an averaged label lies between its two neighbours."""
    first, _ = battles.sides(models)
    strong_wins = np.where(first == 1, battles.winner, 1 - battles.winner)
    strong, weak = np.maximum(0, 2 * strong_wins - 1), np.maximum(0, 1 - 2 * strong_wins)
    targets: NDArray[np.float32] = np.stack([strong, 1 - strong - weak, weak], 1).astype(np.float32)
    return targets


def _positions(model: Any) -> int:
    """Tokens that a model's position table takes; RoBERTa's starts behind the padding index."""
    size = getattr(model.config, "max_position_embeddings", None) or 512
    tables = [module for name, module in model.named_modules() if name.endswith("position_embeddings")]
    offset = next((table.padding_idx + 1 for table in tables if getattr(table, "padding_idx", None) is not None), 0)
    return int(size) - offset
