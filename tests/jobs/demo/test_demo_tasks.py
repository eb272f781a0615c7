"""The demo's tasks are right, repeatable, and kept apart by split; its checkpoints answer them, the weak one worse."""

from __future__ import annotations

import random
import re
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from jobs.demo import tasks as demo
from jobs.demo import train_models
from jobs.demo.greedy import greedy_answers, render
from jobs.demo.train_models import CONTEXT, build_tokenizer, encode

MODELS = Path(train_models.__file__).parent / "models"
SPLITS: tuple[demo.Split, ...] = ("train", "outcomes", "demo")


def recompute(task: demo.Task) -> str:
    """The answer, found again from the text of the prompt alone (and not from how the task was drawn)."""
    numbers = [int(text) for text in re.findall(r"\d+", task.prompt)]
    own = "the of letter letters in order alphabetical sorted backwards from right to left is reverse each by one"
    known = rf"\b(?:[A-Z]\w*|{own.replace(' ', '|')})\b"
    words: list[str] = re.findall(r"[a-z]+", re.sub(known, " ", task.prompt))
    match task.category:
        case "add":
            return str(sum(numbers))
        case "subtract":
            return str(max(numbers) - min(numbers))
        case "multiply":
            return str(numbers[0] * numbers[1])
        case "largest":
            return str(max(numbers))
        case "sort_letters":
            return "".join(sorted(words[0]))
        case "reverse":
            return words[0][::-1]
        case "shift":
            return words[0].translate(str.maketrans(demo.LETTERS, demo.LETTERS[1:] + demo.LETTERS[0]))
        case "weekday":
            start = next(i for i, day in enumerate(demo.DAYS) if day in task.prompt)
            back = any(text in task.prompt for text in ("before", "minus", "ago"))
            return demo.DAYS[(start + (-numbers[0] if back else numbers[0])) % 7]
    raise AssertionError(task.category)


@pytest.mark.parametrize("split", SPLITS)
def test_every_answer_follows_from_its_prompt(split: demo.Split) -> None:
    tasks = demo.generate(1500, 3, split)
    wrong = [task for task in tasks if recompute(task) != task.answer]
    # A random word may spell one of the prompt's own words ("is", "in"): the check, not the task, is then at fault.
    assert len(wrong) <= 2, wrong[:5]
    assert {task.category for task in tasks} == set(demo.CATEGORIES)
    assert max(len(task.answer) for task in tasks) <= 16


def test_same_arguments_give_the_same_tasks_and_other_seeds_do_not() -> None:
    assert demo.generate(300, 5) == demo.generate(300, 5)
    assert demo.generate(300, 5) != demo.generate(300, 6)


def test_splits_share_no_prompt_whatever_the_seed() -> None:
    prompts = {split: {task.prompt for seed in (1, 2) for task in demo.generate(2500, seed, split)} for split in SPLITS}
    assert not prompts["train"] & prompts["outcomes"]
    assert not prompts["train"] & prompts["demo"]
    assert not prompts["outcomes"] & prompts["demo"]


def test_small_decay_makes_large_sizes_rare_but_not_absent() -> None:
    def lengths(decay: float) -> list[int]:
        rows = demo.generate(3000, 1, "train", decay=decay, unique=False)
        return [len(task.answer) for task in rows if task.category == "reverse"]

    fading, even = lengths(0.5), lengths(1.0)
    assert sum(fading) / len(fading) < sum(even) / len(even) - 1
    assert max(fading) == max(even)


def test_asking_for_more_than_there_is_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "CATEGORIES", {"add": lambda rng, level: ("1+1=", "2")})
    with pytest.raises(ValueError, match="fewer than n=5"):
        demo.generate(5, 0, demo.split_of("1+1="))


def test_written_files_hold_all_rows_once_and_some_duplicates(tmp_path: Path) -> None:
    files = demo.write_prompts(tmp_path / "prompts", 2400, 0)
    assert len(files) == 3
    rows = [row for file in files for row in pq.read_table(file).to_pylist()]
    assert list(rows[0]) == ["id", "category", "prompt", "answer"]
    assert len({row["id"] for row in rows}) == len(rows) == 2400
    n_copies = len(rows) - len({row["prompt"] for row in rows})
    assert 40 <= n_copies <= 110  # 3 % of 2,400 is 72
    assert all(demo.split_of(row["prompt"]) == "demo" for row in rows)


def test_training_rows_are_what_the_chat_template_gives() -> None:
    tokenizer, tasks = build_tokenizer(), demo.generate(200, 0, "train")
    system = tokenizer.convert_tokens_to_ids("<system>")
    for task, (ids, start) in zip(tasks, encode(tokenizer, tasks, random.Random(0)), strict=True):
        if system not in ids:
            assert tokenizer.decode(ids[:start]) == render(tokenizer, task.prompt)
            assert ids[:start] == tokenizer(render(tokenizer, task.prompt), add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids[start:], skip_special_tokens=True) == task.answer
        assert ids[-1] == tokenizer.eos_token_id


def test_tokenizer_keeps_text_and_the_order_of_a_conversation() -> None:
    tokenizer = build_tokenizer()
    assert tokenizer.decode(tokenizer("a B\n7?", add_special_tokens=False)["input_ids"]) == "a B\n7?"
    messages = [{"role": "system", "content": "Be exact."}, {"role": "user", "content": "1+1="}]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == "<bos><system>Be exact.<user>1+1=<assistant>"


def test_checkpoints_load_and_the_strong_one_is_right_more_often() -> None:
    tasks = demo.generate(300, 21, "demo")
    share = {}
    for name in ("weak", "strong"):
        tokenizer = AutoTokenizer.from_pretrained(MODELS / name)
        model: Any = AutoModelForCausalLM.from_pretrained(MODELS / name, dtype=torch.float32)
        model.eval()
        assert model.config.vocab_size == len(tokenizer)
        assert model.config.max_position_embeddings == CONTEXT
        assert model.generation_config.eos_token_id == tokenizer.eos_token_id
        answers = greedy_answers(model, tokenizer, [task.prompt for task in tasks])
        share[name] = sum(answer == task.answer for answer, task in zip(answers, tasks, strict=True)) / len(tasks)
    assert 0.35 < share["weak"] < 0.75
    assert share["strong"] > share["weak"] + 0.15


def test_checkpoints_are_small_enough_to_ship() -> None:
    assert sum(file.stat().st_size for file in MODELS.rglob("*") if file.is_file()) < 8_000_000
