"""Stage 4: every input row once in responses/, and what it all cost.

    for each bucket: scored/part + plan + the journal's segments of that bucket → responses/part-NNNNN.parquet

No shuffle: a bucket is one task. The only rows that cross buckets are answers with copies elsewhere, gathered once beforehand. A
part is replaced whole, so whoever reads the folder sees each row at most once at any moment.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
from numpy.typing import NDArray

from jobs.journal import Journal
from jobs.plan import Assignments
from jobs.requests import parsed_column
from jobs.spec import JobSpec
from jobs.store import Store
from routing.matching import make_matcher

HISTOGRAM_BINS = 40
EXAMPLES = 5
CATEGORIES = 30
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


def run_account(
    spec: JobSpec, store: Store, parts: list[dict[str, Any]], plan: Assignments, allow_code: bool
) -> list[dict[str, Any]]:
    """Write responses/. Returns one dict of sums per bucket, for `figures`."""
    gold = spec.quality.gold
    category = next((c for c in spec.input.keep if c in ("category", "dataset", "subject")), None)
    task = AccountTask(
        store.uri, spec.names, tuple(spec.input.keep), gold.match if gold else None, allow_code,
        (spec.response_format or {}).get("json_schema"), category,
    )  # fmt: skip
    order = np.argsort(plan.bucket, kind="stable")
    buckets = plan.bucket[order]
    items = []
    for number, part in enumerate(parts):
        low, high = np.searchsorted(buckets, [part["bucket"], part["bucket"] + 1])
        items.append({"number": number, "name": part["name"], "bucket": part["bucket"], "at": ray.put(order[low:high])})
    shared = ray.put(_gather_shared(store, spec.names, plan))
    plan_ref = ray.put(plan)
    dataset = ray.data.from_items(items, override_num_blocks=max(1, len(items))).map(
        _merge,  # type: ignore[arg-type]
        fn_kwargs={"task": task, "plan_ref": [plan_ref], "shared_ref": [shared]},
        num_cpus=0.5,
    )
    return [json.loads(row["sums"]) for row in sorted(dataset.take_all(), key=lambda row: row["number"])]


def _gather_shared(store: Store, names: tuple[str, ...], plan: Assignments) -> dict[str, pa.Table]:
    """Answers of leaders that have copies in other buckets, and those leaders' ids, per model."""
    position = _position(plan.row_key, plan.leader)
    leaders = np.unique(plan.leader[(plan.model >= 0) & (plan.bucket != plan.bucket[position])])
    if not len(leaders):
        return {}
    journal = Journal(store)
    wanted = pa.array(leaders)
    buckets = np.unique(plan.bucket[_position(plan.row_key, leaders)]).tolist()
    tables = {}
    for name in names:
        table = journal.read(name, buckets)
        tables[name] = table.filter(pc.is_in(table["row_key"], wanted))
    ids = [store.read_table(f"scored/part-{b:010d}.parquet", columns=["row_key", "id"]) for b in buckets]
    joined = pa.concat_tables(ids)
    tables[""] = joined.filter(pc.is_in(joined["row_key"], wanted))
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


def _merge(item: dict[str, Any], task: AccountTask, plan_ref: list[Any], shared_ref: list[Any]) -> dict[str, Any]:
    """One bucket: responses/part-NNNNN.parquet, and its sums as JSON."""
    store = Store(task.output)
    plan: Assignments = ray.get(plan_ref[0])
    shared: dict[str, pa.Table] = ray.get(shared_ref[0])
    scored = store.read_table(item["name"])
    at = np.asarray(ray.get(item["at"]))
    # A part and its slice of the plan are both in input order.
    assert (plan.row_key[at] == scored["row_key"].to_numpy()).all(), f"plan and {item['name']} do not match"
    journal = Journal(store)
    answers = []
    for name in task.names:
        table = journal.read(name, int(item["bucket"]))
        own = _Answers(table)
        if name in shared:
            foreign = shared[name].filter(pc.invert(pc.is_in(shared[name]["row_key"], table["row_key"])))
            table = pa.concat_tables([table, foreign])
        answers.append((own, _Answers(table)))
    builder = _Builder(task, scored, plan, at, [merged for _, merged in answers], shared)
    table = builder.table()
    store.write_table(f"responses/part-{int(item['number']):05d}.parquet", table)
    return {"number": item["number"], "sums": json.dumps(builder.sums(table, [own for own, _ in answers]))}


class _Builder:
    """Puts the answers of one bucket to its rows. Legend: k rows, m models."""

    def __init__(
        self, task: AccountTask, scored: pa.Table, plan: Assignments, at: NDArray[np.int64], answers: list[_Answers],
        shared: dict[str, pa.Table],
    ) -> None:  # fmt: skip
        self.task, self.scored, self.answers = task, scored, answers
        self.key, self.leader = plan.row_key[at], plan.leader[at]
        self.model, self.sample, self.cost_planned = plan.model[at], plan.sample[at], plan.cost_usd[at]
        self.score, self.reason, self.plan_error = plan.router_score[at], plan.reason[at], plan.error[at]
        self.shared_ids = shared.get("")
        self.is_leader = self.key == self.leader
        self.rows = len(scored)
        # found[j]: each row's place in model j's table; kind[j]: what became of it there.
        self.found = [a.find(self.leader) for a in answers]
        self.kind = [self._take(j, "kind", "") for j in range(len(answers))]
        self.matcher = make_matcher(task.gold_match, allow_code=task.allow_code) if task.gold_match else None

    def _take(self, j: int, column: str, default: Any) -> NDArray[Any]:
        """(k,) values of model j's column, `default` where it has no row."""
        values = np.array([*self.answers[j].table[column].to_pylist(), default], object)
        return np.asarray(values[np.where(self.model >= 0, self.found[j], -1)])

    def given(self) -> NDArray[np.int8]:
        """Whose answer each row gets: the best one that is paid for, -1 where there is none."""
        given = np.full(self.rows, -1, np.int8)
        for j, kind in enumerate(self.kind):
            given[kind == "answered"] = j
        return given

    def _pick(self, column: str, source: NDArray[np.int8], default: Any) -> list[Any]:
        """Per row the column of the model in `source`."""
        out = np.full(self.rows, default, object)
        for j in range(len(self.answers)):
            mask = source == j
            if mask.any():
                out[mask] = self._take(j, column, default)[mask]
        return out.tolist()

    def quality_of(self, texts: list[Any]) -> list[float | None]:
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
        texts = self._pick("generated_text", given, None)
        copied = ~self.is_leader & (given >= 0)
        quality = self.quality_of(texts)
        numbers = {
            name: [
                None if value is None else 0 if copy else value
                for value, copy in zip(self._pick(name, given, None), copied, strict=True)
            ]
            for name in ("prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens", "attempts")
        }
        money = {name: self._dollars(name) for name in ("cost_usd", "lost_usd")}
        columns = {
            "id": self.scored["id"],
            "model": pa.array(names[given], pa.string()),
            "route": pa.array(names[self.model], pa.string()),
            "route_reason": pa.array(self._reasons(given), pa.string()),
            "router_score": pa.array(self.score, pa.float32(), from_pandas=True),
            "generated_text": pa.array(texts, pa.string()),
            "finish_reason": pa.array(self._pick("finish_reason", given, ""), pa.string()),
            **{name: pa.array(numbers[name], pa.int32()) for name in numbers if name != "attempts"},
            "token_source": pa.array(self._pick("token_source", given, ""), pa.string()),
            **{name: pa.array(money[name], pa.float64()) for name in money},
            "latency_s": pa.array(self._pick("latency_s", given, None), pa.float32()),
            "attempts": pa.array([value or 0 for value in numbers["attempts"]], pa.int32()),
            "copied_from": self._copied_from(copied),
            "error": pa.array(self._errors(given), pa.string()),
            "parsed": pa.array([parsed_column(t, task.schema) if t and task.schema else None for t in texts], pa.string()),
            "quality": pa.array(quality, pa.float64()),
            "quality_source": pa.array(["gold" if q is not None else "" for q in quality], pa.string()),
        }  # fmt: skip
        keep = self.scored["keep"].combine_chunks()
        columns |= {name: keep.field(f"k{i}") for i, name in enumerate(task.keep)}
        return pa.table(columns)

    def _dollars(self, name: str) -> NDArray[np.float64]:
        """All that was settled for the row, by whichever model; copies cost nothing."""
        total = np.zeros(self.rows)
        for j in range(len(self.answers)):
            total += self._take(j, name, 0.0).astype(float)
        return np.where(self.is_leader, total, 0.0)

    def _copied_from(self, copied: NDArray[np.bool_]) -> pa.Array:
        """Id of the row that was asked, null for rows that were asked themselves."""
        ids = dict(zip(self.key.tolist(), self.scored["id"].to_pylist(), strict=True))
        if self.shared_ids is not None:
            ids |= dict(zip(self.shared_ids["row_key"].to_pylist(), self.shared_ids["id"].to_pylist(), strict=True))
        values = [ids[leader] if copy else None for leader, copy in zip(self.leader.tolist(), copied, strict=True)]
        return pa.array(values, self.scored["id"].type)

    def _reasons(self, given: NDArray[np.int8]) -> list[str]:
        """Why this model: the plan's reason, unless another model's answer had to do or was there already."""
        out = self.reason.copy()
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
        routed = self._pick("error", self.model, "")
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
                errors.append(routed[row] or next((k for k in self._all_errors(row) if k), "rejected"))
        return errors

    def _all_errors(self, row: int) -> list[str]:
        return [str(self._take(j, "error", "")[row]) for j in range(len(self.answers))]

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
        routed = [
            self.quality_of(self._pick("generated_text", np.full(self.rows, j, np.int8), None))
            for j in range(len(names))
        ]
        policy = [
            routed[m][row] if m >= 0 and routed[m][row] is not None else q
            for row, (m, q) in enumerate(zip(self.model.tolist(), table["quality"].to_pylist(), strict=True))
        ]
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
            "quality": Counter(str(q) for q in policy if q is not None),
            "paired": [
                [p, *[r[row] for r in routed], float(self.model[row] == len(names) - 1)] for row, p in enumerate(policy)
                if self.sample[row] and p is not None and all(r[row] is not None for r in routed)
            ],
            "histogram": {
                n: np.bincount(bins[scored & (self.model == j)], minlength=HISTOGRAM_BINS).tolist() for j, n in enumerate(names)
            },
            "errors_by_kind": dict(sorted(kinds.items(), key=lambda kv: -kv[1]["rows"])[:20]),
            "slowest": [{"id": ids[i], "model": names[given[i]], "latency_s": float(latency[i])} for i in slow if given[i] >= 0],
            "categories": self._categories(table, policy),
        }  # fmt: skip

    def _journal_sums(self, j: int, own: _Answers) -> dict[str, Any]:
        """Money, tokens and calls of one model in this bucket, and what it was not asked."""
        table = own.table
        purpose = np.array(table["purpose"].to_pylist(), object)
        cost = table["cost_usd"].to_numpy()
        answered = np.array([kind == "answered" for kind in table["kind"].to_pylist()], bool)
        n_bytes = self.scored["prompt_bytes"].to_numpy()
        mine = self.is_leader & (self.model >= 0)
        asked = mine & (self.kind[j] == "answered")
        unasked = mine & ~(self.kind[j] == "answered")

        def total(name: str) -> float:
            return float(pc.sum(table[name]).as_py() or 0)

        return {
            "cost_usd": total("cost_usd"), "lost_usd": total("lost_usd"), "prompt_tokens": int(total("prompt_tokens")),
            "completion_tokens": int(total("completion_tokens")), "requests": int(total("attempts")),
            "answers": int(answered.sum()), "gpu_s": total("gpu_s"),
            "by_purpose": {p: float(cost[purpose == p].sum()) for p in set(purpose.tolist())},
            "asked_bytes": int(n_bytes[asked].sum()), "unasked_bytes": int(n_bytes[unasked].sum()), "unasked": int(unasked.sum()),
        }  # fmt: skip

    def _categories(self, table: pa.Table, policy: list[float | None]) -> dict[str, list[float]]:
        """Category → rows, rows on the strong model, rows with a quality, sum of quality."""
        if self.task.category is None:
            return {}
        out: dict[str, list[float]] = {}
        for name, model, quality in zip(
            table[self.task.category].to_pylist(), self.model.tolist(), policy, strict=True
        ):
            entry = out.setdefault(str(name), [0, 0, 0, 0.0])
            entry[0] += 1
            entry[1] += model == len(self.task.names) - 1
            if quality is not None:
                entry[2] += 1
                entry[3] += quality
        return dict(sorted(out.items(), key=lambda kv: -kv[1][0])[:CATEGORIES])
