"""How fast a neural router scores prompts, against what the machine's matrix units can do.

    python -m benchmarks.scorer [--shape BERT-base] [--rows 2048] [--tokens 64] [--tokens-per-batch 8192]
    python -m benchmarks.scorer --arithmetic

Runs `predict` of a router of random weights in the named shape (speed does not depend on them) on prompts of log-normal
length, tokenizing included, on a GPU where there is one, in bf16, else on the CPU in float32. The peak is measured
beside it, as the best of a few large matrix products. `--arithmetic` prints what fine-tuning costs at full size instead.
One JSON object on standard output. On a CPU start small: --shape MiniLM-L6 --rows 128.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedTokenizerFast

from benchmarks.training_cost import SHAPES, cost_table, forward_flops
from routing.features.device import choose_device
from routing.features.encoder import micro_batches
from routing.routers.neural.base import NeuralRouter
from routing.routers.neural.bert import BertRouter
from routing.routers.neural.causal import LABEL_TOKENS, CausalRouter

WORDS = 2000
"""Vocabulary: embedding rows are looked up, not multiplied, so their number costs memory only."""
LENGTH_SIGMA = 0.8
"""Of the logarithm of the prompts' lengths: a tenth of them is three times as long as the median."""
ONE_BY_ONE = 16
"""Prompts timed one at a time."""


def build_router(name: str, folder: Path, tokens_per_batch: int) -> NeuralRouter:
    """A router of that shape with random weights, through the folder that its checkpoint is written to."""
    words = ["<s>", "</s>", "<pad>", "<unk>", *LABEL_TOKENS, *(f"w{i}" for i in range(WORDS))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(words[: 4 + len(LABEL_TOKENS)])
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    shape = SHAPES[name]
    settings = {**shape.settings, "vocab_size": len(words), "pad_token_id": 2, "bos_token_id": 0, "eos_token_id": 1}
    kind: Any = AutoModelForCausalLM if shape.causal else AutoModelForSequenceClassification
    labels = {} if shape.causal else {"num_labels": 3}
    device = choose_device()
    with torch.device(device):
        model = kind.from_config(AutoConfig.for_model(shape.kind, **settings, **labels), dtype=torch.bfloat16)
    model.save_pretrained(folder)
    backend: Any = PreTrainedTokenizerFast
    backend(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="<pad>", unk_token="<unk>"
    ).save_pretrained(folder)
    del model
    pair = ("weak", "strong")
    if shape.causal:
        return CausalRouter.from_checkpoint(str(folder), pair, tokens_per_batch=tokens_per_batch)
    return BertRouter.from_classifier(str(folder), pair, tokens_per_batch=tokens_per_batch)


def make_prompts(rows: int, tokens: int, longest: int = 500) -> list[str]:
    """Prompts of `tokens` words on average, cut at `longest`."""
    rng = np.random.default_rng(0)
    lengths = rng.lognormal(np.log(tokens) - LENGTH_SIGMA**2 / 2, LENGTH_SIGMA, rows).clip(1, longest).astype(int)
    return [" ".join(f"w{i}" for i in rng.integers(0, WORDS, length)) for length in lengths]


def seconds(work: Callable[[], Any]) -> float:
    """Wall time of one call, the GPU's queue included."""
    started = time.perf_counter()
    work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - started


def matrix_peak() -> float:
    """FLOPs a second of the best of five large square products, in the precision that scoring runs in."""
    device = choose_device()
    size, dtype = (8192, torch.bfloat16) if device == "cuda" else (1536, torch.float32)
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds(lambda: a @ b)
    return float(2 * size**3) / min(seconds(lambda: a @ b) for _ in range(5))


def padded_share(lengths: list[int], batches: list[Any]) -> float:
    """Useful tokens among padded ones."""
    return float(sum(lengths) / sum(len(rows) * max(lengths[row] for row in rows) for rows in batches))


def measure(arguments: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        router = build_router(arguments.shape, Path(folder), arguments.tokens_per_batch)
        tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    prompts = make_prompts(arguments.rows, arguments.tokens)
    if isinstance(router, CausalRouter):
        lengths = [len(ids) for ids in router.token_ids(prompts, "weak")]
    else:
        lengths = [len(ids) for ids in tokenizer(prompts)["input_ids"]]
    router.predict(prompts[:ONE_BY_ONE])
    peak = matrix_peak()
    batched = seconds(lambda: router.predict(prompts))
    few = prompts[:ONE_BY_ONE]
    single = seconds(lambda: [router.predict([prompt]) for prompt in few]) / len(few)
    flops = sum(length * forward_flops(arguments.shape, length) for length in lengths)
    arrival = [np.arange(i, min(i + 128, len(lengths))) for i in range(0, len(lengths), 128)]
    return {
        "device": torch.cuda.get_device_name()
        if torch.cuda.is_available()
        else f"CPU, {torch.get_num_threads()} threads",
        "shape": arguments.shape,
        "rows": len(prompts),
        "mean_tokens": round(float(np.mean(lengths)), 1),
        "prompts_per_s": round(len(prompts) / batched, 2),
        "tokens_per_s": round(sum(lengths) / batched, 1),
        "flops_per_s": flops / batched,
        "matrix_peak_flops_per_s": peak,
        "share_of_peak": round(flops / batched / peak, 3),
        "useful_tokens": round(padded_share(lengths, list(micro_batches(lengths, arguments.tokens_per_batch))), 3),
        "useful_tokens_in_arrival_order": round(padded_share(lengths, arrival), 3),
        "times_one_by_one": round(single * len(prompts) / batched, 2),
        "tokenizing_share": round(seconds(lambda: tokenizer(prompts)) / batched, 3),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Throughput of the neural routers' scoring.")
    parser.add_argument("--shape", choices=list(SHAPES), default="BERT-base")
    parser.add_argument("--rows", type=int, default=2048, help="prompts to score")
    parser.add_argument("--tokens", type=int, default=64, help="mean length of a prompt")
    parser.add_argument("--tokens-per-batch", type=int, default=8192, help="padded tokens of one forward pass")
    parser.add_argument("--arithmetic", action="store_true", help="print memory and time of fine-tuning instead")
    arguments = parser.parse_args()
    print(cost_table() if arguments.arithmetic else json.dumps(measure(arguments), indent=1))


if __name__ == "__main__":
    main()
