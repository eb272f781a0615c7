"""What an answer shows of its own quality: form, hedges, refusals, repetition, the answer it commits to.

Features of a judge that sees the weak model's answer (a cascade), next to the prompt. Pure text, no model: about 1 ms
an answer of 1,000 characters, linear in its length. Log-probabilities, where the engine gave them, are one column more
each. `extracted_answers` reads the answer itself, so that answers of several models (or samples of one) can be compared.
A reasoning model's thoughts are not looked at.
Legend: n answers, d features.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from routing.answers.choices import chosen_letter
from routing.answers.matching import marked_number
from routing.answers.thinking import behind_thinking
from routing.errors import RoutingError

RESPONSE = (
    "empty",
    "log characters",
    "log words",
    "log line breaks",
    "log numbers",
    "log equations",
    "log steps",
    "log code marks",
    "log hedges",
    "log turns of mind",
    "refusal",
    "says 'answer is'",
    "log 'answer is' beyond one",
    "commits to a letter",
    "commits to a number",
    "answer in the last line",
    "says none fits",
    "ends in the middle",
    "compressed size / size",
    "share of repeated lines",
    "words of the prompt used",
    "length / prompt length",
    "cut at the token limit",
    "mean log-probability",
    "lowest log-probability",
    "log-probability known",
)
"""Names of the columns of `response_features`."""
TAIL_CHARS = 1000
"""Where a number is looked for, from the end."""
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_STEP = re.compile(r"(?m)^\s*(?:\d+[.)]|[-*]|step \d+|first|second|next|then|finally)\b", re.IGNORECASE)
_CODE = re.compile(r"```|[{};]|\bdef |\breturn\b|==|->")
_WORD = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)?")
# fmt: off
_HEDGES = frozenset({
    "maybe", "perhaps", "might", "may", "could", "possibly", "probably", "likely", "unlikely", "seem", "seems",
    "appear", "appears", "think", "believe", "unsure", "uncertain", "unclear", "assume", "assuming", "assumed",
    "assumption", "approximately", "closest", "guess", "estimate", "estimated", "difficult",
})
_TURNS = frozenset({
    "wait", "however", "but", "actually", "mistake", "mistakenly", "correction", "recheck", "reconsider",
    "contradict", "contradicts", "contradiction", "apologize", "apologise", "sorry", "recalculate", "recalculating",
    "error", "instead", "although", "unfortunately",
})
# fmt: on
_REFUSAL = re.compile(
    r"\b(?:i can(?:no|')t|i am unable|i'm unable|i'm sorry|i am sorry|as an ai|i do(?: not|n't) have (?:access|enough|the)"
    r"|can(?:no|')t (?:answer|determine|provide|assist|help)|cannot be determined|not enough information|insufficient"
    r"|without (?:more|further|additional) (?:information|context))\b",
    re.IGNORECASE,
)
_ANSWER = re.compile(r"\b(?:answer|solution|result)\b[^\n]{0,20}?(?:\bis\b|:)|\\boxed|####", re.IGNORECASE)
_NONE_FITS = re.compile(
    r"none of (?:the|these)|not (?:listed|among|match)|no correct (?:answer|option)|closest (?:option|answer)",
    re.IGNORECASE,
)


def response_features(
    prompts: Sequence[str],
    responses: Sequence[str | None],
    finish_reasons: Sequence[str | None] | None = None,
    log_probabilities: NDArray[np.float64] | None = None,
) -> NDArray[np.float32]:
    """(n, len(RESPONSE)): counts as log(1 + count), shares and flags as they are, all of order one.

    Row i depends on answer i alone. Raises RoutingError where lengths differ.

    prompts: n texts.
    responses: n texts; None or "" is an empty answer.
    finish_reasons: n as the provider gave them, "length" is a cut answer; None where none is known.
    log_probabilities: (n, 2) mean and lowest log-probability of the answer's tokens, NaN where unknown.
    """
    n = len(prompts)
    reasons = [None] * n if finish_reasons is None else finish_reasons
    known = np.full((n, 2), np.nan) if log_probabilities is None else np.asarray(log_probabilities, np.float64)
    if not n == len(responses) == len(reasons) == len(known):
        raise RoutingError(
            f"response features: {n} prompts, {len(responses)} responses, {len(reasons)} finish reasons and {len(known)}"
            " log-probabilities; there must be one of each per row"
        )
    rows = np.zeros((n, len(RESPONSE)), np.float32)
    for row, prompt, text, reason in zip(rows, prompts, responses, reasons, strict=True):
        row[:22] = _of_text(prompt, behind_thinking(text or ""))
        row[22] = reason == "length"
    row_known = ~np.isnan(known).any(axis=1)
    rows[:, 23:25] = np.where(row_known[:, None], np.maximum(known, -30) / (1, 10), 0)
    rows[:, 25] = row_known
    return rows


def extracted_answers(responses: NDArray[np.object_]) -> NDArray[np.object_]:
    """The answer each response commits to, same shape: a letter, else a number, else its last line; None if empty.

    responses: any shape of str or None. Equal answers of different wording are equal texts here ("B", "18").
    """
    flat = [_extracted(text) for text in responses.ravel()]
    result = np.empty(len(flat), object)
    result[:] = flat
    return result.reshape(responses.shape)


def _extracted(text: str | None) -> str | None:
    text = behind_thinking(text or "")
    if not text.strip():
        return None
    letter = chosen_letter(text)
    if letter:
        return letter
    number = marked_number(text[-TAIL_CHARS:])  # an answer in numbers stands at the end
    if number:
        return f"{number[0]:.6g}"
    return " ".join(text.strip().split("\n")[-1].lower().split()).strip(".!*\"' ")[:200]


def _of_text(prompt: str, text: str) -> list[float]:
    words = _WORD.findall(text.lower())
    lines = [line.strip() for line in text.split("\n") if line.strip()]
    answers = _ANSWER.findall(text)
    last = lines[-1] if lines else ""
    data = text.encode("utf-8", "replace")
    used = set(_WORD.findall(prompt.lower()))
    return [
        float(not text.strip()),
        np.log1p(len(text)),
        np.log1p(len(words)),
        np.log1p(text.count("\n")),
        np.log1p(len(_NUMBER.findall(text))),
        np.log1p(text.count("=")),
        np.log1p(len(_STEP.findall(text))),
        np.log1p(len(_CODE.findall(text))),
        np.log1p(sum(word in _HEDGES for word in words)),
        np.log1p(sum(word in _TURNS for word in words)),
        float(_REFUSAL.search(text) is not None),
        float(bool(answers)),
        np.log1p(max(0, len(answers) - 1)),
        float(chosen_letter(text) is not None),
        float(_NUMBER.search(last) is not None),
        float(_ANSWER.search(last) is not None or (len(lines) == 1 and len(words) < 6)),
        float(_NONE_FITS.search(text) is not None),
        float(bool(text.strip()) and text.strip()[-1] not in ".!?)]}*`\"'$0123456789" and len(words) > 5),
        # Loops compress well; below 100 bytes the header is most of it.
        len(zlib.compress(data, 1)) / len(data) if len(data) > 100 else 1.0,
        1 - len(set(lines)) / len(lines) if lines else 0.0,
        sum(word in used for word in words) / max(1, len(words)),
        np.log((1 + len(text)) / (1 + len(prompt))),
    ]
