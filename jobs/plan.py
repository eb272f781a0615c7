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

from jobs.errors import SpecError
from jobs.estimate import Estimate
from jobs.manifest import Run, fingerprint, read_json
from jobs.score import row_keys
from jobs.scored import scored_rows
from jobs.spec import JobSpec
from jobs.store import Store
from routing.errors import RoutingError
from routing.policy import Policy, require_base_paid
from routing.upgrades import Cut, Steps, build_steps, cut, row_ranks, row_scores

COLUMNS = ["row_key", "row", "bucket", "content_key", "id_key", "prompt_bytes", "input_error", "predicted"]
CURVE_POINTS = 21


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


@dataclass(frozen=True, slots=True)
class Assignments:
    """The plan: which model answers which row. Columns of plan/NNNN/assignments.parquet."""

    row_key: NDArray[np.int64]
    bucket: NDArray[np.int32]
    leader: NDArray[np.int64]
    """Row key of the row that is asked for this one's group."""
    model: NDArray[np.int8]
    """Ladder index, -1 for rows that cannot be asked."""
    sample: NDArray[np.bool_]
    """Answered by every model."""
    router_score: NDArray[np.float32]
    rank: NDArray[np.float64]
    cost_usd: NDArray[np.float64]
    """Expected; 0 for copies."""
    reason: NDArray[np.object_]
    error: NDArray[np.object_]

    def leaders_of(self, model: int) -> NDArray[np.int64]:
        """Sorted row keys to ask `model`: its own leaders, and those of the sample."""
        wanted = (self.model == model) | (self.sample & (self.model >= 0))
        return np.unique(self.leader[wanted])

    @property
    def shadow(self) -> NDArray[np.int64]:
        """Sorted leaders of the sample."""
        return np.unique(self.leader[self.sample & (self.model >= 0)])


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
        return Policy(spec.policy.kind, spec.policy.value, spec.policy.rank_by)  # type: ignore[arg-type]
    except RoutingError as error:
        raise SpecError(str(error)) from None


def decide(
    spec: JobSpec, rows: Rows, estimates: dict[str, Estimate], too_long: NDArray[np.bool_]
) -> tuple[Assignments, dict[str, Any]]:
    """Cut the set. `too_long`: (n, m) True where a prompt does not fit a model. Raises SpecError for an unaffordable policy."""
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
    steps = build_steps(rows.predicted[groups], cost, rows.row_key[groups], weight, ~too_long[groups], policy.order)
    sample, sample_usd = _draw(spec, rows, askable, leader, groups, cost)
    chosen = _cut(spec, policy, steps, sample_usd)

    drawn = np.isin(groups, leader[sample])
    sample_usd = float(
        (cost[drawn].sum(axis=1) - cost[drawn, chosen.model[drawn]]).sum()
    )  # beyond what the cut pays anyway

    model = np.full(n, -1, np.int8)
    model[groups] = chosen.model
    model[askable] = model[leader[askable]]
    scores, ranks, dollars = np.full(n, np.nan, np.float32), np.full(n, -np.inf), np.zeros(n)
    scores[groups], ranks[groups] = row_scores(steps), row_ranks(steps)
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
        sample,
        scores[leader],
        ranks[leader],
        dollars,
        reason,
        error,
    )
    return assignments, _figures(spec, rows, estimates, assignments, steps, chosen, cost, groups, sample_usd)


def _cut(spec: JobSpec, policy: Policy, steps: Steps, sample_usd: float) -> Cut:
    """The policy's cut, under max_usd too; what the sample costs comes off the dollars first."""
    try:
        if policy.kind == "budget_usd":
            limits = dataclasses.replace(policy, value=max(policy.value - sample_usd, 1e-12)).limits(steps)
        else:
            limits = policy.limits(steps)
        if spec.max_usd is not None:
            require_base_paid(steps, max(spec.max_usd - sample_usd, 1e-12), "max_usd")
            usd = spec.max_usd - sample_usd
            limits = dataclasses.replace(limits, max_usd=usd if limits.max_usd is None else min(usd, limits.max_usd))
        return cut(steps, limits)
    except RoutingError as error:
        raise SpecError(str(error)) from None


def _draw(
    spec: JobSpec,
    rows: Rows,
    askable: NDArray[np.bool_],
    leader: NDArray[np.int64],
    groups: NDArray[np.int64],
    cost: NDArray[Any],
) -> tuple[NDArray[np.bool_], float]:
    """The rows that every model answers, drawn by a hash of the row key, and their dollars beyond one model's."""
    sample = np.zeros(len(askable), bool)
    if spec.sample is None:
        return sample, 0.0
    at = np.flatnonzero(askable)
    drawn = at[np.argsort(row_keys(rows.row_key[at] ^ np.int64(spec.sample.seed)), kind="stable")[: spec.sample.rows]]
    position = np.empty(len(askable), np.int64)
    position[groups] = np.arange(len(groups))
    first = np.zeros(len(drawn), bool)
    first[np.unique(leader[drawn], return_index=True)[1]] = (
        True  # a group is paid once, however many of its rows are drawn
    )
    extra = np.where(first, cost[position[leader[drawn]]].sum(axis=1) - cost[position[leader[drawn]]].min(axis=1), 0.0)
    if spec.sample.max_usd is not None:
        keep = int(np.searchsorted(np.cumsum(extra), spec.sample.max_usd, side="right"))
        drawn, extra = drawn[:keep], extra[:keep]
    sample[drawn] = True
    return sample, float(extra.sum())


def _figures(
    spec: JobSpec, rows: Rows, estimates: dict[str, Estimate], plan: Assignments, steps: Steps, chosen: Cut,
    cost: NDArray[Any], groups: NDArray[np.int64], sample_usd: float,
) -> dict[str, Any]:  # fmt: skip
    """The bill's numbers."""
    by_model: dict[str, dict[str, float]] = {}
    bounds = 0.0
    for index, name in enumerate(spec.names):
        estimate = estimates[name]
        mine = groups[plan.model[groups] == index]
        n_bytes = rows.prompt_bytes[mine]
        usd = float(estimate.cost_usd(n_bytes).sum())
        low, high = (estimate.completion_tokens * (1 + sign * estimate.completion_spread) for sign in (-1, 1))
        bound = float(estimate.bound_usd(n_bytes).sum())
        bounds += bound
        by_model[name] = {
            "rows": int((plan.model == index).sum()), "requests": len(mine), "usd": usd,
            "usd_low": float(estimate.cost_usd(n_bytes, max(low, 0)).sum()) * 0.9,
            "usd_high": min(bound or np.inf, float(estimate.cost_usd(n_bytes, min(high, estimate.max_tokens)).sum()) * 1.1),
            "usd_bound": bound,
        }  # fmt: skip
    asked = plan.model >= 0
    predicted = rows.predicted[np.flatnonzero(asked), plan.model[asked]]
    last = len(spec.names) - 1
    planned = sum(entry["usd"] for entry in by_model.values()) + sample_usd
    # Where steps are ranked by something else, no one score divides the rows.
    by_score = steps.rank_by == "score" and chosen.n_steps_taken
    cut_score = float(steps.score[chosen.n_steps_taken - 1]) if by_score else None
    return {
        "rows": len(rows.row_key), "input_errors": int((plan.model < 0).sum()),
        "duplicates": int(asked.sum() - len(groups)), "by_model": by_model, "planned_usd": planned,
        "range_usd": [sum(e[end] for e in by_model.values()) + sample_usd for end in ("usd_low", "usd_high")],
        "bound_usd": bounds, "cap_usd": cap_usd(spec), "all_strong_usd": float(np.nansum(cost[:, last])),
        "all_weak_usd": float(np.nansum(cost[:, 0])), "strong_share": chosen.strong_share,
        "predicted_quality": float(predicted.mean()) if len(predicted) else None,
        "weak": spec.names[0], "strong": spec.names[-1], "models": list(spec.names),
        "policy": {"kind": spec.policy.kind, "value": spec.policy.value, "rank_by": steps.rank_by},
        "cut_score": cut_score, "sample": {"rows": int(plan.sample.sum()), "usd": sample_usd},
        "assumptions": [line for name in spec.names for line in estimates[name].sources],
        "prices": {
            name: {**dataclasses.asdict(estimates[name].price), "source": estimates[name].price_source} for name in spec.names
        },
        "curve": _curve(steps),
    }  # fmt: skip


def _curve(steps: Steps) -> list[dict[str, float]]:
    """Predicted cost-quality points from no upgrade to every upgrade, in the order of the cut."""
    dollars = steps.base_cost_usd + np.concatenate([[0.0], np.cumsum(steps.cost_usd)])
    quality = steps.base_quality + np.concatenate([[0.0], np.cumsum(steps.gain.astype(float) * steps.weight)])
    strong = np.where(steps.to_model == steps.n_models - 1, steps.weight, 0)
    share = (steps.base_strong_weight + np.concatenate([[0], np.cumsum(strong)])) / max(1, steps.total_weight)
    at = np.unique(np.linspace(0, len(dollars) - 1, CURVE_POINTS).astype(int))
    return [
        {"share": float(share[i]), "usd": float(dollars[i]), "quality": float(quality[i] / max(1, steps.total_weight))}
        for i in at
    ]


def cap_usd(spec: JobSpec) -> float | None:
    """The most that a run may spend: max_usd and a dollar policy, whichever is less."""
    caps = [c for c in (spec.max_usd, spec.policy.budget_usd) if c is not None]
    return min(caps) if caps else None


def plan_fingerprint(run: Run, spec: JobSpec) -> str:
    """Changes where another plan would come out: the scored rows, the policy, the caps, the prices, the sample."""
    prices = {name: spec.models[name].price and spec.models[name].price.model_dump() for name in spec.names}  # type: ignore[union-attr]
    sample = spec.sample.model_dump() if spec.sample else None
    context = {name: spec.models[name].context for name in spec.names}
    return fingerprint(
        [
            run.identity["fingerprints"],
            spec.policy.model_dump(),
            spec.max_usd,
            prices,
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
