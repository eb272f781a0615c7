"""Tiny local checkpoints for tests: a Llama over characters with a chat template, loadable by vLLM and by transformers.

Weights are random (seeded), so answers mean nothing; what a lane does with them is real: tokens, limits, errors. Making
one takes well under a second. `demo_model` hands out the trained models of `jobs.demo` where they are present.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from jobs.demo.train_models import CONTEXT, build_tokenizer

SHARPNESS = 6.0
"""Factor on the initial weights: logits far apart, so that engines that round differently pick the same token."""


def tiny_checkpoint(folder: Path, seed: int = 0) -> Path:
    """Write a random checkpoint of 0.1 M parameters with a context of `CONTEXT` tokens to `folder`, and return it."""
    torch.manual_seed(seed)
    tokenizer = build_tokenizer()
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),  # more ids than tokens, and sampled ids decode to nothing
            hidden_size=64,
            intermediate_size=176,
            num_hidden_layers=2,
            num_attention_heads=2,  # heads of 32: the smallest vLLM's CPU attention takes
            max_position_embeddings=CONTEXT,
            tie_word_embeddings=True,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(SHARPNESS)
    model.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def demo_model(name: str) -> Path:
    """The folder of the demo's trained model `weak` or `strong`; skips the test where it has not been trained."""
    folder = Path(__file__).parent.parent / "jobs" / "demo" / "models" / name
    if not (folder / "model.safetensors").exists():
        pytest.skip(f"{folder} not present (python -m jobs.demo.train_models)")
    return folder
