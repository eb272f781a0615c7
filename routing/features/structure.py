"""Counts of a prompt's outer form: characters, words, digits, options, code marks.

Seventeen numbers, 0.1 ms a prompt of 270 characters, no model and no library to load: the drift of a job's prompts is measured
with them too. routing/features/prompt_form.py looks closer. Row i depends on prompt i alone. Legend: n prompts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

STRUCTURE = (
    "log characters",
    "log words",
    "log line breaks",
    "log digits",
    "log numbers",
    "log operators",
    "log question marks",
    "log options",
    "log code marks",
    "log pauses",
    "log math marks",
    "log quotes",
    "log non-ASCII characters",
    "log longest line",
    "capital share",
    "mean word length / 5",
    "share of distinct words",
)
"""Names of the columns of `structure`."""
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_OPERATOR = re.compile(r"[-+*/=<>^%×÷√∑∫≤≥]")
_OPTION = re.compile(r"^\s*\(?[A-Ja-j][.):]\s", re.MULTILINE)
_CODE = re.compile(r"```|[{};]|\bdef |\breturn\b|==|->|\(\)")


def structure(prompts: Sequence[str]) -> NDArray[np.float32]:
    """Form of each prompt, (n, len(STRUCTURE)): counts as log(1 + count), shares as they are, all of order one."""
    rows = np.empty((len(prompts), len(STRUCTURE)), np.float32)
    for row, text in zip(rows, prompts, strict=True):
        words = text.split()
        n_words, letters = max(1, len(words)), sum(map(str.isalpha, text))
        counts = (
            len(text),
            len(words),
            text.count("\n"),
            sum(map(str.isdigit, text)),
            len(_NUMBER.findall(text)),
            len(_OPERATOR.findall(text)),
            text.count("?"),
            len(_OPTION.findall(text)),
            len(_CODE.findall(text)),
            sum(map(text.count, ",;:")),
            text.count("$") + text.count("\\"),
            text.count('"') + text.count("'"),
            len(text) - len(text.encode("ascii", "ignore")),
            max(map(len, text.split("\n"))),
        )
        row[: len(counts)] = np.log1p(counts)
        row[len(counts) :] = (
            sum(map(str.isupper, text)) / max(1, letters),
            letters / n_words / 5,
            len({word.lower() for word in words}) / n_words,
        )
    return rows
