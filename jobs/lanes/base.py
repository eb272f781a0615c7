"""What a lane is: the one place where rows meet an engine.

A lane gets the rows its model has to answer, as a Ray dataset, and settles each through the journal. It is one class
with two methods; the rest of the job knows the engine by its traits alone (jobs.spec.engines).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import ray.data

from jobs.journal.rows import Answer, Kind, Purpose
from jobs.lanes.chat import JsonObject
from jobs.lanes.emptiness import why_empty
from jobs.lanes.replies import Completion
from jobs.money.client import GovernorClient
from jobs.placement.needs import Need
from jobs.spec.models import ModelSpec
from routing.pricing import Price

ASK_COLUMNS = ("row_key", "bucket", "messages", "body", "content_key", "prompt_bytes", "sample")
"""Columns of the dataset a lane receives. `messages` and `body` are JSON text (body "" for none)."""


@dataclass(frozen=True, slots=True)
class RowHead:
    """Which row of the job it is. What it comes to, an answer or none, is made into its journal entry here."""

    row_key: int
    bucket: int
    sample: bool
    """Drawn into the sample: its entry's purpose is `shadow`."""
    answer_key: bytes = bytes(16)
    """Of its request (`jobs.lanes.chat.answer_key`); 16 zeros for a row that makes none."""

    def answered(
        self, completion: Completion, *, cost_usd: float, latency_s: float, attempts: int = 1, lost_usd: float = 0.0
    ) -> Answer:
        """The entry of an answer, or of one that is paid for and says nothing. `lost_usd`: what its earlier attempts cost."""
        usage, empty = completion.usage, why_empty(completion)
        mean_logprob, min_logprob = completion.logprobs or (None, None)
        return Answer(
            row_key=self.row_key,
            bucket=self.bucket,
            kind="rejected" if empty else "answered",
            answer_key=self.answer_key,
            generated_text=None if empty else completion.text,
            finish_reason=completion.finish_reason,
            prompt_tokens=usage.prompt_tokens,
            completion_tokens=usage.completion_tokens,
            cached_tokens=usage.cached_tokens,
            reasoning_tokens=usage.reasoning_tokens,
            token_source=usage.source,
            cost_usd=cost_usd,
            lost_usd=lost_usd,
            latency_s=latency_s,
            attempts=attempts,
            error=empty,
            purpose=self._purpose,
            mean_logprob=mean_logprob,
            min_logprob=min_logprob,
        )

    def unanswered(
        self, kind: Kind, error: str, *, attempts: int, latency_s: float = 0.0, lost_usd: float = 0.0
    ) -> Answer:
        """The entry of a row without one. `kind`: rejected, the row's fault, final; failed, asked again by the next run."""
        return Answer(
            row_key=self.row_key,
            bucket=self.bucket,
            kind=kind,
            answer_key=self.answer_key,
            token_source="bound" if lost_usd else "",
            lost_usd=lost_usd,
            latency_s=latency_s,
            attempts=attempts,
            error=error,
            purpose=self._purpose,
        )

    @property
    def _purpose(self) -> Purpose:
        return "shadow" if self.sample else "answer"


@dataclass(frozen=True, slots=True)
class LaneContext:
    """Everything a lane needs to answer for one model in one run; picklable, no secrets in it."""

    alias: str
    """The job file's name of the model."""
    model: ModelSpec
    sampling: JsonObject
    """Merged generation parameters; holds max_tokens or max_completion_tokens, always one of them."""
    response_format: JsonObject | None
    """{"json_schema": schema} or None."""
    price: Price
    """What its calls cost, as they are made: at once, in the flex tier, or in batches."""
    output: str
    """URI of the run."""
    session: str
    """This start of the run, unique; part of every segment's name."""
    local_dir: str
    """Folder for local append-only logs, the same on every node, this run's own."""
    governor: GovernorClient | None = None
    """None where the model is only checked, and in lanes that pay nobody."""
    num_cpus: float = 1.0
    """CPUs each actor of the lane may ask Ray for."""
    rows_per_block: int = 512
    full_price: Price | None = None
    """What a call costs that is served in the standard tier although the flex tier was asked for; None without flex."""
    logprobs: bool = False
    """The journal wants the mean and least log-probability of each answer's tokens, from engines that can tell."""
    examples: tuple[Sequence[Mapping[str, Any]], ...] = ()
    """Chats of the job's first rows, for `Lane.check` alone: whether the model takes requests like these."""


@dataclass(frozen=True, slots=True)
class LaneCheck:
    """What a look at the model before the run found."""

    ok: bool
    detail: str
    """One line: what answered, or what is wrong and the fix."""
    context_tokens: int | None = None
    """Longest prompt + answer, where known."""
    notes: tuple[str, ...] = ()
    """What will be done otherwise than the job says, one line each, for the plan."""


class Lane(Protocol):
    """An engine's adapter."""

    def check(self, context: LaneContext) -> LaneCheck:
        """Key, endpoint and model name, without spending. Never raises for what the user can mend: says so in the result."""
        ...

    def answer(self, rows: ray.data.Dataset, context: LaneContext) -> ray.data.Dataset:
        """A dataset that, when consumed, settles every row of `rows` (columns ASK_COLUMNS) in the journal.

        Its own rows are progress only: `settled`, `errors`, `prompt_tokens`, `completion_tokens`, `cost_usd` per block.
        Raises jobs.errors.LaneDown (through Ray) when the lane, not a row, is at fault.
        """
        ...


def need_of(lane: Lane, context: LaneContext) -> Need | None:
    """What the lane's engines ask of the cluster, so that they are waited for and take turns: its method `need`, where it has one.

    None for a lane whose actors need no more than a share of a CPU; it starts at once, beside all others.
    """
    asks = getattr(lane, "need", None)
    return asks(context) if asks else None
