"""Causal LLM: label tokens [[1]] to [[5]] after an instruction say how well a model would answer (RouteLLM).

The distribution over the five labels is read from one forward pass at the last position (RouteLLM generates up to six
tokens a prompt). Two models: only the weak one is asked about, and the win rate of the strong one is 1 - P(score >= 4).
Another number of models: one pass per model, whose name stands in the instruction, and its expected quality is the
mean of (score - 1) / 4. Labels: known quality in five steps (right 5, wrong 1); of a pair's battles, how the weak
model fared: won 5, tie 4 (a tie counts for the weak model), lost 1. Fine-tuned by LoRA (extra `lora`), merged when
done, or in full, on the cross-entropy over the five labels. Cost at full size: `benchmarks.training_cost`.

The folder `model/` of the artifact is an ordinary checkpoint: vLLM loads it, takes `token_ids`, and gives the same
distribution with `logprobs_mode="processed_logprobs"` and `SamplingParams(max_tokens=1, logprobs=5,
allowed_token_ids=label_token_ids_)`; the name of the model asked about comes last, so its prefix cache pays for the
prompt once. Legend: n prompts, m models, b rows of a batch, V vocabulary.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from routing.data.preferences import Preferences
from routing.data.training_data import TrainingData, as_outcomes
from routing.errors import RoutingError
from routing.features.device import choose_device
from routing.routers.base import check_models
from routing.routers.neural.base import NeuralRouter, autocast, place, pretrained_model, pretrained_tokenizer
from routing.routers.neural.training import seeded
from routing.text import whole

INSTRUCTION = (
    "How well would a language model answer the request below? Rate its answer from 1 (wrong or useless) to 5 (right"
    " and complete).\n\nRequest:\n{prompt}\n\nRating of the answer by {model}:"
)
LABEL_TOKENS = ("[[1]]", "[[2]]", "[[3]]", "[[4]]", "[[5]]")
GOOD = 3
"""Position of score 4, from which on the weak model's answer will do."""
FEWEST_PROMPT_TOKENS = 8
LORA_DROPOUT = 0.05


class CausalRouter(NeuralRouter):
    """Fine-tuned causal LLM. Batched = single to 1e-5 in float32, to 1e-2 in bf16.

    A GPU holds bf16 weights, but for a full fine-tune; a prompt too long for `max_length` loses its middle, the instruction
    nothing.

    source: default Meta-Llama-3-8B, RouteLLM's; any causal LLM by hub id or folder.
    instruction: default INSTRUCTION; holds {prompt} once and may hold {model}.
    label_tokens: default LABEL_TOKENS; five, worst first; those that the vocabulary lacks are added as special tokens that
        start from the digits' embeddings.
    lora_rank: default 16; of the adapters; 0 fine-tunes in full, as RouteLLM did.
    max_length: default 2048; tokens of instruction and prompt.
    steps: default 2000; of the fine-tuning.
    batch_size: default 16; rows of a step.
    learning_rate: default 1e-4; AdamW's at its highest; a full fine-tune wants a hundredth of it.
    weight_decay: default 0.01; on matrices.
    tokens_per_batch: default 8,192; padded tokens of one forward pass: what bounds memory.
    validation_share: default 0.1; rows held out, by prompt, for the losses that `on_progress` hears.
    seed: default 0; of the held-out rows, the batches, dropout and new weights.
    """

    name: ClassVar[str] = "causal"

    def __init__(
        self,
        source: str = "meta-llama/Meta-Llama-3-8B",
        instruction: str = INSTRUCTION,
        label_tokens: Sequence[str] = LABEL_TOKENS,
        lora_rank: int = 16,
        max_length: int = 2048,
        steps: int = 2000,
        batch_size: int = 16,
        learning_rate: float = 1e-4,
        weight_decay: float = 0.01,
        tokens_per_batch: int = 8192,
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
        if instruction.count("{prompt}") != 1:
            raise RoutingError("router 'causal': instruction must hold {prompt} exactly once")
        if len(label_tokens) != len(LABEL_TOKENS) or len(set(label_tokens)) != len(LABEL_TOKENS) or lora_rank < 0:
            raise RoutingError(
                "router 'causal': label_tokens must be five different tokens, worst first; lora_rank 0 or more"
            )
        self.instruction, self.label_tokens, self.lora_rank = instruction, tuple(label_tokens), lora_rank

    @classmethod
    def from_checkpoint(cls, source: str, models: Sequence[str], **hyperparameters: Any) -> Self:
        """A trained router from a checkpoint fine-tuned elsewhere, whose vocabulary holds the label tokens.

        `models`: (weak, strong), or more, weakest first. Give the `instruction` it was trained with. Raises RoutingError
        where a label is not one token.
        """
        router = cls(source, **hyperparameters)
        router.models_, router.weak_ = check_models(models), 0
        router._open(source)
        return router

    def fit(self, data: TrainingData) -> Self:
        """Fine-tune on the cross-entropy over the five labels; adapters are merged when done.

        Raises RoutingError as `BertRouter.fit` does, and where LoRA's package is missing.
        """
        import torch

        if self.lora_rank and importlib.util.find_spec("peft") is None:
            raise RoutingError(
                "router 'causal': LoRA needs the extra: pip install 'headgate[lora]', or lora_rank 0 for a full fine-tune"
            )
        if isinstance(data, Preferences) and len(data.models) == 2:
            battles = self._start_pairs(data)
            self.weak_ = 0
            prompts, asked, scores = battles.prompts, [0] * len(battles), _battle_scores(battles, self.models_)
        else:
            outcomes = as_outcomes(data)
            self.weak_ = int(self._start_fit(outcomes).argmin())
            rows, columns = np.nonzero(~np.isnan(outcomes.quality))
            if self._is_pair():
                rows, columns = rows[columns == self.weak_], columns[columns == self.weak_]
            prompts, asked = [outcomes.prompts[row] for row in rows], columns.tolist()
            scores = np.floor(4 * outcomes.quality[rows, columns] + 0.5).astype(np.int64)
        self._check_contrast(prompts, scores)
        with seeded(self.seed):
            self._open(self.source, training=True)
            self._add_labels()
            ids = self._inputs(prompts, [self.models_[j] for j in asked])
            wanted = torch.from_numpy(scores).to(self._model.device)
            if self.lora_rank:
                self._model = _with_adapters(self._model, self.lora_rank)

            def row_losses(rows: NDArray[np.intp]) -> Any:
                logits = self._label_logits([ids[row] for row in rows])
                return torch.nn.functional.cross_entropy(logits, wanted[rows], reduction="none")

            self._fine_tune(self._model, row_losses, prompts, [len(row) for row in ids])
        if self.lora_rank:
            self._model = self._model.merge_and_unload()
        self._model = place(self._model.to(_dtype()))
        return self

    def predict(self, prompts: Sequence[str]) -> NDArray[np.float32]:
        """(n, m) float32 in [0, 1]: P(score < 4) of the weak model is a pair's win rate, else the mean score of each model."""
        models = self._require_model()
        result = np.empty((len(prompts), len(models)), np.float32)
        if self._is_pair():
            good = self.label_probabilities(prompts, models[self.weak_])[:, GOOD:].sum(axis=1)
            result[:, self.weak_], result[:, 1 - self.weak_] = good, 1 - good
        else:
            for j, model in enumerate(models):
                result[:, j] = self.label_probabilities(prompts, model) @ np.linspace(0, 1, len(self.label_tokens))
        return np.clip(result, 0, 1)

    def label_probabilities(self, prompts: Sequence[str], model: str) -> NDArray[np.float32]:
        """(n, 5): how probable each score of `model`'s answer is."""
        self._require_model()
        if not len(prompts):
            return np.empty((0, len(self.label_tokens)), np.float32)
        return self._score(
            prompts, lambda rows: self.token_ids(rows, model), lambda ids: self._label_logits(ids).softmax(1)
        )

    def token_ids(self, prompts: Sequence[str], model: str) -> list[list[int]]:
        """The input per prompt: instruction with the prompt and the model's name in it, ready for any engine."""
        self._require_model()
        return self._inputs(prompts, [model] * len(prompts))

    def state(self) -> dict[str, NDArray[Any]]:
        """`weak` (1,): column of the weak model; the rest is in `model/`. Raises RoutingError for a router that is not fitted."""
        self._require_model()
        return {"weak": np.array([self.weak_])}

    def load_state(self, arrays: dict[str, NDArray[Any]]) -> None:
        """Inverse of `state`. Raises KeyError or ValueError for a column that is missing or out of range."""
        self.weak_ = int(arrays["weak"][0])
        if not 0 <= self.weak_ < len(self.models_):
            raise ValueError(f"weak model {self.weak_} of {len(self.models_)}")

    @property
    def pairwise(self) -> bool:  # type: ignore[override]
        """True for two models, whose win rates `predict` gives."""
        return self._is_pair()

    def _is_pair(self) -> bool:
        return len(getattr(self, "models_", ())) == 2

    def _open(self, source: str, training: bool = False, **options: Any) -> None:
        import torch
        from transformers import AutoModelForCausalLM

        self._tokenizer = pretrained_tokenizer(source)
        # Adam's updates are too small for bf16 weights: those that are trained themselves stay in float32.
        dtype = torch.float32 if training and not self.lora_rank else _dtype()
        self._model = pretrained_model(AutoModelForCausalLM, source, dtype=dtype, **options)
        if not training:
            self._find_labels()

    def _add_labels(self) -> None:
        """Make every label one token of the vocabulary; a new one starts as its digit, in and out."""
        import torch
        from tokenizers import AddedToken

        missing = [token for token in self.label_tokens if self._one_token(token) is None]
        if missing:
            self._tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in missing])
            size = max(len(self._tokenizer), self._model.get_input_embeddings().num_embeddings)
            self._model.resize_token_embeddings(size, mean_resizing=False)
        self._find_labels()
        weights = {
            id(table.weight): table.weight
            for table in (self._model.get_input_embeddings(), self._model.get_output_embeddings())
        }
        with torch.no_grad():
            for score, (token, row) in enumerate(zip(self.label_tokens, self.label_token_ids_, strict=True), start=1):
                digit = self._one_token(str(score))
                if token in missing and digit is not None:
                    for weight in weights.values():
                        weight[row] = weight[digit]

    def _find_labels(self) -> None:
        """Set `label_token_ids_`. Raises RoutingError where a label is not one token."""
        found = [self._one_token(token) for token in self.label_tokens]
        if None in found or len(set(found)) != len(found):
            raise RoutingError("router 'causal': the tokenizer does not hold every label as a token of its own")
        self.label_token_ids_: tuple[int, ...] = tuple(row for row in found if row is not None)

    def _one_token(self, text: str) -> int | None:
        ids = self._tokenizer.encode(text, add_special_tokens=False)
        return int(ids[0]) if len(ids) == 1 and ids[0] != self._tokenizer.unk_token_id else None

    def _inputs(self, prompts: Sequence[str], models: Sequence[str]) -> list[list[int]]:
        """Token ids of the filled instruction, one row per prompt and model; a long prompt loses its middle."""
        if not len(prompts):
            return []
        limit = min(self.max_length, getattr(self._model.config, "max_position_embeddings", self.max_length))
        before, after = self.instruction.split("{prompt}")
        frames = {}
        for model in set(models):
            first, last = (
                self._tokenizer.encode(part.replace("{model}", model), add_special_tokens=False)
                for part in (before, after)
            )
            frames[model] = self._start_ids() + first, last
        # A prompt is text: what looks like a control token or a label in it is spelled out.
        clean = [whole(prompt) for prompt in prompts]
        texts = self._tokenizer(clean, add_special_tokens=False, split_special_tokens=True)["input_ids"]
        rows = []
        for text, model in zip(texts, models, strict=True):
            first, last = frames[model]
            room = limit - len(first) - len(last)
            if room < FEWEST_PROMPT_TOKENS:
                raise RoutingError(
                    f"router 'causal': the instruction leaves {room} of max_length {limit} tokens to the prompt; shorten it"
                )
            if len(text) > room:
                text = text[: room - room // 2] + text[len(text) - room // 2 :]
            rows.append(first + text + last)
        return rows

    def _start_ids(self) -> list[int]:
        """The token that the tokenizer starts a text with, if any."""
        start = self._tokenizer.bos_token_id
        return [start] if start is not None and start in self._tokenizer.encode("")[:1] else []

    def _label_logits(self, ids: list[list[int]]) -> Any:
        """(b, 5) float32 at the last position of every row.

        Padding stands on the right, where causal attention keeps it out of every real position: no mask, the faster
        kernel, positions as of the row alone. The (V, width) product is made at the distinct last positions only.
        """
        import torch

        width = max(map(len, ids))
        device = self._model.device
        batch = torch.tensor([row + [row[-1]] * (width - len(row)) for row in ids], device=device)
        ends, place_of = torch.unique(torch.tensor([len(row) - 1 for row in ids], device=device), return_inverse=True)
        with autocast(device):
            logits = self._model(input_ids=batch, use_cache=False, logits_to_keep=ends).logits
        rows = torch.arange(len(ids), device=device)
        return logits[rows, place_of][:, list(self.label_token_ids_)].float()


def _dtype() -> Any:
    """bf16 on a GPU, float32 on a CPU."""
    import torch

    return torch.bfloat16 if choose_device() == "cuda" else torch.float32


def _with_adapters(model: Any, rank: int) -> Any:
    """The model with LoRA adapters on every linear layer but the output layer."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=rank, lora_alpha=2 * rank, lora_dropout=LORA_DROPOUT, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    return get_peft_model(model, config)


def _battle_scores(battles: Preferences, models: Sequence[str]) -> NDArray[np.int64]:
    """(n,) positions 0..4 of the label: how the weak model fared; averaged labels lie between lost, tie and won."""
    first, _ = battles.sides(models)
    weak_wins = np.where(first == 0, battles.winner, 1 - battles.winner)
    scores: NDArray[np.int64] = np.floor(np.interp(weak_wins, [0, 0.5, 1], [0, GOOD, 4]) + 0.5).astype(np.int64)
    return scores
