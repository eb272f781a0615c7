"""How often the gold matchers say of a recorded answer what the record says: a table of docs/results.md.

numeric on GSM8K (the `#### 18` form of the keys), multiple_choice on MMLU-Pro (letters). A record is taken as the truth for
precision and recall of "right", though it is itself the verdict of somebody's parser: of 100 GPT-4 answers to GSM8K three are
recorded as wrong because they write $18.00 for 18, so those are counted by themselves. Cost: ten seconds for 62,700 answers.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.results.sets import STRONG, WEAK
from benchmarks.results.tables import Amount, Say, markdown
from jobs.report.formatting import percent
from routing.answers.choices import chosen_letter
from routing.answers.matching import make_matcher

QUICK_ROWS = 100
CENTS = ".00"
MARKUP, TAIL = re.compile(r"\*\*|\\[({a-z]"), 200
"""Bold or LaTeX in an answer's last characters."""


@dataclass(frozen=True, slots=True)
class Recorded:
    """One model's answers to one set."""

    matcher: str
    set_name: str
    model: str
    answers: list[str]
    golds: list[str]
    right: list[bool]
    """What the record says."""


def matcher_tables(data: Path, amount: Amount, say: Say) -> str:
    """A line per matcher, set and model; then what the disagreements are."""
    found = [*_gsm8k(data), *_mmlu_pro(data)]
    if not found:
        raise FileNotFoundError(
            "neither routellm/gsm8k with its keys nor mmlu_pro/outcomes.parquet is in the data folder"
        )
    lines, notes = [], []
    for each in found:
        say(f"{each.set_name}: {each.matcher}, {each.model}")
        rows = QUICK_ROWS if amount.quick else len(each.answers)
        matcher = make_matcher(each.matcher)
        said = np.array([matcher(*pair) == 1 for pair in zip(each.answers[:rows], each.golds[:rows], strict=True)])
        right = np.array(each.right[:rows])
        differ = said != right
        cents = [row for row in np.flatnonzero(said & ~right) if CENTS in each.answers[row]]
        is_numeric = each.matcher == "numeric"
        lines.append([
            f"`{each.matcher}`", each.set_name, each.model, f"{rows:,}", percent(1 - differ.mean(), 2),
            f"{int((said & ~right).sum()):,}", f"{int((~said & right).sum()):,}",
            percent(right[said].mean(), 1) if said.any() else "-", percent(said[right].mean(), 1) if right.any() else "-",
            percent(1 - (differ.sum() - len(cents)) / rows, 2) if is_numeric else "-",
        ])  # fmt: skip
        notes += _of_numbers(each, int(differ.sum()), len(cents)) if is_numeric else _of_letters(each, said, right)
    head = ["matcher", "set", "model", "answers", "agreement", "right by the matcher alone", "right by the record alone",
            "precision", "recall", "agreement without the \".00\" rows"]  # fmt: skip
    return "\n".join([markdown(head, lines, left=3), *([""] if notes else []), *notes])


def _of_numbers(each: Recorded, n_differ: int, n_cents: int) -> list[str]:
    if not n_cents:
        return []
    return [
        f"- {each.model}: {n_cents} of the {n_differ} disagreements are answers such as $18.00 to a gold of 18, which the"
        " record has as wrong because it compares text. The matcher is right about them."
    ]


def _of_letters(each: Recorded, said: NDArray[np.bool_], right: NDArray[np.bool_]) -> list[str]:
    """What explains most: letters in bold or LaTeX, which the record's parser does not read, and its guesses."""
    marked = sum(bool(MARKUP.search(each.answers[row][-TAIL:])) for row in np.flatnonzero(said & ~right))
    guessed = sum(chosen_letter(each.answers[row]) is None for row in np.flatnonzero(~said & right))
    found = []
    if marked:
        found.append(
            f"{marked} of the {int((said & ~right).sum())} right by the matcher alone end in bold or LaTeX, which the"
            " record's parser does not read"
        )
    if guessed:
        found.append(
            f"{guessed} of the {int((~said & right).sum())} right by the record alone name no letter, and the record guesses one"
        )
    return [f"- {each.model}: {'; '.join(found)}."] if found else []


def _gsm8k(data: Path) -> Iterator[Recorded]:
    folder = data / "routellm" / "gsm8k"
    if not (folder / "test.jsonl").exists() or not (folder / "gsm8k_responses.csv").exists():
        return
    keys = [json.loads(line) for line in (folder / "test.jsonl").read_text(encoding="utf-8").splitlines()]
    gold = {row["question"]: row["answer"] for row in keys}
    with (folder / "gsm8k_responses.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["prompt"] in gold]
    golds = [gold[row["prompt"]] for row in rows]
    for model in (WEAK, STRONG):
        answers = [row[f"{model}_response"] for row in rows]
        yield Recorded("numeric", "GSM8K", _short(model), answers, golds, [row[model] == "True" for row in rows])


def _mmlu_pro(data: Path) -> Iterator[Recorded]:
    path = data / "mmlu_pro" / "outcomes.parquet"
    if not path.exists():
        return
    names = _models(pq.read_schema(path).names)
    columns = [f"{name}|{part}" for name in names for part in ("quality", "response")]
    table = pq.read_table(path, columns=["answer", *columns])
    golds = table["answer"].to_pylist()
    for name in names:
        answers = [text or "" for text in table[f"{name}|response"].to_pylist()]
        right = [quality == 1 for quality in table[f"{name}|quality"].to_pylist()]
        yield Recorded("multiple_choice", "MMLU-Pro", _short(name), answers, golds, right)


def _models(columns: Iterable[str]) -> list[str]:
    return [name.removesuffix("|quality") for name in columns if name.endswith("|quality")]


def _short(model: str) -> str:
    return model.rpartition("/")[2]
