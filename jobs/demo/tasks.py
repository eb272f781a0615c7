"""Generated tasks with one right answer each: what the demo asks, and what its models and its router were trained on.

Eight categories (arithmetic, sorting, reversing, shifting, weekdays), several wordings each, six levels of size. A
level is drawn with probability proportional to `decay ** level`: 1 makes all sizes equally likely, less makes large
ones rare, which is how the weak model gets an ability that fades with size instead of ending at a cliff.

Splits are disjoint by construction: the split of a prompt is a hash of its text, so no prompt of the demo was ever
seen while a model or the router was trained. Cost: about 30 us a task.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.parquet as pq

Split = Literal["train", "outcomes", "demo"]
LEVELS = range(1, 7)
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
MAX_ATTEMPTS = 200
"""Draws for one task before `generate` gives up: the smallest category holds about 700 prompts of a held-out split."""


@dataclass(frozen=True, slots=True)
class Task:
    """One prompt and the only answer that counts as right (exact match)."""

    id: str
    category: str
    prompt: str
    answer: str


def split_of(prompt: str) -> Split:
    """The split a prompt belongs to: 70 % train (models), 15 % outcomes (router), 15 % demo."""
    share = hashlib.blake2b(prompt.encode(), digest_size=1).digest()[0] / 256
    return "train" if share < 0.7 else "outcomes" if share < 0.85 else "demo"


def generate(
    n: int, seed: int, split: Split = "demo", *, decay: float = 1.0, duplicate_share: float = 0.0, unique: bool = True
) -> list[Task]:
    """`n` tasks of one split, the same for the same arguments.

    `decay` weighs the levels (see above). `duplicate_share` of the tasks repeat an earlier prompt under a new id, as
    real sets do. `unique` forbids all other repetitions; training takes them as they come.
    Raises ValueError where no new prompt was found in MAX_ATTEMPTS draws: `n` is then too large for unique prompts.
    """
    rng = random.Random(f"{split}/{seed}")
    weights = [decay**level for level in LEVELS]
    categories = list(CATEGORIES)
    tasks: list[Task] = []
    seen: set[str] = set()
    while len(tasks) < n:
        task_id = f"{split}-{seed}-{len(tasks):06d}"
        if tasks and rng.random() < duplicate_share:
            earlier = rng.choice(tasks)
            tasks.append(Task(task_id, earlier.category, earlier.prompt, earlier.answer))
            continue
        for _ in range(MAX_ATTEMPTS):
            category = rng.choice(categories)
            prompt, answer = CATEGORIES[category](rng, rng.choices(LEVELS, weights)[0])
            if split_of(prompt) == split and not (unique and prompt in seen):
                break
        else:
            raise ValueError(f"generate: no new prompt after {len(tasks)} tasks; ask for fewer than n={n}")
        seen.add(prompt)
        tasks.append(Task(task_id, category, prompt, answer))
    return tasks


def write_prompts(
    path: str | Path, n: int, seed: int, *, n_files: int = 3, duplicate_share: float = 0.03
) -> list[Path]:
    """Write `n` demo tasks as Parquet (`id`, `category`, `prompt`, `answer`: strings), `n_files` files under `path`."""
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    tasks = generate(n, seed, "demo", duplicate_share=duplicate_share)
    files = []
    for i in range(n_files):
        part = tasks[n * i // n_files : n * (i + 1) // n_files]
        columns = {name: [getattr(task, name) for task in part] for name in ("id", "category", "prompt", "answer")}
        files.append(folder / f"prompts-{i:02d}.parquet")
        pq.write_table(pa.table(columns), files[-1])
    return files


# One function per category: (rng, level 1..6) -> (prompt, answer).


def _number(rng: random.Random, digits: int) -> int:
    return rng.randint(10 ** (digits - 1) if digits > 1 else 1, 10**digits - 1)


def _word(rng: random.Random, length: int) -> str:
    return "".join(rng.choices(LETTERS, k=length))


def _add(rng: random.Random, level: int) -> tuple[str, str]:
    a, b = _number(rng, 1 + level // 2 - level // 4), _number(rng, 1 + level // 4)
    if rng.random() < 0.5:
        a, b = b, a
    wordings = (f"{a}+{b}=", f"What is {a} + {b}?", f"Add {a} and {b}.", f"Sum of {a} and {b}?", f"{a} plus {b}")
    return rng.choice(wordings), str(a + b)


def _subtract(rng: random.Random, level: int) -> tuple[str, str]:
    b, a = sorted((_number(rng, 1 + level // 2 - level // 4), _number(rng, 1 + level // 4)))
    wordings = (f"{a}-{b}=", f"What is {a} - {b}?", f"Take {b} from {a}.", f"{a} minus {b}", f"Subtract {b} from {a}.")
    return rng.choice(wordings), str(a - b)


def _multiply(rng: random.Random, level: int) -> tuple[str, str]:
    a, b = _number(rng, 1 + level // 3), rng.randint(2, 9)
    wordings = (
        f"{a}*{b}=",
        f"What is {a} * {b}?",
        f"Multiply {a} by {b}.",
        f"{a} times {b}",
        f"Product of {a} and {b}?",
    )
    return rng.choice(wordings), str(a * b)


def _sort_letters(rng: random.Random, level: int) -> tuple[str, str]:
    word = _word(rng, level + 2)
    wordings = (
        f"Sort {word}",
        f"Sort the letters of {word}.",
        f"{word} in alphabetical order?",
        f"Letters of {word}, sorted?",
    )
    return rng.choice(wordings), "".join(sorted(word))


def _reverse(rng: random.Random, level: int) -> tuple[str, str]:
    word = _word(rng, level + 2)
    wordings = (
        f"Reverse {word}",
        f"Spell {word} backwards.",
        f"{word} from right to left?",
        f"What is {word} in reverse?",
    )
    return rng.choice(wordings), word[::-1]


def _shift(rng: random.Random, level: int) -> tuple[str, str]:
    word = _word(rng, level + 1)
    wordings = (
        f"Shift {word}",
        f"Shift each letter of {word}.",
        f"{word}, each letter by one?",
        f"Next letters of {word}?",
    )
    return rng.choice(wordings), "".join(LETTERS[(LETTERS.index(letter) + 1) % len(LETTERS)] for letter in word)


def _largest(rng: random.Random, level: int) -> tuple[str, str]:
    numbers = [rng.randint(1, 99) for _ in range(1 + (1 + level) // 2)]
    text = " ".join(map(str, numbers))
    wordings = (f"Largest of {text}?", f"Which is largest: {text}", f"Maximum of {text}", f"{text}: the biggest?")
    return rng.choice(wordings), str(max(numbers))


def _weekday(rng: random.Random, level: int) -> tuple[str, str]:
    day, step = rng.randrange(7), rng.randint(2, 2 + 2 * level)
    if rng.random() < 0.5:
        wordings = (
            f"{step} days after {DAYS[day]}?",
            f"{DAYS[day]} plus {step} days",
            f"It is {DAYS[day]}. In {step} days?",
        )
    else:
        wordings = (
            f"{step} days before {DAYS[day]}?",
            f"{DAYS[day]} minus {step} days",
            f"It is {DAYS[day]}. {step} days ago?",
        )
        step = -step
    return rng.choice(wordings), DAYS[(day + step) % 7]


CATEGORIES: dict[str, Callable[[random.Random, int], tuple[str, str]]] = {
    "add": _add,
    "subtract": _subtract,
    "multiply": _multiply,
    "sort_letters": _sort_letters,
    "reverse": _reverse,
    "shift": _shift,
    "largest": _largest,
    "weekday": _weekday,
}
