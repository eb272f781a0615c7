"""Tiny untrained checkpoints for the neural routers, and data with a rule that they can learn.

An encoder (BERT or XLM-R) and a decoder (Llama) over words, 0.02 M parameters, random and seeded; written once per
process to a temporary folder that goes with it, in milliseconds.
"""

from __future__ import annotations

import atexit
import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    BertConfig,
    LlamaConfig,
    PreTrainedTokenizerFast,
    XLMRobertaConfig,
)

from routing.data.outcomes import Outcomes

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
WORDS = """
Add Prove Rating Request a add and answer better by carefully chapter complete even holds how long model number odd of
or please prove request right same that the theorem to useless well what wrong + : . ? ! ( ) [ ] 0 1 2 3 4 5 6 7 8 9
"""
CONTEXT = 128


def word_tokenizer() -> Any:
    """Known words, digits and marks a token each, else <unk>; <s> and </s> around a text, as XLM-R has it."""
    vocabulary = {token: i for i, token in enumerate((*SPECIAL, *dict.fromkeys(WORDS.split())))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.Punctuation()]
    )
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 2)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>",
        cls_token="<s>", sep_token="</s>", model_input_names=["input_ids", "attention_mask"],
    )  # fmt: skip


@cache
def encoder_folder(kind: str = "bert", seed: int = 0) -> str:
    """Folder of an untrained encoder of 2 layers and width 32; `kind`: bert or xlm-r."""
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    tokenizer = word_tokenizer()
    tokens = {"vocab_size": len(tokenizer), "pad_token_id": tokenizer.pad_token_id}
    config: Any = (
        BertConfig(**shape, **tokens, max_position_embeddings=CONTEXT)
        if kind == "bert"
        else XLMRobertaConfig(**shape, **tokens, max_position_embeddings=CONTEXT + 2, type_vocab_size=1)
    )
    return _write(AutoModel, config, tokenizer, seed)


@cache
def decoder_folder(seed: int = 0) -> str:
    """Folder of an untrained Llama of 2 layers and width 32."""
    tokenizer = word_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=CONTEXT,
        initializer_range=0.1,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return _write(AutoModelForCausalLM, config, tokenizer, seed)


def _write(auto_class: Any, config: Any, tokenizer: Any, seed: int) -> str:
    folder = Path(tempfile.mkdtemp(prefix="headgate-tiny-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = auto_class.from_config(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def ruled_outcomes(n: int = 300, m: int = 2, seed: int = 0, unknown: float = 0.05) -> Outcomes:
    """Proofs are hard for the early models, sums easy for all; a tenth of the labels is flipped, some are unknown."""
    rng = np.random.default_rng(seed)
    hard = rng.random(n) < 0.5
    prompts = [
        f"please {'prove carefully' if h else 'add'} {' '.join(str(d) for d in rng.integers(0, 10, rng.integers(3, 12)))}"
        for h in hard
    ]
    chance = np.where(hard[:, None], np.linspace(0.1, 0.9, m), 0.9)
    quality = (rng.random((n, m)) < chance).astype(np.float32)
    quality[rng.random((n, m)) < unknown] = np.nan
    names = tuple(f"model-{j}" for j in range(m))
    return Outcomes([str(i) for i in range(n)], prompts, ["made"] * n, names, quality)
