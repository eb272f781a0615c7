"""Greedy answers of a local checkpoint through transformers: the reference that the served models are compared with.

Prompts are answered in batches of similar length, left-padded; cost: a few hundred answers a second on two cores for
the demo models. For real sets use a lane of `jobs.lanes`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

MAX_NEW_TOKENS = 24
"""Above the longest right answer (17 characters) and the end token."""


def render(tokenizer: Any, prompt: str) -> str:
    """The text a chat server makes of one user message: what the models were trained to continue."""
    text: str = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
    )
    return text


@torch.inference_mode()
def greedy_answers(model: Any, tokenizer: Any, prompts: Sequence[str], batch_size: int = 128) -> list[str]:
    """One answer per prompt, in order, at temperature 0, cut at the end token or after MAX_NEW_TOKENS."""
    texts = [render(tokenizer, prompt) for prompt in prompts]
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    answers = [""] * len(texts)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = tokenizer(
            [texts[i] for i in rows], return_tensors="pt", padding=True, padding_side="left", add_special_tokens=False
        )
        output = model.generate(**batch, max_new_tokens=MAX_NEW_TOKENS, do_sample=False)
        new = tokenizer.batch_decode(output[:, batch["input_ids"].shape[1] :], skip_special_tokens=True)
        for i, answer in zip(rows, new, strict=True):
            answers[i] = answer
    return answers
