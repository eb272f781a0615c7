"""Stage 2: one cut over all rows, and the bill, before a cent is spent.

    scored/ → columns in memory (some 60 bytes a row) → groups of equal prompts → upgrade steps → the cut → plan/NNNN/

Plans are numbered: another policy, price or cap is the same job planned again, and what is answered stays answered.
Memory and time: O(n log n), one process; 10 M rows take about 1 GB and half a minute.
"""

from __future__ import annotations

import dataclasses
import json
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs.bill import cap_usd, figures
from jobs.errors import SpecError
from jobs.estimate import Estimate, judge_usd
from jobs.manifest import Run, fingerprint, read_json
from jobs.scored import is_among, scored_rows
from jobs.spec import JobSpec
from jobs.store import Store
from routing.errors import RoutingError
from routing.guarantee import agreement_margins, candidate_cuts, promise, quality_margins
from routing.intervals import LEVEL
from routing.pilot import FOLD_NAMES, FoldSizes, affordable, assign_folds, draw, fold_sizes, stopping
from routing.policy import Policy, require_base_paid
from routing.upgrades import Cut, Limits, Steps, build_steps, cut, cut_at, row_ranks, row_scores

COLUMNS = ["row_key", "row", "bucket", "content_key", "id_key", "prompt_bytes", "input_error", "predicted"]


@dataclass(frozen=True, slots=True)
class Rows:
    """What planning needs of every row, in input order. Legend: n rows, m models."""

    row_key: NDArray[np.int64]
    bucket: NDArray[np.int32]
    content_key: NDArray[Any]
    id_key: NDArray[Any]
    prompt_bytes: NDArray[np.int64]
    error: NDArray[np.bool_]
    predicted: NDArray[np.float32]
    """(n, m); NaN where the row has an error."""
    raw: NDArray[np.float32] | None = None
    """(n, m) what the router said before a pilot recalibrated it: orders the ties that calibration makes."""


@dataclass(frozen=True, slots=True)
class Assignments:
    """The plan: which model answers which row. Columns of plan/NNNN/assignments.parquet."""

    row_key: NDArray[np.int64]
    bucket: NDArray[np.int32]
    leader: NDArray[np.int64]
    """Row key of the row that is asked for this one's group."""
    model: NDArray[np.int8]
    """Ladder index, -1 for rows that cannot be asked."""
    fold: NDArray[np.int8]
    """Index into routing.pilot.FOLD_NAMES for rows of the sample, which every model answers; -1 for the others."""
    router_score: NDArray[np.float32]
    rank: NDArray[np.float64]
    cost_usd: NDArray[np.float64]
    """Expected; 0 for copies."""
    reason: NDArray[np.object_]
    error: NDArray[np.object_]

    @property
    def sample(self) -> NDArray[np.bool_]:
        return np.asarray(self.fold >= 0)

    def leaders_of(self, model: int) -> NDArray[np.int64]:
        """Sorted row keys to ask `model`: its own leaders, and those of the sample."""
        wanted = (self.model == model) | (self.sample & (self.model >= 0))
        return np.unique(self.leader[wanted])

    @property
    def shadow(self) -> NDArray[np.int64]:
        """Sorted leaders of the sample."""
        return np.unique(self.leader[self.sample & (self.model >= 0)])


@dataclass(frozen=True, slots=True)
class Sample:
    """The rows that every model answers."""

    row_key: NDArray[np.int64]
    """(k,)."""
    fold: NDArray[np.int8]
    """(k,) index into routing.pilot.FOLD_NAMES."""
    quality: NDArray[np.float64] | None = None
    """(k, m) measured; NaN where it cannot be told. None before the pilot is answered."""


@dataclass(frozen=True, slots=True)
class Paid:
    """What a run has settled and spent before it is cut again. Rows as in `Rows`; a group's answer is its leader's."""

    answered: NDArray[np.bool_]
    """(n, m)."""
    rejected: NDArray[np.bool_]
    """(n, m) Refused for good."""
    cost_usd: NDArray[np.float64]
    """(n, m) dollars of the answers."""
    lost_usd: float
    """Dollars that brought no answer."""

    @property
    def usd(self) -> float:
        return float(self.cost_usd.sum()) + self.lost_usd


@dataclass(frozen=True, slots=True)
class WeakFirst:
    """What a cascade asks of the weak model before the cut."""

    asked: NDArray[np.bool_]
    """(n,) rows that it answers first."""
    samples_usd: float
    """Expected dollars of further answers to compare with, or what they came to."""


@dataclass(frozen=True, slots=True)
class Plan:
    """A written plan."""

    number: int
    assignments: Assignments
    bill: dict[str, Any]


def read_rows(store: Store, parts: list[str]) -> Rows:
    """The planning columns of scored/, through Ray Data, in input order."""
    dataset = scored_rows(store, parts, COLUMNS)
    table = pa.concat_tables(list(dataset.iter_batches(batch_size=None, batch_format="pyarrow"))).combine_chunks()
    table = table.take(pc.sort_indices(table["row"]))
    n = len(table)
    predicted = table["predicted"].combine_chunks()
    width = predicted.type.list_size
    return Rows(
        row_key=table["row_key"].to_numpy(),
        bucket=table["bucket"].to_numpy(),
        content_key=_key_pairs(table["content_key"]),
        id_key=_key_pairs(table["id_key"]),
        prompt_bytes=table["prompt_bytes"].to_numpy().astype(np.int64),
        error=pc.not_equal(table["input_error"], "").to_numpy(),
        predicted=predicted.flatten().to_numpy(zero_copy_only=False).reshape(n, width),
    )


def _key_pairs(column: pa.ChunkedArray) -> NDArray[Any]:
    """(n, 2) int64 of a column of 16-byte keys."""
    array = column.combine_chunks()
    raw = np.frombuffer(array.buffers()[1], np.int64)
    return raw[2 * array.offset : 2 * (array.offset + len(array))].reshape(-1, 2)


def first_of_equal(keys: NDArray[Any], use: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(n,) index of the first row with the same key, of the rows in `use`; rows outside `use` stand for themselves."""
    first = np.arange(len(keys))
    at = np.flatnonzero(use)
    if not len(at):
        return first
    order = at[np.lexsort((at, keys[at, 1], keys[at, 0]))]
    same = np.zeros(len(order), bool)
    same[1:] = (keys[order[1:]] == keys[order[:-1]]).all(axis=1)
    first[order] = order[np.maximum.accumulate(np.where(same, 0, np.arange(len(order))))]
    return first


def policy_of(spec: JobSpec) -> Policy:
    """The job file's policy for the cut. Raises SpecError."""
    try:
        # Before a pilot vouches for it, agreement with the strong model is expected quality like any other.
        kind = "min_quality" if spec.policy.guarantee else spec.policy.kind
        return Policy(kind, spec.policy.value, spec.policy.rank_by)  # type: ignore[arg-type]
    except RoutingError as error:
        raise SpecError(str(error)) from None


def decide(
    spec: JobSpec,
    rows: Rows,
    estimates: dict[str, Estimate],
    too_long: NDArray[np.bool_],
    paid: Paid | None = None,
    sample: Sample | None = None,
    judged_usd: float | None = None,
    weak_first: WeakFirst | None = None,
) -> tuple[Assignments, dict[str, Any]]:
    """Cut the set. `too_long`: (n, m) True where a prompt does not fit a model. Raises SpecError for an unaffordable policy.

    `paid`: rows with an answer keep the best one they have, at no further cost, and the dollars left are cut over the others.
    Rows of the sample are cut as if nothing were paid: what the policy makes of them is what the sample measures.
    `sample`: the one that was drawn before; None draws it where the job has one. `judged_usd`: what the judge has had, once it is
    through; None expects its dollars. `weak_first`: rows that a cascade's weak model answers whatever the cut makes of them: what
    it costs there is gone before the cut, and an upgrade costs the whole of the dearer call.
    """
    n, m = rows.predicted.shape
    duplicate_id = (first_of_equal(rows.id_key, np.ones(n, bool)) != np.arange(n)) & ~rows.error
    no_model = too_long.all(axis=1) & ~rows.error & ~duplicate_id
    askable = ~(rows.error | duplicate_id | no_model)
    leader = first_of_equal(rows.content_key, askable) if spec.deduplicates() else np.arange(n)
    groups = np.flatnonzero(askable & (leader == np.arange(n)))
    if not len(groups):
        raise SpecError("input.path: not one row can be asked; the first errors are shown by `headgate plan`")
    weight = np.bincount(leader[askable], minlength=n)[groups]
    cost = np.stack([estimates[name].cost_usd(rows.prompt_bytes[groups]) for name in spec.names], axis=1)
    policy = policy_of(spec)
    if sample is None and spec.sample is not None:
        verdicts = judge_usd(spec, estimates, rows.prompt_bytes[groups])
        sample = draw_sample(spec, rows, askable, leader, groups, cost, verdicts)
    fold = np.full(n, -1, np.int8)
    if sample is not None:
        by_key = np.argsort(sample.row_key)
        here = is_among(rows.row_key, sample.row_key[by_key]) & askable
        fold[here] = sample.fold[by_key][np.searchsorted(sample.row_key[by_key], rows.row_key[here])]
    drawn = np.isin(groups, leader[fold >= 0])
    sample_usd = float((cost[drawn].sum(axis=1) - cost[drawn].min(axis=1)).sum())
    if judged_usd is None:
        judged_usd = float(judge_usd(spec, estimates, rows.prompt_bytes[groups[drawn]])[: _judged_rows(spec)].sum())
    asked_first = np.zeros(len(groups), bool) if weak_first is None else weak_first.asked[groups] & ~too_long[groups, 0]
    sunk_usd = np.where(asked_first, cost[:, 0], 0.0)
    further_usd = 0.0 if weak_first is None else weak_first.samples_usd
    cut_cost = cost.copy()
    cut_cost[asked_first, 0] = 0.0
    feasible, open_cost, spent_usd = ~too_long[groups], cut_cost, 0.0
    if paid is not None:
        feasible, open_cost = _still_open(paid, groups, drawn, feasible, cut_cost)
        spent_usd = paid.usd - float(paid.cost_usd[groups[drawn]].sum())
        sunk_usd[(paid.answered[groups, 0] | paid.rejected[groups, 0]) & ~drawn] = 0.0
    raw = None if rows.raw is None else rows.raw[groups]
    steps = build_steps(rows.predicted[groups], open_cost, rows.row_key[groups], weight, feasible, policy.order, raw)
    gone_usd = sample_usd + spent_usd + judged_usd + further_usd + float(sunk_usd.sum())
    chosen = _cut(spec, policy, steps, gone_usd)
    promised = None
    if spec.policy.promises and sample is not None and sample.quality is not None:
        chosen, promised = _keep_promise(spec, rows, sample, steps, leader, groups, weight, too_long, chosen)
    # Of the sample's dollars, those beyond what the cut pays anyway.
    sample_usd = float((cost[drawn].sum(axis=1) - cost[drawn, chosen.model[drawn]]).sum())

    model = np.full(n, -1, np.int8)
    model[groups] = chosen.model
    model[askable] = model[leader[askable]]
    scores, ranks, dollars = np.full(n, np.nan, np.float32), np.full(n, -np.inf), np.zeros(n)
    scores[groups], ranks[groups] = row_scores(steps), row_ranks(steps)
    if paid is not None:  # rows without a choice left keep what the router said of them
        whole = build_steps(rows.predicted[groups], cost, rows.row_key[groups], weight, ~too_long[groups], policy.order)
        done = np.isnan(scores[groups])
        scores[groups[done]], ranks[groups[done]] = row_scores(whole)[done], row_ranks(whole)[done]
    dollars[groups] = cost[np.arange(len(groups)), chosen.model]
    reason = np.full(n, "", object)
    reason[askable] = np.where(model[askable] == m - 1, "above the cut", "below the cut")
    if m > 2:
        reason[askable & (model > 0) & (model < m - 1)] = "between the cuts"
    reason[askable & too_long[:, 0]] = f"too long for {spec.names[0]}"
    error = np.full(n, "", object)
    error[duplicate_id] = "duplicate id: an earlier row of the input has it"
    error[no_model] = "prompt too long: it fits no model of the job"
    assignments = Assignments(
        rows.row_key,
        rows.bucket,
        rows.row_key[leader],
        model,
        fold,
        scores[leader],
        ranks[leader],
        dollars,
        reason,
        error,
    )
    cascade_usd = float(cost[asked_first & ~drawn & (chosen.model > 0), 0].sum()) + further_usd
    bill = figures(spec, rows, estimates, assignments, steps, chosen, cost, groups, sample_usd, judged_usd, cascade_usd)
    return assignments, bill | {"promise": promised}


def _still_open(
    paid: Paid, groups: NDArray[np.int64], drawn: NDArray[np.bool_], feasible: NDArray[np.bool_], cost: NDArray[Any]
) -> tuple[NDArray[np.bool_], NDArray[Any]]:
    """(g, m) models that can still be chosen for a group, and what each would cost now.

    A group does not go below its best answer, nor back below a model that refused it.
    """
    answered, rejected = paid.answered[groups], paid.rejected[groups]
    ladder = np.arange(answered.shape[1])
    best = np.where(answered, ladder, -1).max(axis=1)
    refused = np.where(rejected, ladder, -1).max(axis=1)
    able = feasible & ~rejected & (ladder >= best[:, None]) & (ladder > np.where(refused > best, refused, -1)[:, None])
    # Refused by the last that could: its best answer stays, or else the refusal.
    stuck = ~able.any(axis=1)
    able[stuck] = ladder == np.where(best >= 0, best, refused)[stuck, None]
    open_cost = np.where((answered | rejected) & ~drawn[:, None], 0.0, cost)
    return np.where(drawn[:, None], feasible, able), open_cost


def _cut(spec: JobSpec, policy: Policy, steps: Steps, gone_usd: float) -> Cut:
    """The policy's cut, under max_usd too; what the sample costs and what is spent comes off the dollars first."""
    try:
        for field, usd in (("policy.budget_usd", spec.policy.budget_usd), ("max_usd", spec.max_usd)):
            if usd is not None:
                require_base_paid(steps, usd, field, gone_usd)
        cap = cap_usd(spec)
        left = None if cap is None else max(cap - gone_usd, 1e-12)
        limits = Limits(only_gains=True) if policy.kind == "budget_usd" else policy.limits(steps)
        limits = dataclasses.replace(limits, max_usd=left)
        return cut(steps, limits)
    except RoutingError as error:
        raise SpecError(str(error)) from None


def _keep_promise(
    spec: JobSpec,
    rows: Rows,
    sample: Sample,
    steps: Steps,
    leader: NDArray[np.int64],
    groups: NDArray[np.int64],
    weight: NDArray[Any],
    too_long: NDArray[np.bool_],
    predicted: Cut,
) -> tuple[Cut, dict[str, Any] | None]:
    """The cheapest cut that the pilot's select fold vouches for, never dearer than max_usd; what the bill says of it.

    Without a select fold the predicted cut stands, and the bill says nothing.
    """
    assert sample.quality is not None
    by_key = np.argsort(rows.row_key)
    at = by_key[np.searchsorted(rows.row_key, sample.row_key, sorter=by_key)]
    quality = fill_in(sample.quality, too_long[at])
    use = (sample.fold == FOLD_NAMES.index("select")) & np.isfinite(quality).all(axis=1)
    if not use.any():
        return predicted, None
    position = np.full(len(rows.row_key), -1, np.int64)
    position[groups] = np.arange(len(groups))
    cuts = candidate_cuts(steps, position[leader[at[use]]], weight)
    wanted = spec.policy.guarantee
    confidence = wanted.confidence if wanted else LEVEL
    if wanted:  # the pilot's quality is agreement with the strong model then
        margins = agreement_margins(cuts, quality[use] == 1.0, wanted.agreement, confidence)
    else:
        margins = quality_margins(cuts, quality[use], spec.policy.value, confidence)
    found = promise(cuts, margins, int(use.sum()))
    chosen = cut_at(steps, found.n_steps)
    if spec.max_usd is not None and chosen.cost_usd > spec.max_usd:
        chosen = predicted if predicted.cost_usd <= spec.max_usd else chosen
    row_usd = float((cuts.cost_usd[0] + steps.base_cost_usd) / max(1, steps.total_weight))
    more = stopping(int(use.sum()), max(0.0, found.certainty_usd), row_usd, steps.total_weight)
    return chosen, {
        **dataclasses.asdict(found), "certainty_usd": found.certainty_usd,
        "kind": spec.policy.kind, "share": spec.policy.value, "confidence": confidence,
        "rows": int(use.sum()), "kept": chosen.n_steps_taken == found.n_steps,
        "best_rows": more.best_rows, "one_more_row_pays": more.pays,
    }  # fmt: skip


def fill_in(quality: NDArray[np.float64], too_long: NDArray[np.bool_]) -> NDArray[np.float64]:
    """(k, m) where a model cannot answer a row, the quality of the next one up that can: it answers in its place."""
    filled = quality.copy()
    for j in range(quality.shape[1] - 2, -1, -1):
        filled[too_long[:, j], j] = filled[too_long[:, j], j + 1]
    return filled


def draw_sample(
    spec: JobSpec,
    rows: Rows,
    askable: NDArray[np.bool_],
    leader: NDArray[np.int64],
    groups: NDArray[np.int64],
    cost: NDArray[Any],
    verdicts_usd: NDArray[np.float64],
) -> Sample:
    """The rows that every model answers: drawn by a hash of the row key, as many as sample.max_usd pays for.

    Its dollars are those beyond one model's answer; a group is paid once, however many of its rows are drawn. verdicts_usd: (g,)
    what it costs to have a group's answers judged.
    """
    assert spec.sample is not None
    at = np.flatnonzero(askable)
    drawn = at[draw(rows.row_key[at], spec.sample.rows, spec.sample.seed)]
    position = np.empty(len(askable), np.int64)
    position[groups] = np.arange(len(groups))
    first = np.zeros(len(drawn), bool)
    first[np.unique(leader[drawn], return_index=True)[1]] = True
    of_group = cost[position[leader[drawn]]]
    # Before the cut every answer of the sample is paid from sample.max_usd, the one that the row would have had anyway too.
    usd = of_group.sum(axis=1) if has_pilot(spec) else of_group.sum(axis=1) - of_group.min(axis=1)
    usd[: _judged_rows(spec)] += verdicts_usd[position[leader[drawn]]][: _judged_rows(spec)]
    drawn = drawn[: affordable(np.where(first, usd, 0.0), spec.sample.max_usd)]
    keys = rows.row_key[leader[drawn]]
    promised = spec.policy.promises
    sizes = fold_sizes(len(drawn), promised) if has_pilot(spec) else FoldSizes(0, 0, len(drawn))
    return Sample(rows.row_key[drawn], assign_folds(keys, sizes, spec.sample.seed))


def has_pilot(spec: JobSpec) -> bool:
    """The sample is answered before the cut: its quality can be told, so that the cut learns from it."""
    quality = spec.quality
    return spec.sample is not None and any((quality.matcher, quality.judge, spec.policy.guarantee))


def _judged_rows(spec: JobSpec) -> int | None:
    """How many rows of the sample the judge sees at most."""
    return spec.quality.judge.rows if spec.quality.judge else None


def plan_fingerprint(run: Run, spec: JobSpec) -> str:
    """Changes where another plan would come out: the scored rows, the policy, the caps, the prices, the sample."""
    prices = {name: spec.models[name].price and spec.models[name].price.model_dump() for name in spec.names}  # type: ignore[union-attr]
    tiers = {name: spec.models[name].service_tier for name in spec.names}
    sample = spec.sample.model_dump() if spec.sample else None
    context = {name: spec.models[name].context for name in spec.names}
    return fingerprint(
        [
            run.identity["fingerprints"],
            spec.policy.model_dump(),
            spec.max_usd,
            prices,
            tiers,
            sample,
            spec.deduplicates(),
            context,
        ]
    )


def latest_plan(store: Store) -> tuple[int, dict[str, Any] | None]:
    """(number, bill) of the newest finished plan; (0, None) where there is none."""
    numbers = sorted({int(name.split("/")[1]) for name in store.list("plan") if name.endswith("/bill.json")})
    return (numbers[-1], read_json(store, f"plan/{numbers[-1]:04d}/bill.json")) if numbers else (0, None)


def load_plan(store: Store, number: int) -> Plan:
    """Read a finished plan."""
    folder = f"plan/{number:04d}"
    table = store.read_table(f"{folder}/assignments.parquet")
    columns = {}
    for field in dataclasses.fields(Assignments):
        column = table[field.name].combine_chunks()
        columns[field.name] = (
            np.array(column.to_pylist(), object)
            if field.name in ("reason", "error")
            else column.to_numpy(zero_copy_only=False)
        )
    return Plan(number, Assignments(**columns), json.loads(store.read(f"{folder}/bill.json")))


def write_plan(store: Store, number: int, assignments: Assignments, bill: dict[str, Any]) -> Plan:
    """Write a plan, the bill last: a plan without a bill is not there."""
    folder = f"plan/{number:04d}"
    columns = {
        field.name: pa.array(getattr(assignments, field.name)).dictionary_encode()
        if field.name in ("reason", "error")
        else pa.array(getattr(assignments, field.name))
        for field in dataclasses.fields(Assignments)
    }
    store.write_table(f"{folder}/assignments.parquet", pa.table(columns))
    body = json.dumps(bill | {"number": number, "made_at": time.time()}, indent=1, default=str)
    store.create(f"{folder}/bill.json", body.encode())
    return Plan(number, assignments, json.loads(body))


def limited(todo: dict[str, NDArray[np.int64]], plan: Assignments, limit: int | None) -> dict[str, NDArray[np.int64]]:
    """`--limit N`: only the N rows with the smallest keys, a random draw of the set."""
    if limit is None:
        return todo
    inside = np.sort(plan.leader[np.argsort(plan.row_key)[:limit]])
    return {name: keys[np.isin(keys, inside)] for name, keys in todo.items()}
