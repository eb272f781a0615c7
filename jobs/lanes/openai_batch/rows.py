"""Rows as lines of a batch file, and the lines of its output and error files as what became of the rows. No network.

The rules for one reply are `jobs.lanes.faults.diagnose`'s, as in the synchronous lane. What is a batch's own: an expired or
missing row was not charged and is asked again; a status other than 200 stands inside a line.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace

from jobs.journal.rows import Answer
from jobs.lanes.base import LaneContext
from jobs.lanes.chat import JsonObject, RequestError, answer_key
from jobs.lanes.faults import Diagnosis, clean, diagnose, diagnose_inside
from jobs.lanes.openai.booking import Bounds, answer_usd, is_charged, most_usd
from jobs.lanes.openai.rows import Row
from jobs.lanes.openai_batch.api import ENDPOINT
from jobs.lanes.openai_batch.manifest import FileRow
from jobs.lanes.providers.errors import ProviderError, read_error
from jobs.lanes.replies import ReplyError, parse_completion
from jobs.lanes.usage import within
from jobs.money.excess import Excess
from jobs.money.messages import Terms

MAX_REQUESTS, MAX_FILE_BYTES = 50_000, 200 * 10**6
"""OpenAI's limits of one file."""


@dataclass(slots=True)
class Pending:
    """A row to be sent. Its texts stay in the block until its file is written: many rows wait."""

    row: Row
    file_row: FileRow
    n_bytes: int
    """Of its line."""
    tries: int = 0
    billed: int = 0
    """Tries that may have been charged."""

    @property
    def bounds(self) -> Bounds:
        return self.file_row.bounds


def prepare(row: Row, context: LaneContext) -> Pending | str:
    """A row ready to be sent, or why it makes no request."""
    try:
        request = row.request(context)
    except RequestError as wrong:
        return clean(str(wrong))
    except (ValueError, RecursionError):
        return "messages or body is not valid JSON"
    n_bytes = len(_line(row.head.row_key, request))
    if n_bytes > MAX_FILE_BYTES:
        return f"the request has {n_bytes:,} bytes; a batch file takes {MAX_FILE_BYTES:,}"
    bounds = Bounds.of(request)
    of_file = FileRow(replace(row.head, answer_key=answer_key(request)), bounds.prompt, bounds.completion, attempts=0)
    return Pending(row, of_file, n_bytes)


def file_line(pending: Pending, context: LaneContext) -> bytes:
    """The row's line, made anew: 50,000 of them are held in memory only while they are sent."""
    return _line(pending.row.head.row_key, pending.row.request(context))


def _line(row_key: int, request: JsonObject) -> bytes:
    item = {"custom_id": str(row_key), "method": "POST", "url": ENDPOINT, "body": request}
    return json.dumps(item, separators=(",", ":")).encode("ascii") + b"\n"


@dataclass(frozen=True, slots=True)
class Line:
    """One line of an output or error file."""

    row_key: int
    status: int
    """0: the request was never executed; `error` says why then."""
    body: bytes
    error: ProviderError


def read_line(raw: bytes) -> Line | None:
    """None for what is no result of a row: an empty or torn line, an unknown shape."""
    try:
        item = json.loads(raw)
        key = int(item["custom_id"])
    except (ValueError, RecursionError, KeyError, TypeError):
        return None
    response = item.get("response")
    if isinstance(response, dict) and isinstance(response.get("status_code"), int):
        body = json.dumps(response.get("body")).encode()
        return Line(key, response["status_code"], body, read_error(body))
    return Line(key, 0, b"", read_error(json.dumps({"error": item.get("error")}).encode()))


@dataclass(frozen=True, slots=True)
class Attempt:
    """What a line came to: an answer, or a diagnosis about the attempt."""

    answer: Answer | None = None
    diagnosis: Diagnosis | None = None
    lost_usd: float = 0.0
    said: str = ""
    """The provider's words in the diagnosis: a prompt may be in them."""
    excess: Excess = field(default_factory=Excess)
    """What it shows beyond what was reserved."""
    is_uncharged: bool = False
    """The job books what the provider says, and this answer does not say it."""


def attempt_of(line: Line, row: FileRow, context: LaneContext, latency_s: float, terms: Terms) -> Attempt:
    """An answer priced by the provider's usage, or the diagnosis. `row` is the request's."""
    if line.status == 200:
        return _completion(line.body, row, context, latency_s, terms)
    if line.status == 0:
        said = f"{line.error.code or 'not executed'}: {line.error.message}".rstrip(": ")
        return Attempt(diagnosis=Diagnosis("retry", said))
    name = context.model.model or context.alias
    diagnosis = diagnose(line.status, {}, line.error, context.alias, name, context.model.api_key_env)
    return Attempt(diagnosis=diagnosis, said=line.error.message)


def _completion(body: bytes, row: FileRow, context: LaneContext, latency_s: float, terms: Terms) -> Attempt:
    bounds = row.bounds
    try:
        completion = parse_completion(body, {"messages": []})  # the request's own text is not at hand
    except ReplyError as unusable:
        if unusable.usage is not None:
            usage = within(unusable.usage, row.bound, row.max_tokens)
            lost_usd = answer_usd(
                context, bounds.most_used(usage, terms.excess) if usage.source != "provider" else usage
            )
        elif unusable.error is None:
            lost_usd = most_usd(context, terms.excess.prompt_bound(row.bound), min(row.max_tokens, len(body)))
        else:  # who says nothing of what it charges has refused, or broken down
            lost_usd = 0.0
        if unusable.error is not None:
            name = context.model.model or context.alias
            diagnosis = diagnose_inside({}, unusable.error, context.alias, name, context.model.api_key_env)
            return Attempt(diagnosis=diagnosis, lost_usd=lost_usd, said=unusable.error.message)
        return Attempt(diagnosis=Diagnosis("retry", str(unusable)), lost_usd=lost_usd)
    usage = within(completion.usage, row.bound, row.max_tokens, completion.text)
    if usage.source == "estimated" and terms.capped:
        usage = bounds.most_used(usage, terms.excess)
    # No batch is asked for log-probabilities: those that a row's own body asked for are not the journal's.
    completion = replace(completion, usage=usage, logprobs=None)
    cost_usd = answer_usd(context, usage)
    answer = row.head.answered(completion, cost_usd=cost_usd, latency_s=latency_s, attempts=row.attempts)
    uncharged = is_charged(context) and usage.charged_usd is None
    return Attempt(answer=answer, excess=bounds.beyond(usage, cost_usd, context, terms.excess), is_uncharged=uncharged)
