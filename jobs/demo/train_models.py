"""Train the demo's two language models from scratch: `python -m jobs.demo.train_models [--out DIR] [--minutes N]`.

Both are Llamas over characters and a few words, trained on the `train` split of `jobs.demo.tasks` with the loss on
the answer alone. The gap in ability is made, not scripted: the weak model is small, sees few large sizes (a thin
tail) and stops early, so its answers go wrong more often as a task grows; the strong one is three times larger, sees
all sizes and twice the rows. Cost on one CPU core: 4 minutes for the weak model, 20 for the strong one. Seeded, and
the same steps whatever the speed unless `--minutes` cuts them. The shipped weak model is this recipe's; the shipped
strong one was trained in four goes with `--resume`, 770,000 rows in all, its first rows from an earlier set of tasks.
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors
from torch.nn import functional
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from jobs.demo.greedy import greedy_answers
from jobs.demo.tasks import CATEGORIES, DAYS, Task, generate

CONTEXT = 256
ROPE_THETA = 500.0
"""The usual 10,000 spends half of the frequencies on distances that a context of 256 does not have: slower to learn."""
SPECIAL = ("<pad>", "<bos>", "<eos>", "<unk>", "<system>", "<user>", "<assistant>")
CHARACTERS = "\n" + "".join(map(chr, range(32, 127)))
WORDS = (
    *("Add", "It", "Largest", "Letters", "Maximum", "Multiply", "Next", "Product", "Reverse", "Shift", "Sort", "Spell"),
    *("Subtract", "Sum", "Take", "What", "Which", "after", "ago", "alphabetical", "and", "backwards", "before"),
    *(
        "biggest",
        "by",
        "days",
        "each",
        "from",
        "in",
        "is",
        "largest",
        "left",
        "letter",
        "letters",
        "minus",
        "of",
        "one",
    ),
    *("order", "plus", "reverse", "right", "sorted", "the", "times", "to"),
    *DAYS,
)
"""Words of the tasks, one token each, with or without a space before them: half the tokens of characters alone."""
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{{ '<' + message['role'] + '>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
)
SYSTEM_PROMPTS = ("You are a helpful assistant.", "Answer briefly.", "Give only the answer.", "Be exact.")
SYSTEM_SHARE = 0.03
"""Of the training rows: enough that a system message does not confuse the models."""
SORTED_TOGETHER = 32
"""Batches whose rows are drawn and sorted by length together."""
RAMP_SHARE = 0.5
"""Share of the steps over which the sizes of the tasks grow."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """One model: its shape, and how it is trained."""

    hidden: int
    layers: int
    heads: int
    """hidden / heads is the head size; vLLM's CPU attention takes 32, 64, 80, 96, ..."""
    intermediate: int
    steps: int
    batch: int
    """Rows a step."""
    learning_rate: float
    first_decay: float
    """Weight of each further level of size among the first training tasks (see `jobs.demo.tasks.generate`)."""
    last_decay: float
    """The same at the end of the ramp, and from there on."""
    seed: int


RECIPES = {
    "weak": Recipe(64, 2, 2, 176, 8_000, 48, learning_rate=4e-3, first_decay=0.6, last_decay=0.75, seed=1),
    "strong": Recipe(96, 3, 3, 256, 24_000, 32, learning_rate=3e-3, first_decay=0.6, last_decay=1.0, seed=2),
}


def build_tokenizer() -> Any:
    """Characters (printable ASCII and newline; else <unk>) and the tasks' own words; with a chat template."""
    words = [space + word for word in WORDS for space in ("", " ")]
    vocabulary = {token: i for i, token in enumerate((*SPECIAL, *CHARACTERS, *words))}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(rf" ?\b(?:{'|'.join(WORDS)})\b|[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens(list(SPECIAL))
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    backend: Any = PreTrainedTokenizerFast
    return backend(
        tokenizer_object=tokenizer,
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<pad>",
        unk_token="<unk>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=CONTEXT,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def build_model(recipe: Recipe, tokenizer: Any) -> Any:
    """Random weights in the recipe's shape; the embedding has exactly one row per token of the tokenizer."""
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=recipe.hidden,
        intermediate_size=recipe.intermediate,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        max_position_embeddings=CONTEXT,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        initializer_range=0.05,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config)


def encode(tokenizer: Any, tasks: Sequence[Task], rng: random.Random) -> list[tuple[list[int], int]]:
    """Per task: token ids of the finished chat (as the chat template gives it), and where the answer starts."""
    starts = []
    for task in tasks:
        system = f"<system>{rng.choice(SYSTEM_PROMPTS)}" if rng.random() < SYSTEM_SHARE else ""
        starts.append(f"<bos>{system}<user>{task.prompt}<assistant>")
    texts = [*starts, *(f"{task.answer}<eos>" for task in tasks)]
    ids = tokenizer(texts, add_special_tokens=False)["input_ids"]
    return [(ids[i] + ids[len(tasks) + i], len(ids[i])) for i in range(len(tasks))]


def batches(tokenizer: Any, recipe: Recipe) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """`steps` times (ids, labels), each (batch, length) int64, right-padded; label -100 everywhere but on the answer.

    Tasks are fresh every time, and larger ones come in as training goes on (a curriculum: short sums are learnt first,
    and carry over). Rows of similar length share a batch, so that 95 % of the tokens are useful instead of 60 %.
    """
    rng = random.Random(recipe.seed)
    pad = tokenizer.pad_token_id
    for first in range(0, recipe.steps, SORTED_TOGETHER):
        ramp = min(1.0, first / (RAMP_SHARE * recipe.steps))
        decay = recipe.first_decay + (recipe.last_decay - recipe.first_decay) * ramp
        tasks = generate(
            SORTED_TOGETHER * recipe.batch, recipe.seed * 1_000_000 + first, "train", decay=decay, unique=False
        )
        rows = sorted(encode(tokenizer, tasks, rng), key=lambda row: len(row[0]))
        groups = [rows[i : i + recipe.batch] for i in range(0, len(rows), recipe.batch)]
        rng.shuffle(groups)
        for group in groups[: recipe.steps - first]:
            width = max(len(ids) for ids, _ in group)
            ids = [ids + [pad] * (width - len(ids)) for ids, _ in group]
            labels = [[-100] * start + ids[start:] + [-100] * (width - len(ids)) for ids, start in group]
            yield torch.tensor(ids), torch.tensor(labels)


def train(name: str, recipe: Recipe, minutes: float, start: Path | None = None) -> tuple[Any, Any]:
    """Train one model: AdamW, 3 % warm-up, cosine to zero over `steps` or `minutes`, whichever ends first.

    `start`: a checkpoint to go on from instead of random weights.
    """
    torch.manual_seed(recipe.seed)
    tokenizer = build_tokenizer()
    model = build_model(recipe, tokenizer)
    if start is not None:
        model.load_state_dict(LlamaForCausalLM.from_pretrained(start, dtype=torch.float32).state_dict())
    n_parameters = sum(p.numel() for p in model.parameters())
    print(f"{name}: {n_parameters:,} parameters, {recipe.steps} steps of {recipe.batch} rows", flush=True)
    matrices = [p for p in model.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim != 2]
    optimizer = torch.optim.AdamW(
        [{"params": matrices, "weight_decay": 0.05}, {"params": vectors, "weight_decay": 0.0}],
        lr=recipe.learning_rate,
        betas=(0.9, 0.98),
        fused=True,
    )
    started, mean_loss = time.monotonic(), 0.0
    for step, (ids, labels) in enumerate(batches(tokenizer, recipe), start=1):
        elapsed_min = (time.monotonic() - started) / 60
        progress = min(1.0, max(step / recipe.steps, elapsed_min / minutes))
        factor = (
            min(1.0, step / (0.03 * recipe.steps)) * 0.5 * (1 + torch.cos(torch.tensor(progress * torch.pi)).item())
        )
        for group in optimizer.param_groups:
            group["lr"] = recipe.learning_rate * factor
        # Padding stands on the right, so causal attention alone keeps it out: no mask, and the faster kernel.
        hidden = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
        targets = labels[:, 1:]
        answer = targets != -100
        loss: Any = functional.cross_entropy(model.lm_head(hidden[answer]), targets[answer])
        model.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        mean_loss += (loss.item() - mean_loss) * (0.02 if step > 1 else 1.0)
        if step % 250 == 0 or progress >= 1:
            print(f"  step {step}  loss {mean_loss:.3f}  {elapsed_min:.1f} min", flush=True)
        if progress >= 1:
            break
    return model, tokenizer


def save(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write a checkpoint that transformers and vLLM load: bfloat16 safetensors, tokenizer, generation defaults."""
    model = model.to(torch.bfloat16).eval()
    tokens = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    model.generation_config = GenerationConfig.from_dict(tokens)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for file in folder.iterdir():
        file.chmod(0o644)  # safetensors writes 0600, which another user of the same installation could not read


def accuracy(folder: Path, tasks: list[Task]) -> dict[str, float]:
    """Share of right answers per category, and over all, of a saved checkpoint."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    model: Any = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.eval()
    answers = greedy_answers(model, tokenizer, [task.prompt for task in tasks])
    right: dict[str, list[bool]] = {category: [] for category in (*CATEGORIES, "all")}
    for task, answer in zip(tasks, answers, strict=True):
        right[task.category].append(answer == task.answer)
        right["all"].append(answer == task.answer)
    return {category: sum(flags) / max(1, len(flags)) for category, flags in right.items()}


def main() -> None:
    """Train, save and measure the models named by `--only`, or both."""
    parser = argparse.ArgumentParser(description="Train the demo's weak and strong language models.")
    parser.add_argument(
        "--out", type=Path, default=Path(__file__).parent / "models", help="folder for weak/ and strong/"
    )
    parser.add_argument("--minutes", type=float, default=60.0, help="longest training time of one model")
    parser.add_argument("--only", choices=list(RECIPES), help="train one model")
    parser.add_argument("--resume", action="store_true", help="go on from the checkpoints in --out")
    args = parser.parse_args()
    tasks = generate(1500, 7, "outcomes")
    for name in [args.only] if args.only else RECIPES:
        model, tokenizer = train(name, RECIPES[name], args.minutes, args.out / name if args.resume else None)
        save(model, tokenizer, args.out / name)
        for category, share in accuracy(args.out / name, tasks).items():
            print(f"  {category:14s}{share:.3f}")


if __name__ == "__main__":
    main()
