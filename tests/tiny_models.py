"""Tiny local checkpoints for tests, and blocks of rows and contexts to run a local lane with.

A checkpoint is a Llama over characters with a chat template, loadable by vLLM and by transformers. Its weights are
random (seeded), so answers mean nothing; what a lane does with them is real: tokens, limits, errors. Making one takes
well under a second. `demo_model` hands out the trained models of `jobs.demo` where they are present.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from jobs.journal.reader import Journal
from jobs.lanes.base import LaneContext
from jobs.spec.models import ModelSpec
from jobs.storage.store import Store
from routing.pricing import Price

CONTEXT = 256
SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>", "<system>", "<user>", "<assistant>")
CHARACTERS = "\n" + "".join(map(chr, range(32, 127)))
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<' + message['role'] + '>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
SHARPNESS = 6.0
"""Factor on the initial weights: logits far apart, so that engines that round differently pick the same token."""


def char_tokenizer() -> Any:
    """One token a character, 3 more a user message. Like Llama's, it adds the <bos> that its template adds too."""
    vocabulary = {token: i for i, token in enumerate((*SPECIAL, *CHARACTERS))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT,
        clean_up_tokenization_spaces=False,
    )


def tiny_checkpoint(folder: Path, seed: int = 0) -> Path:
    """Write a random checkpoint of 0.1 M parameters with a context of `CONTEXT` tokens to `folder`, and return it."""
    torch.manual_seed(seed)
    tokenizer = char_tokenizer()
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


def ask_rows(prompts: list[str], **columns: Any) -> pa.Table:
    """A block of ASK_COLUMNS with one user message per prompt; `columns` replace those made here."""
    n = len(prompts)
    made: dict[str, Any] = {
        "row_key": [1000 + i for i in range(n)],
        "bucket": [i % 2 for i in range(n)],
        "messages": [json.dumps([{"role": "user", "content": prompt}]) for prompt in prompts],
        "body": [""] * n,
        "content_key": [bytes(16)] * n,
        "prompt_bytes": [len(prompt.encode()) for prompt in prompts],
        "sample": [False] * n,
    }
    kinds = [pa.int64(), pa.int32(), pa.string(), pa.string(), pa.binary(16), pa.int32(), pa.bool_()]
    made |= columns
    return pa.table({name: pa.array(made[name], kind) for name, kind in zip(made, kinds, strict=True)})


def lane_context(engine: str, source: Path, output: Path, **fields: Any) -> LaneContext:
    """A context for a local lane: temperature 0, 16 tokens, a price by tokens."""
    model = ModelSpec(engine=engine, source=str(source), **fields.pop("model", {}))
    given: dict[str, Any] = {
        "alias": "weak",
        "model": model,
        "sampling": {"temperature": 0, "max_tokens": 16},
        "response_format": None,
        "price": Price(1.0, 2.0),
        "output": str(output / "run"),
        "session": "s1",
        "local_dir": str(output / "logs"),
        "num_cpus": 0.5,
        "rows_per_block": 64,
    }
    return LaneContext(**given | fields)


def answers_by_key(context: LaneContext, n_rows: int) -> dict[int, dict[str, Any]]:
    """row_key → its row of the journal, once `n_rows` are there: the writer's last segment follows the last block."""
    deadline = time.monotonic() + 30
    while True:
        rows = {row["row_key"]: row for row in Journal(Store(context.output)).read(context.alias).to_pylist()}
        if len(rows) >= n_rows or time.monotonic() > deadline:
            return rows
        time.sleep(0.2)
