"""The answers of one bucket put to its rows: what a bucket's part of responses/ says.

    scored/part + its slice of the plan + each model's journal rows → index of each row's answer per model → take → columns

Arrow and NumPy column by column; Python touches a row only to compare its answer with gold and to check its JSON. Cost: some 8 us
a row beside those. Legend: k rows of the bucket, m models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs.lanes.faults import is_too_long_error
from jobs.route.account.column_types import InputTypes
from jobs.route.pilot.judged import judged_rows
from jobs.route.plan.plan import Assignments
from jobs.spec.response_format import parsed_column
from jobs.storage.keys import find_keys
from routing.answers.matching import make_matcher

NOT_ASKED = "open: not asked yet"
EMPTY = "empty"
"""Instead of a kind: an answer that is paid for and says nothing (jobs.journal.rows.Answer.is_empty)."""


@dataclass(frozen=True, slots=True)
class AccountTask:
    """What every bucket's merge needs; picklable."""

    output: str
    names: tuple[str, ...]
    keep: tuple[str, ...]
    types: InputTypes
    gold_match: str | None
    allow_code: bool
    schema: dict[str, Any] | None
    category: str | None
    predictions: str = ""
    """Folder of the pilot's predictions, "" where the router's own stand."""
    has_judge: bool = False
    judged: pa.Table | None = None
    """What the judge said of the sample: `jobs.route.pilot.judged.judged_quality`."""
    cascade: bool = False
    """The weak model was asked first."""
    refused_go_up: bool = False
    """`on_refused: strong`; else only prompts that are too long for a model do."""


class ModelAnswers:
    """One model's journal rows for the leaders at hand, by key."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self.keys = table["row_key"].to_numpy()

    def find(self, leaders: NDArray[np.int64]) -> NDArray[np.intp]:
        """(k,) row of the table per leader, -1 where the model has none."""
        return find_keys(self.keys, leaders)


class Bucket:
    """One bucket's rows with what the models answered to them."""

    def __init__(
        self, task: AccountTask, scored: pa.Table, plan: Assignments, answers: list[ModelAnswers],
        shared: dict[str, pa.Table],
    ) -> None:  # fmt: skip
        self.task, self.scored, self.answers = task, scored, answers
        self.key, self.leader = plan.row_key, plan.leader
        self.model, self.fold = plan.model, plan.fold
        self.sample = self.fold >= 0
        self.score, self.reason, self.plan_error = plan.router_score, plan.reason, plan.error
        self.ids = task.types.ids(scored)
        self.shared_ids = shared.get("")
        self.is_leader = self.key == self.leader
        self.rows = len(scored)
        # found[j]: each row's place in `rows_of_all`, -1 where model j has none; kind[j]: what became of it there.
        self.rows_of_all = pa.concat_tables([each.table for each in answers]).combine_chunks()
        starts = np.cumsum([0, *(len(each.table) for each in answers[:-1])])[:, None]
        places = np.stack([each.find(self.leader) for each in answers])
        self.found = np.where((self.model >= 0) & (places >= 0), starts + places, -1)
        self.kind = [self._kind(j) for j in range(len(answers))]
        self.judged, self.is_judged = judged_rows(task.judged, self.key, task.names)

    def pick(self, column: str, source: NDArray[np.int8] | int, default: Any = None) -> pa.Array:
        """(k,) per row the column of the model in `source`, `default` where it has no row."""
        at = np.where(np.asarray(source) < 0, -1, self.found[np.maximum(source, 0), np.arange(self.rows)])
        values = self.rows_of_all[column].combine_chunks().take(pa.array(at, mask=at < 0))
        return values if default is None else values.fill_null(default)

    def take(self, j: int, column: str, default: Any) -> NDArray[Any]:
        """(k,) values of model j's column, `default` where it has no row."""
        return np.asarray(self.pick(column, j, default).to_numpy(zero_copy_only=False))

    def _kind(self, j: int) -> NDArray[np.object_]:
        """(k,) what became of the rows at model j; EMPTY for an answer that is paid for and says nothing."""
        kind = self.take(j, "kind", "")
        said = self.pick("completion_tokens", j).is_valid().to_numpy(zero_copy_only=False)
        return np.where((kind == "rejected") & said, EMPTY, kind)

    @cached_property
    def texts(self) -> list[pa.Array]:
        """Per model the (k,) answers."""
        return [self.pick("generated_text", j) for j in range(len(self.answers))]

    @cached_property
    def given(self) -> NDArray[np.int8]:
        """(k,) whose answer each row gets: the best one that is paid for, -1 where there is none."""
        given = np.full(self.rows, -1, np.int8)
        for j, kind in enumerate(self.kind):
            given[kind == "answered"] = j
        return given

    @cached_property
    def billed(self) -> NDArray[np.int8]:
        """(k,) whose answer each row gets, or else whose empty one it was billed for; -1 where there is none."""
        billed = self.given.copy()
        for j, kind in enumerate(self.kind):
            billed[(self.given < 0) & (kind == EMPTY) & (self.model == j)] = j
        return billed

    @cached_property
    def open_rows(self) -> NDArray[np.bool_]:
        """(k,) rows that the next run would ask: no answer, and no model that has refused them for good."""
        asked, final = self.model.copy(), np.zeros(self.rows, bool)
        for j, kind in enumerate(self.kind):
            refused = (asked == j) & np.isin(kind, ("rejected", EMPTY))
            asked[refused & self.moves[:, j]] += 1
            final |= refused & ~self.moves[:, j]
        return np.asarray((self.given < 0) & (self.model >= 0) & ~final)

    @cached_property
    def moves(self) -> NDArray[np.bool_]:
        """(k, m) rows that a model refused and that go to the next one up."""
        moves: NDArray[np.bool_] = np.stack(self.kind, axis=1) == "rejected"
        moves[:, -1] = False
        if not self.task.refused_go_up:
            for j in range(moves.shape[1] - 1):
                if moves[:, j].any():
                    moves[:, j] &= [is_too_long_error(error) for error in self.take(j, "error", "")]
        return moves

    @cached_property
    def quality(self) -> NDArray[np.float64]:
        """(k, m) of every model's answer: the judge's where it judged the row, else by gold; NaN where neither can tell."""
        quality = self._gold_quality()
        quality[self.is_judged] = self.judged[self.is_judged]
        return quality

    def _gold_quality(self) -> NDArray[np.float64]:
        """(k, m) by gold, 0 of an empty answer; NaN where the answer or the gold is missing, or a pattern ran out of time."""
        quality = np.full((self.rows, len(self.answers)), math.nan)
        if self.task.gold_match is None:
            return quality
        matcher = make_matcher(self.task.gold_match, allow_code=self.task.allow_code)
        gold = self.scored["gold"].combine_chunks()
        for j, texts in enumerate(self.texts):
            at = np.flatnonzero(pc.and_(texts.is_valid(), gold.is_valid()).to_numpy(zero_copy_only=False))
            told = zip(texts.take(pa.array(at)).to_pylist(), gold.take(pa.array(at)).to_pylist(), strict=True)
            quality[at, j] = [matcher(text, wanted) for text, wanted in told]
            quality[(self.kind[j] == EMPTY) & gold.is_valid().to_numpy(zero_copy_only=False), j] = 0.0
        return quality

    def table(self) -> pa.Table:
        """The rows of responses/, in input order."""
        task, given = self.task, self.given
        names = np.array([*task.names, ""], object)
        text_column = self.pick("generated_text", given)
        billed = self.billed
        copied = ~self.is_leader & (billed >= 0)
        told = np.where(given >= 0, self.quality[np.arange(self.rows), np.maximum(given, 0)], math.nan)
        numbers = {}
        for name in ("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens", "attempts"):
            values = self.pick(name, billed)
            numbers[name] = pc.if_else(pc.and_(pa.array(copied), values.is_valid()), pa.scalar(0, values.type), values)
        money = {name: self._dollars(name) for name in ("cost_usd", "lost_usd")}
        source = np.where(np.isnan(told), "", np.where(self.is_judged, "judge", "gold"))
        columns = {
            "id": self.ids,
            "model": pa.array(names[given], pa.string()),
            "route": pa.array(names[self.model], pa.string()),
            "route_reason": pa.array(self._reasons(), pa.string()),
            "router_score": pa.array(self.score, pa.float32(), from_pandas=True),
            "generated_text": text_column,
            "finish_reason": self.pick("finish_reason", billed, ""),
            **{name: values for name, values in numbers.items() if name != "attempts"},
            "token_source": self.pick("token_source", billed, ""),
            **{name: pa.array(money[name], pa.float64()) for name in money},
            "latency_s": self.pick("latency_s", billed),
            "attempts": numbers["attempts"].fill_null(0),
            "copied_from": self._copied_from(copied & (given >= 0)),
            "error": pa.array(self._errors(), pa.string()),
            "parsed": self._parsed(text_column),
            "quality": pa.array(told, pa.float64(), from_pandas=True),
            "quality_source": pa.array(source, pa.string()),
        }  # fmt: skip
        return pa.table(columns | dict(zip(task.keep, task.types.kept(self.scored), strict=True)))

    def _parsed(self, texts: pa.Array) -> pa.Array:
        """The answers that are valid JSON of the job's schema; null elsewhere, and everywhere for a job without one."""
        schema = self.task.schema
        if not schema:
            return pa.nulls(self.rows, pa.string())
        return pa.array([parsed_column(text, schema) if text else None for text in texts.to_pylist()], pa.string())

    def _dollars(self, name: str) -> NDArray[np.float64]:
        """All that was settled for the row, by whichever model; copies cost nothing."""
        total = np.zeros(self.rows)
        for j in range(len(self.answers)):
            total += self.take(j, name, 0.0)
        return np.where(self.is_leader, total, 0.0)

    def _copied_from(self, copied: NDArray[np.bool_]) -> pa.Array:
        """Id of the row that was asked, null for rows that were asked themselves."""
        keys, ids = pa.array(self.key), self.ids
        if self.shared_ids is not None:
            keys = pa.concat_arrays([keys, *self.shared_ids["row_key"].chunks])
            ids = pa.concat_arrays([ids, *self.shared_ids["id"].chunks])
        at = pc.index_in(pa.array(self.leader, mask=~copied), value_set=keys, skip_nulls=True)
        return ids.take(at)

    def _reasons(self) -> NDArray[np.object_]:
        """(k,) why this model: the plan's reason, unless another model's answer had to do or was there already."""
        out, given, names = self.reason.copy(), self.given, self.task.names
        out[(given >= 0) & (self.pick("attempts", given, 1).to_numpy() == 0)] += "; answered in an earlier run"
        for route, kind in enumerate(self.kind):
            routed = self.model == route
            for other, name in enumerate(names):
                mine = routed & (given == other)
                if other == route or not mine.any():
                    continue
                refused = mine & (kind == "rejected")
                if other < route:
                    out[mine] = f"{names[route]} not paid for: budget spent or lane down"
                    continue
                out[refused] = f"{names[route]} could not answer it"
                out[mine & ~refused] += f"; {name}'s answer was already paid for"
                out[mine & ~refused & self.sample] += " (sample)"
        return out

    def _errors(self) -> NDArray[np.object_]:
        """(k,) "" for an answered row; else what is wrong with it, or that it is still open."""
        errors = np.full(self.rows, "", object)
        unanswered = self.given < 0
        bad = unanswered & (self.model < 0)
        inputs = self.scored["input_error"].to_numpy()
        errors[bad] = np.where(inputs[bad] != "", inputs[bad], self.plan_error[bad])
        routed = self.pick("error", self.model, "").to_numpy(zero_copy_only=False)
        still_open = routed[self.open_rows]
        errors[self.open_rows] = np.where(still_open == "", NOT_ASKED, "open: " + still_open)
        for told in [routed, *(self.take(j, "error", "") for j in range(len(self.answers)))]:
            final = unanswered & ~bad & ~self.open_rows & (errors == "")
            errors[final] = told[final]
        errors[unanswered & ~bad & ~self.open_rows & (errors == "")] = "rejected"
        return errors
