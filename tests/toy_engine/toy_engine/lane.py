"""The lane of `engine: toy`: the last message in capitals. A token is a word.

`engine_kwargs: {shout: 3}` puts so many exclamation marks behind it. A row's own parameters change nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pyarrow as pa
import ray.data

from jobs.journal.rows import Answer
from jobs.journal.writer import JournalWriter
from jobs.lanes.base import LaneCheck, LaneContext, RowHead
from jobs.lanes.chat import answer_key, build_request
from jobs.lanes.replies import Completion
from jobs.lanes.usage import Usage
from routing.pricing import tokens_cost_usd


class ToyLane:
    """See jobs.lanes.base.Lane."""

    def check(self, context: LaneContext) -> LaneCheck:
        """Any chat will do; of `shout` a whole number."""
        shout = context.model.engine_kwargs.get("shout", 0)
        if not isinstance(shout, int):
            return LaneCheck(
                False, f"models.{context.alias}.engine_kwargs.shout: must be a whole number (found {shout!r})"
            )
        return LaneCheck(True, "capitals, as long as they need to be")

    def answer(self, rows: ray.data.Dataset, context: LaneContext) -> ray.data.Dataset:
        """One actor a replica."""
        return rows.map_batches(
            _Actor,
            fn_constructor_args=(context,),
            batch_size=None,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=context.model.replicas),
            num_cpus=context.num_cpus,
        )


class _Actor:
    """Answers blocks of ASK_COLUMNS, in a Ray worker: the engine's package must be installed there too."""

    def __init__(self, context: LaneContext) -> None:
        self.context, self.name = context, context.model.traits.name
        self.journal = JournalWriter(context.output, context.alias, context.local_dir, context.session)

    def __call__(self, block: pa.Table) -> pa.Table:
        answers = [self._answer(row) for row in block.to_pylist()]
        for answer in answers:
            self.journal.append(answer)
        self.journal.flush()  # a block is done when its rows are on the store
        row = {
            "settled": len(answers),
            "errors": sum(answer.kind != "answered" for answer in answers),
            "prompt_tokens": sum(answer.prompt_tokens or 0 for answer in answers),
            "completion_tokens": sum(answer.completion_tokens or 0 for answer in answers),
            "cost_usd": sum(answer.cost_usd for answer in answers),
        }
        return pa.Table.from_pylist([row])

    def _answer(self, row: Mapping[str, Any]) -> Answer:
        context, messages, body = self.context, json.loads(row["messages"]), json.loads(row["body"] or "{}")
        request = build_request(
            context.model, context.alias, context.sampling, context.response_format, messages, body=body
        )
        head = RowHead(row["row_key"], row["bucket"], row["sample"], answer_key(request))
        prompt = messages[-1]["content"]
        if not isinstance(prompt, str):
            return head.unanswered("rejected", f"engine {self.name} answers nothing but text", attempts=0)
        n = len(prompt.split())
        text = prompt.upper() + "!" * context.model.engine_kwargs.get("shout", 0)
        cost_usd = tokens_cost_usd(context.price, n, n)
        return head.answered(Completion(text, "stop", Usage(n, n)), cost_usd=cost_usd, latency_s=0.0)

    def __del__(self) -> None:  # Ray Data has no other hook for an actor that has seen its last block
        if hasattr(self, "journal"):
            self.journal.close()
