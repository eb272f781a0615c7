"""Stage 4: every input row once in responses/, and what it all cost.

    for each bucket: scored/part + plan + the journal's segments of that bucket → its rows of responses/part-NNNNN.parquet

No shuffle: a file is one task, which holds one of its buckets at a time (jobs/response_files.py). The only rows that cross
buckets are answers with copies elsewhere, gathered once beforehand. A file is replaced whole and always by one of the same
rows, so whoever reads the folder sees each row at most once at any moment.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
from numpy.typing import NDArray

from jobs.evidence import EXAMPLES, BucketRows, evidence
from jobs.journal import Journal
from jobs.judge import judged_rows
from jobs.plan import Assignments
from jobs.requests import parsed_column
from jobs.response_files import response_files
from jobs.scored import is_among
from jobs.spec import JobSpec
from jobs.store import Store
from routing.matching import make_matcher
from routing.pilot import FOLD_NAMES

HISTOGRAM_BINS = 40
REPORT = FOLD_NAMES.index("report")
"""Rows of the other folds taught the router or chose the cut: they say nothing of how well either did."""
NOT_ASKED = "open: not asked yet"


@dataclass(frozen=True, slots=True)
class AccountTask:
    """What every bucket's merge needs; picklable."""

    output: str
    names: tuple[str, ...]
    keep: tuple[str, ...]
    gold_match: str | None
    allow_code: bool
    schema: dict[str, Any] | None
    category: str | None
    predictions: str = ""
    """Folder of the pilot's predictions, "" where the router's own stand."""
    has_judge: bool = False
    judged: pa.Table | None = None
    """What the judge said of the sample: `jobs.judge.judged_quality`."""
    cascade: bool = False
    """The weak model was asked first."""


def run_account(
    spec: JobSpec, store: Store, parts: list[dict[str, Any]], plan: Assignments, allow_code: bool, predictions: str = "",
    judged: pa.Table | None = None,
) -> list[dict[str, Any]]:  # fmt: skip
    """Write responses/. Returns one dict of sums per bucket, for `summarise`. `predictions`, `judged`: see AccountTask."""
    category = next((c for c in spec.input.keep if c in ("category", "dataset", "subject")), None)
    task = AccountTask(
        store.uri, spec.names, tuple(spec.input.keep), spec.quality.matcher, allow_code,
        (spec.response_format or {}).get("json_schema"), category, predictions, spec.quality.judge is not None, judged,
        spec.cascade is not None,
    )  # fmt: skip
    order = np.argsort(plan.bucket, kind="stable")
    buckets = plan.bucket[order]
    numbers = [part["bucket"] for part in parts]
    borders = zip(np.searchsorted(buckets, numbers), np.searchsorted(buckets, numbers, "right"), strict=True)
    files = response_files(store, spec.names, parts)
    kwargs = {
        "task": task, "parts": parts, "files": files,
        "plan_refs": [ray.put(_rows_of(plan, order[low:high])) for low, high in borders],
        "shared_ref": [ray.put(_gather_shared(store, spec.names, plan))],
    }  # fmt: skip
    items = [{"file": number} for number in range(len(files))]
    dataset = ray.data.from_items(items, override_num_blocks=len(items)).map(
        _write_file,  # type: ignore[arg-type]
        fn_kwargs=kwargs,
        num_cpus=0.5,
    )
    done = sorted(dataset.take_all(), key=lambda row: row["file"])
    return [sums for row in done for sums in json.loads(row["sums"])]


def predicted_folder(pilot: Mapping[str, Any] | None) -> str:
    """Where the predictions of a pilot's head are, by its manifest entry; "" where the router's own stand."""
    return f"{pilot['folder']}/predicted" if pilot and pilot["head"] != "none" and "folder" in pilot else ""


def _rows_of(plan: Assignments, at: NDArray[np.int64]) -> Assignments:
    """The plan of some rows."""
    return Assignments(**{field.name: getattr(plan, field.name)[at] for field in fields(Assignments)})


def _gather_shared(store: Store, names: tuple[str, ...], plan: Assignments) -> dict[str, pa.Table]:
    """Answers of leaders that have copies in other buckets, and those leaders' ids, per model."""
    position = _position(plan.row_key, plan.leader)
    leaders = np.unique(plan.leader[(plan.model >= 0) & (plan.bucket != plan.bucket[position])])
    if not len(leaders):
        return {}
    journal = Journal(store)
    buckets = np.unique(plan.bucket[_position(plan.row_key, leaders)]).tolist()
    tables = {name: journal.read(name, buckets, keys=leaders) for name in names}
    ids = [store.read_table(f"scored/part-{b:010d}.parquet", columns=["row_key", "id"]) for b in buckets]
    joined = pa.concat_tables(ids)
    tables[""] = joined.filter(pc.is_in(joined["row_key"], pa.array(leaders)))
    return tables


def _position(keys: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Index in `keys` (unique, any order) of each of `wanted`, all of which are there."""
    order = np.argsort(keys)
    return np.asarray(order[np.searchsorted(keys, wanted, sorter=order)])


class _Answers:
    """One model's journal rows for the leaders at hand, by key."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table
        self.keys = table["row_key"].to_numpy()
        self.order = np.argsort(self.keys)

    def find(self, leaders: NDArray[np.int64]) -> NDArray[np.int64]:
        """Row of the table per leader, -1 where the model has none."""
        if not len(self.keys):
            return np.full(len(leaders), -1)
        at = np.minimum(np.searchsorted(self.keys, leaders, sorter=self.order), len(self.keys) - 1)
        at = self.order[at]
        return np.where(self.keys[at] == leaders, at, -1)


def _write_file(
    item: dict[str, Any],
    task: AccountTask,
    parts: list[dict[str, Any]],
    files: list[range],
    plan_refs: list[Any],
    shared_ref: list[Any],
) -> dict[str, Any]:
    """One file of responses/, bucket by bucket, and the sums of each as JSON."""
    store = Store(task.output)
    shared: dict[str, pa.Table] = ray.get(shared_ref[0])
    number = int(item["file"])
    sums = []
    with ExitStack() as stack:
        writer = None
        for index in files[number]:
            table, of_bucket = _merge(store, task, parts[index], ray.get(plan_refs[index]), shared)
            if writer is None:
                name = f"responses/part-{number:05d}.parquet"
                writer = stack.enter_context(store.table_writer(name, table.schema))
            writer.write_table(table)
            sums.append(of_bucket)
    return {"file": number, "sums": json.dumps(sums)}


def _merge(
    store: Store, task: AccountTask, part: dict[str, Any], plan: Assignments, shared: dict[str, pa.Table]
) -> tuple[pa.Table, dict[str, Any]]:
    """One bucket: its rows of responses/, and its sums."""
    scored = store.read_table(part["name"])
    # A part and its slice of the plan are both in input order.
    assert (plan.row_key == scored["row_key"].to_numpy()).all(), f"plan and {part['name']} do not match"
    journal = Journal(store)
    answers = []
    for name in task.names:
        table = journal.read(name, int(part["bucket"]))
        own = _Answers(table)
        if name in shared:
            foreign = shared[name].filter(pc.invert(pc.is_in(shared[name]["row_key"], table["row_key"])))
            table = pa.concat_tables([table, foreign])
        answers.append((own, _Answers(table)))
    builder = _Builder(task, scored, plan, [merged for _, merged in answers], shared)
    table = builder.table()
    return table, builder.sums(table, [own for own, _ in answers])


class _Builder:
    """Puts the answers of one bucket to its rows. Legend: k rows, m models."""

    def __init__(
        self, task: AccountTask, scored: pa.Table, plan: Assignments, answers: list[_Answers],
        shared: dict[str, pa.Table],
    ) -> None:  # fmt: skip
        self.task, self.scored, self.answers = task, scored, answers
        self.key, self.leader = plan.row_key, plan.leader
        self.model, self.fold, self.cost_planned = plan.model, plan.fold, plan.cost_usd
        self.sample = self.fold >= 0
        self.score, self.reason, self.plan_error = plan.router_score, plan.reason, plan.error
        self.shared_ids = shared.get("")
        self.is_leader = self.key == self.leader
        self.rows = len(scored)
        # found[j]: each row's place in `rows_of_all`, -1 where model j has none; kind[j]: what became of it there.
        self.rows_of_all = pa.concat_tables([each.table for each in answers]).combine_chunks()
        starts = np.cumsum([0, *(len(each.table) for each in answers[:-1])])[:, None]
        places = np.stack([each.find(self.leader) for each in answers])
        self.found = np.where((self.model >= 0) & (places >= 0), starts + places, -1)
        self.kind = [self._take(j, "kind", "") for j in range(len(answers))]
        self.matcher = make_matcher(task.gold_match, allow_code=task.allow_code) if task.gold_match else None
        self.judged, self.is_judged = judged_rows(task.judged, self.key, task.names)

    def _pick(self, column: str, source: NDArray[np.int8] | int, default: Any = None) -> pa.Array:
        """(k,) per row the column of the model in `source`, `default` where it has no row."""
        at = np.where(np.asarray(source) < 0, -1, self.found[np.maximum(source, 0), np.arange(self.rows)])
        values = self.rows_of_all[column].combine_chunks().take(pa.array(at, mask=at < 0))
        return values if default is None else values.fill_null(default)

    def _take(self, j: int, column: str, default: Any) -> NDArray[Any]:
        """(k,) values of model j's column, `default` where it has no row."""
        return np.asarray(self._pick(column, j, default).to_numpy(zero_copy_only=False))

    def given(self) -> NDArray[np.int8]:
        """Whose answer each row gets: the best one that is paid for, -1 where there is none."""
        given = np.full(self.rows, -1, np.int8)
        for j, kind in enumerate(self.kind):
            given[kind == "answered"] = j
        return given

    def quality_of(self, texts: list[Any], source: NDArray[np.int8] | int) -> list[float | None]:
        """Quality of one text per row, which is the answer of the model in `source`: the judge's where it judged the row, else by
        gold; None where neither can tell."""
        quality = self._gold_of(texts)
        of_model = np.broadcast_to(source, self.rows)
        for row in np.flatnonzero(self.is_judged):
            value = float(self.judged[row, of_model[row]]) if of_model[row] >= 0 else math.nan
            quality[row] = None if math.isnan(value) else value
        return quality

    def _gold_of(self, texts: list[Any]) -> list[float | None]:
        """Gold quality of one text per row, None where either is missing."""
        if self.matcher is None:
            return [None] * self.rows
        golds = self.scored["gold"].to_pylist()
        found = [
            math.nan if text is None or gold is None else self.matcher(text, gold)
            for text, gold in zip(texts, golds, strict=True)
        ]
        return [None if math.isnan(quality) else quality for quality in found]  # NaN: no gold, or a pattern out of time

    def table(self) -> pa.Table:
        """The rows of responses/, in input order."""
        task = self.task
        given = self.given()
        names = np.array([*task.names, ""], object)
        text_column = self._pick("generated_text", given)
        texts = text_column.to_pylist()
        copied = ~self.is_leader & (given >= 0)
        quality = self.quality_of(texts, given)
        numbers = {}
        for name in ("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens", "attempts"):
            values = self._pick(name, given)
            numbers[name] = pc.if_else(pc.and_(pa.array(copied), values.is_valid()), pa.scalar(0, values.type), values)
        money = {name: self._dollars(name) for name in ("cost_usd", "lost_usd")}
        columns = {
            "id": self.scored["id"],
            "model": pa.array(names[given], pa.string()),
            "route": pa.array(names[self.model], pa.string()),
            "route_reason": pa.array(self._reasons(given), pa.string()),
            "router_score": pa.array(self.score, pa.float32(), from_pandas=True),
            "generated_text": text_column,
            "finish_reason": self._pick("finish_reason", given, ""),
            **{name: values for name, values in numbers.items() if name != "attempts"},
            "token_source": self._pick("token_source", given, ""),
            **{name: pa.array(money[name], pa.float64()) for name in money},
            "latency_s": self._pick("latency_s", given),
            "attempts": numbers["attempts"].fill_null(0),
            "copied_from": self._copied_from(copied),
            "error": pa.array(self._errors(given), pa.string()),
            "parsed": pa.array([parsed_column(t, task.schema) if t and task.schema else None for t in texts], pa.string()),
            "quality": pa.array(quality, pa.float64()),
            "quality_source": self._sources(quality),
        }  # fmt: skip
        keep = self.scored["keep"].combine_chunks()
        columns |= {name: keep.field(f"k{i}") for i, name in enumerate(task.keep)}
        return pa.table(columns)

    def _sources(self, quality: list[float | None]) -> pa.Array:
        """Who told the quality of each row."""
        told = [value is not None for value in quality]
        return pa.array(np.where(told, np.where(self.is_judged, "judge", "gold"), ""), pa.string())

    def _dollars(self, name: str) -> NDArray[np.float64]:
        """All that was settled for the row, by whichever model; copies cost nothing."""
        total = np.zeros(self.rows)
        for j in range(len(self.answers)):
            total += self._take(j, name, 0.0)
        return np.where(self.is_leader, total, 0.0)

    def _copied_from(self, copied: NDArray[np.bool_]) -> pa.Array:
        """Id of the row that was asked, null for rows that were asked themselves."""
        keys, ids = pa.chunked_array([pa.array(self.key)]), self.scored["id"]
        if self.shared_ids is not None:
            keys = pa.chunked_array([*keys.chunks, *self.shared_ids["row_key"].chunks])
            ids = pa.chunked_array([*ids.chunks, *self.shared_ids["id"].chunks])
        at = pc.index_in(pa.array(self.leader, mask=~copied), value_set=keys.combine_chunks(), skip_nulls=True)
        return ids.combine_chunks().take(at)

    def _reasons(self, given: NDArray[np.int8]) -> list[str]:
        """Why this model: the plan's reason, unless another model's answer had to do or was there already."""
        out = self.reason.copy()
        reused = (given >= 0) & (self._pick("attempts", given, 1).to_numpy() == 0)
        out[reused] += "; answered in an earlier run"
        for row in np.flatnonzero((given != self.model) & (given >= 0)):
            route, name = self.task.names[self.model[row]], self.task.names[given[row]]
            if given[row] < self.model[row]:
                out[row] = f"{route} not paid for: budget spent or lane down"
            elif self.kind[self.model[row]][row] == "rejected":
                out[row] = f"{route} could not answer it"
            else:
                out[row] = f"{out[row]}; {name}'s answer was already paid for" + (
                    " (sample)" if self.sample[row] else ""
                )
        return [str(reason) for reason in out]

    def _errors(self, given: NDArray[np.int8]) -> list[str]:
        """ "" for an answered row; else what is wrong with it, or that it is still open."""
        routed = self._pick("error", self.model, "").to_pylist()
        inputs = self.scored["input_error"].to_pylist()
        open_rows = self.open_rows(given)
        errors = []
        for row in range(self.rows):
            if given[row] >= 0:
                errors.append("")
            elif self.model[row] < 0:
                errors.append(inputs[row] or self.plan_error[row])
            elif open_rows[row]:
                errors.append(f"open: {routed[row]}" if routed[row] else NOT_ASKED)
            else:
                errors.append(routed[row] or next((told[row] for told in self._told if told[row]), "rejected"))
        return errors

    @cached_property
    def _told(self) -> list[NDArray[Any]]:
        """Per model the (k,) errors it gave."""
        return [self._take(j, "error", "") for j in range(len(self.answers))]

    def open_rows(self, given: NDArray[np.int8]) -> NDArray[np.bool_]:
        """Rows that the next run would ask again: no answer, and no final refusal by the model they are routed to."""
        final = np.zeros(self.rows, bool)
        for j in range(len(self.answers)):
            final |= self.kind[j] == "rejected"
        return np.asarray((given < 0) & (self.model >= 0) & ~final)

    def sums(self, table: pa.Table, own: list[_Answers]) -> dict[str, Any]:
        """What the report adds up over all buckets."""
        given = self.given()
        names = self.task.names
        errors = table["error"].to_pylist()
        kinds: dict[str, dict[str, Any]] = {}
        ids = table["id"].to_pylist()
        for error, identity in zip(errors, ids, strict=True):
            if error:
                entry = kinds.setdefault(error[:200], {"rows": 0, "ids": []})
                entry["rows"] += 1
                if len(entry["ids"]) < EXAMPLES:
                    entry["ids"].append(identity)
        latency = table["latency_s"].to_numpy(zero_copy_only=False).astype(float)
        slow = np.argsort(-np.nan_to_num(np.where(self.is_leader, latency, 0)))[:EXAMPLES]
        texts = [self._pick("generated_text", j).to_pylist() for j in range(len(names))]
        quality = np.array([self.quality_of(column, j) for j, column in enumerate(texts)], float).T
        routed = quality[np.arange(self.rows), np.maximum(self.model, 0)]
        own_answer = (self.model >= 0) & np.isfinite(routed)
        policy = np.where(own_answer, routed, table["quality"].to_numpy(zero_copy_only=False).astype(float))
        if self.task.has_judge:
            # Gold that some rows have and others have not says nothing of the others; the judge's sample is drawn from all.
            quality[~self.sample], policy[~self.sample] = np.nan, np.nan
        bins = np.clip((np.nan_to_num(self.score) * HISTOGRAM_BINS).astype(int), 0, HISTOGRAM_BINS - 1)
        scored = ~np.isnan(self.score) & (self.model >= 0)
        return {
            "rows": self.rows,
            "errors": sum(bool(e) for e in errors) - int(self.open_rows(given).sum()),
            "open": int(self.open_rows(given).sum()),
            "copied": int((~self.is_leader & (given >= 0)).sum()),
            "given": {n: int((given == j).sum()) for j, n in enumerate(names)},
            "routed": {n: int((self.model == j).sum()) for j, n in enumerate(names)},
            "journal": {n: self._journal_sums(j, own[j]) for j, n in enumerate(names)},
            "histogram": {
                n: np.bincount(bins[scored & (self.model == j)], minlength=HISTOGRAM_BINS).tolist() for j, n in enumerate(names)
            },
            "errors_by_kind": dict(sorted(kinds.items(), key=lambda kv: -kv[1]["rows"])[:20]),
            "slowest": [{"id": ids[i], "model": names[given[i]], "latency_s": float(latency[i])} for i in slow if given[i] >= 0],
            "evidence": evidence(self._evidence_rows(table, texts, quality, policy)),
        }  # fmt: skip

    def _journal_sums(self, j: int, own: _Answers) -> dict[str, Any]:
        """Money, tokens and calls of one model in this bucket, and what it was not asked."""
        table = own.table
        purpose = table["purpose"].to_numpy().astype(object)
        fitted = is_among(table["row_key"].to_numpy(), np.sort(self.leader[(self.fold >= 0) & (self.fold < REPORT)]))
        purpose[fitted & (purpose == "shadow")] = "pilot"
        if j == 0 and self.task.cascade:  # asked first, and then not good enough
            upgraded = is_among(table["row_key"].to_numpy(), np.sort(self.leader[self.model > 0]))
            purpose[upgraded & (purpose == "answer")] = "cascade"
        cost = table["cost_usd"].to_numpy()
        answered = pc.equal(table["kind"], "answered").to_numpy()
        n_bytes = self.scored["prompt_bytes"].to_numpy()
        mine = self.is_leader & (self.model >= 0)
        # An answer without an attempt is an earlier run's: this run paid nothing for it, and measured nothing.
        asked = mine & (self.kind[j] == "answered") & (self._take(j, "attempts", 0) > 0)
        unasked = mine & ~asked
        tried = table["attempts"].to_numpy() > 0
        fresh = table.filter(pa.array(tried))

        def total(name: str) -> float:
            return float(pc.sum(fresh[name]).as_py() or 0)

        return {
            "cost_usd": total("cost_usd"), "lost_usd": total("lost_usd"), "prompt_tokens": int(total("prompt_tokens")),
            "completion_tokens": int(total("completion_tokens")), "requests": int(total("attempts")),
            "answers": int((answered & tried).sum()), "reused": int((answered & ~tried).sum()), "gpu_s": total("gpu_s"),
            "by_purpose": {p: float(cost[purpose == p].sum()) for p in set(purpose.tolist())},
            "asked_bytes": int(n_bytes[asked].sum()), "unasked_bytes": int(n_bytes[unasked].sum()), "unasked": int(unasked.sum()),
        }  # fmt: skip

    def _evidence_rows(
        self, table: pa.Table, texts: list[list[Any]], quality: NDArray[np.float64], policy: NDArray[np.float64]
    ) -> BucketRows:
        """What the run is measured by. An answer without an attempt is an earlier run's, and has no price here."""
        models = range(len(self.answers))
        paid = [
            np.where(
                (self.kind[j] == "answered") & (self._take(j, "attempts", 0) > 0),
                self._take(j, "cost_usd", 0.0),
                np.nan,
            )
            for j in models
        ]
        return BucketRows(
            self.key, table["id"].to_pylist(), self.scored["messages"].to_pylist(),
            self.scored["prompt_bytes"].to_numpy().astype(np.int64),
            None if self.task.category is None else table[self.task.category].to_pylist(),
            self.model, self.fold, self.score, self.is_leader, self._predicted(), np.stack(self.kind, axis=1),
            np.stack(paid, axis=1), quality, policy, self._can_tell(), self.open_rows(self.given()), texts,
        )  # fmt: skip

    def _predicted(self) -> NDArray[np.float64]:
        """(k, m) what the plan expected of every model: the pilot's word where it recalibrated the router."""
        table = self.scored
        if self.task.predictions:
            name = f"{self.task.predictions}/part-{self.scored['bucket'][0].as_py():010d}.parquet"
            table = Store(self.task.output).read_table(name)
        flat = table["predicted"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
        return np.asarray(flat.reshape(self.rows, -1), np.float64)

    def _can_tell(self) -> NDArray[np.bool_]:
        """(k,) rows that have something to compare an answer with; with a judge all but what it left out of the sample."""
        gold = np.zeros(self.rows, bool) if self.matcher is None else np.asarray(self.scored["gold"].is_valid())
        return gold | self.is_judged | ~self.sample if self.task.has_judge else gold
