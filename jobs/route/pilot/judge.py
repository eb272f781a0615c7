"""The judge: a model of the job that says how good the sample's answers are, where no gold answer does.

    answers of the sample → requests → the judge's own lane → the journal (answers/model=judge/) → verdicts → quality (k, m)

rating: every answer by itself, 1-10, and REPEATS of the requests a second time, to see how far the judge agrees with itself.
pairwise: every model's answer against the strong model's, in both orders. What is asked and how verdicts are read:
routing/answers/llm_judge.py. A row with a gold verdict on every answer is not judged; a row that is judged is judged whole.

A request's key is a hash of all that is sent, so a verdict on these very answers is never asked twice: not after a crash, not for
another policy, not for two models that said the same. (64 bits: two of 10,000 requests share a key once in 10^11 runs.) Equal
answers are a tie unasked. What holds no verdict is NaN, and is counted. Cost: k·m requests, 2·k·(m - 1) for pairs; the governor
reserves them like any other. Legend: k rows, m models, p verdicts a row: m, or the m - 1 pairs with the strong model.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from jobs.journal.reader import Journal
from jobs.lanes.chat import answer_key, build_request, prompt_tokens_bound
from jobs.route.plan.entries import JudgeEntry
from jobs.spec.job import JobSpec, _judge_of
from jobs.spec.sections import JUDGE, JudgeSpec
from jobs.storage.keys import digest16, request_key
from jobs.storage.store import Store
from routing.answers.llm_judge import (
    Message,
    combine_orders,
    pairwise_prompt,
    pairwise_quality,
    parse_rating,
    parse_winner,
    rating_prompt,
    rating_quality,
    self_agreement,
)
from routing.answers.thinking import behind_thinking
from routing.pilot.folds import draw
from routing.text import message_text

if TYPE_CHECKING:
    from jobs.lanes.base import LaneContext

REPEATS = 30
"""Ratings asked a second time."""


@dataclass(frozen=True, slots=True)
class Case:
    """One row of the sample."""

    bucket: int
    messages: str
    """JSON text, as in scored/."""
    answers: Sequence[str | None]
    """(m,) None where a model has no answer."""
    reference: str | None = None
    """The gold answer, to be shown to the judge."""


@dataclass(frozen=True, slots=True)
class Docket:
    """What the judge is asked about some cases."""

    requests: pa.Table
    """Each request once, with ASK_COLUMNS; case by case, so that dollars that run out leave whole cases."""
    first: list[list[int | None]]
    """k x p: key of the request; None where there is nothing to ask."""
    second: list[list[int | None]]
    """Pairwise: with the two answers exchanged. Rating: the same again, for a few."""
    ties: NDArray[np.bool_]
    """(k, p) pairs of equal answers."""


@dataclass(frozen=True, slots=True)
class JudgeVerdicts:
    """What the judge said."""

    quality: NDArray[np.float64]
    """(k, m); NaN without a verdict."""
    asked: int
    failed: int
    """Of those asked: without an answer, or with one that holds no verdict."""
    agreement: dict[str, float | int | None]
    """`routing.answers.llm_judge.Agreement`; None for what cannot be told."""


def rows_to_judge(
    spec: JobSpec, row_key: NDArray[np.int64], said: NDArray[np.object_], gold: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Indices of the sample's rows that the judge is asked about: some answer has no gold verdict. At most judge.rows.

    row_key: (k,); said: (k, m) answers; gold: (k, m) quality, NaN without a verdict.
    """
    judge = _judge_of(spec)
    answered = said != None  # noqa: E711 - element by element
    wanted = np.flatnonzero((answered & np.isnan(gold)).any(axis=1))
    # In the order of the sample's own draw: a larger number of rows asks about the same ones, and more.
    assert spec.sample is not None
    order = draw(row_key[wanted], len(wanted) if judge.rows is None else judge.rows, spec.sample.seed)
    return wanted[order]


def make_docket(context: LaneContext, judge: JudgeSpec, cases: Sequence[Case]) -> Docket:
    """The requests for all cases. `context`: the judge's lane."""
    rows: dict[int, _AskRow] = {}
    bodies: dict[int, Mapping[str, Any]] = {}

    def add(bucket: int, messages: list[Message], again: bool = False) -> int:
        body = build_request(context.model, context.alias, context.sampling, context.response_format, messages)
        key = _request_key(body, again)
        bodies[key] = body
        rows.setdefault(key, _ask_row(key, bucket, messages))
        return key

    width = len(cases[0].answers) - (judge.mode == "pairwise") if cases else 0
    first: list[list[int | None]] = [[None] * width for _ in cases]
    second: list[list[int | None]] = [[None] * width for _ in cases]
    ties = np.zeros((len(cases), width), bool)
    for i, case in enumerate(cases):
        question = question_of(json.loads(case.messages))
        *_, strong = answers = [answer and behind_thinking(answer) for answer in case.answers]
        reference = case.reference if judge.reference == "auto" else None
        for j, answer in enumerate(answers[:width]):
            if answer is None or (judge.mode == "pairwise" and strong is None):
                continue
            if judge.mode == "rating":
                first[i][j] = add(case.bucket, rating_prompt(question, answer, reference))
            elif answer == strong:
                ties[i, j] = True
            else:
                assert strong is not None
                first[i][j] = add(case.bucket, pairwise_prompt(question, answer, strong, reference))
                second[i][j] = add(case.bucket, pairwise_prompt(question, strong, answer, reference))
    if judge.mode == "rating":
        # Keys are hashes: the smallest are a random draw.
        repeated = {}
        for key in sorted(rows)[:REPEATS]:
            repeated[key] = add(rows[key].bucket, list(bodies[key]["messages"]), again=True)
        second = [[None if key is None else repeated.get(key) for key in of_case] for of_case in first]
    return Docket(pa.Table.from_pylist([asdict(row) for row in rows.values()], schema=ASK_SCHEMA), first, second, ties)


ASK_SCHEMA = pa.schema(
    [
        ("row_key", pa.int64()),
        ("bucket", pa.int32()),
        ("messages", pa.string()),
        ("body", pa.string()),
        ("content_key", pa.binary(16)),
        ("prompt_bytes", pa.int32()),
        ("sample", pa.bool_()),
    ]
)
"""Of jobs.lanes.base.ASK_COLUMNS."""


@dataclass(frozen=True, slots=True)
class _AskRow:
    """A row of ASK_SCHEMA."""

    row_key: int
    bucket: int
    messages: str
    body: str
    content_key: bytes
    prompt_bytes: int
    sample: bool


def _ask_row(key: int, bucket: int, messages: list[Message]) -> _AskRow:
    text = json.dumps(messages)
    return _AskRow(
        row_key=key, bucket=bucket, messages=text, body="", content_key=digest16(text),
        prompt_bytes=prompt_tokens_bound(messages), sample=False,
    )  # fmt: skip


def _request_key(body: Mapping[str, Any], again: bool) -> int:
    return request_key(answer_key(body).hex(), "again" if again else "")


def question_of(messages: Sequence[Mapping[str, Any]]) -> str:
    """What the judged answers answer: a single user message as it is, a conversation with its roles."""
    if len(messages) == 1:
        return message_text(messages[0])
    return "\n\n".join(f"[{message.get('role')}]\n{message_text(message)}" for message in messages)


def read_verdicts(store: Store, judge: JudgeSpec, docket: Docket) -> JudgeVerdicts:
    """What the journal holds of a docket."""
    keys = np.sort(docket.requests["row_key"].to_numpy())
    table = Journal(store).read(JUDGE, None, ["row_key", "kind", "generated_text"], keys=keys)
    parse = parse_winner if judge.mode == "pairwise" else parse_rating
    said = zip(*(table[name].to_pylist() for name in ("row_key", "kind", "generated_text")), strict=True)
    value = {key: parse(text) for key, kind, text in said if kind == "answered"}

    def values(of_keys: list[list[int | None]]) -> NDArray[np.float64]:
        return np.array([[value.get(key, math.nan) for key in row] for row in of_keys], np.float64)

    shape = docket.ties.shape
    first, second = values(docket.first).reshape(shape), values(docket.second).reshape(shape)
    # A request that serves several cases is one verdict.
    pairs = {
        (a, b)
        for row_a, row_b in zip(docket.first, docket.second, strict=True)
        for a, b in zip(row_a, row_b, strict=True)
        if a is not None and b is not None
    }
    twice = np.array([[value.get(a, math.nan), value.get(b, math.nan)] for a, b in sorted(pairs)]).reshape(-1, 2)
    agreement = self_agreement(twice[:, 0], twice[:, 1], swapped=judge.mode == "pairwise")
    if judge.mode == "pairwise":
        quality = pairwise_quality(np.where(docket.ties, 0.5, combine_orders(first, second)))
        quality[np.isnan(quality[:, :-1]).all(axis=1)] = np.nan
    else:
        quality = rating_quality(first)
    failed = sum(not math.isfinite(value.get(key, math.nan)) for key in keys.tolist())
    told = {name: None if isinstance(v, float) and math.isnan(v) else v for name, v in asdict(agreement).items()}
    return JudgeVerdicts(quality, len(keys), failed, told)


def judge_entry(judge: JudgeSpec, verdicts: JudgeVerdicts, rows: int) -> JudgeEntry:
    """What the manifest says of the judge. rows: of the sample, that it judged."""
    return JudgeEntry(
        model=judge.model, mode=judge.mode, rows=rows, verdicts=verdicts.asked, failed=verdicts.failed,
        self_agreement=verdicts.agreement,
    )  # fmt: skip
