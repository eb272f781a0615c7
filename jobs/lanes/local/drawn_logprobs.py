"""Log-probabilities of the tokens that transformers draws, which `generate` itself gives only of all words at once."""

from __future__ import annotations

from typing import Any

import torch
from transformers import LogitsProcessor


class DrawnLogprobs(LogitsProcessor):
    """Keeps the log-probability of each token that was drawn: before temperature and the like, as vLLM and OpenAI tell it.

    A step's scores are looked at when the next one shows what was drawn from them, so that one step is in memory, not all
    (32 answers of 1,000 tokens from 150,000 words: 20 MB, not 20 GB).
    """

    def __init__(self) -> None:
        self._scores: torch.Tensor | None = None
        self._found: list[torch.Tensor] = []

    def __call__(self, input_ids: Any, scores: Any) -> Any:
        self._draw(input_ids[:, -1])
        self._scores = scores.float()
        return scores

    def of(self, tokens: torch.Tensor) -> list[list[float]]:
        """Log-probabilities of the new tokens, rows x steps; those of padding mean nothing."""
        self._draw(tokens[:, -1])
        return torch.stack(self._found, dim=1).tolist()

    def _draw(self, drawn: torch.Tensor) -> None:
        if self._scores is not None:
            scores = self._scores
            self._found.append(scores.gather(1, drawn[:, None])[:, 0] - scores.logsumexp(dim=1))
            self._scores = None
