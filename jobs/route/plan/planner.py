"""A run's plans: the first one, and those made again as the money is spent.

`Planner.plan` gives the newest plan of this very policy, or makes it. `Planner.recut` makes it again while the run spends: what is
answered stays, and the dollars left are cut over all other rows, at the token counts that the answers so far had. Both write
plan/NNNN/; a plan cut again keeps the planned dollars that the user saw before the run. It also reads what a cut needs of the
run: rows and predictions, the sample, what is paid. Cost: one pass over scored/ a process, and a sort a cut.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs.errors import SpecError
from jobs.journal.reader import Journal
from jobs.journal.rows import RANKS
from jobs.lanes.chat import build_request
from jobs.money.spent import judge_spent, samples_spent, stranded
from jobs.route.plan.bill import Recut, is_tight
from jobs.route.plan.context_limits import find_too_long, going_up, maybe_too_long, token_counter
from jobs.route.plan.costing import running_hours
from jobs.route.plan.cut import decide, policy_of
from jobs.route.plan.entries import CascadeEntry, PilotEntry
from jobs.route.plan.estimate import Estimate, estimate_all
from jobs.route.plan.groups import Groups, group_rows, why_not_once
from jobs.route.plan.plan import Paid, Plan, Sample, WeakFirst, latest_plan, load_plan, plan_fingerprint, write_plan
from jobs.route.plan.rows import Rows, read_rows
from jobs.route.plan.situation import Situation, Standing
from jobs.route.score.entries import Part
from jobs.route.score.fields.bodies import body_notes
from jobs.route.score.scored import matrix_of
from jobs.route.start import Border, Job
from jobs.spec.fields import Model
from jobs.spec.job import cap_usd, has_pilot
from jobs.storage.keys import is_among, positions
from jobs.storage.manifest import Run, fingerprint


class Planner:
    """Plans of one run. Reads scored/ when the first cut needs it, and keeps the planning columns."""

    def __init__(self, job: Job, border: Border, run: Run, parts: Sequence[Part]) -> None:
        self.job, self.border, self.run = job, border, run
        self.parts = parts
        self.names = [part.name for part in parts]
        self._rows: Rows | None = None

    @cached_property
    def pilot_entry(self) -> str:
        """Name of the pilot's manifest entry: another sample, or another way to tell quality, is another pilot."""
        spec = self.job.spec
        marks: list[Any] = [spec.sample, spec.quality.gold, spec.policy.promises, spec.policy.guarantee]
        if spec.quality.judge:
            marks.append(spec.quality.judge)
        return "pilot-" + fingerprint([mark.model_dump() if isinstance(mark, Model) else mark for mark in marks])[:12]

    @property
    def pilot_folder(self) -> str:
        return f"pilot/{self.pilot_entry}"

    @cached_property
    def cascade_entry(self) -> str:
        """Name of the cascade's manifest entry: where the cut lies, and so which rows are looked at twice, is the policy's."""
        marks = [plan_fingerprint(self.run, self.job.spec), self.pilot_entry, self.job.spec.cascade]
        return "cascade-" + fingerprint([mark.model_dump() if isinstance(mark, Model) else mark for mark in marks])[:12]

    @property
    def cascade_folder(self) -> str:
        return f"cascade/{self.cascade_entry}"

    def pilot(self) -> PilotEntry | None:
        """The pilot's manifest entry, None before it is through."""
        return self.run.entry(self.pilot_entry, PilotEntry)

    def cascade(self) -> CascadeEntry | None:
        """The cascade's manifest entry, None before it is through and for a job without one."""
        if self.job.spec.cascade is None or self.job.limit is not None:
            return None
        return self.run.entry(self.cascade_entry, CascadeEntry)

    def weak_first(self, estimates: Mapping[str, Estimate]) -> WeakFirst | None:
        """The rows that the weak model answers before the cut, as far as it is known which; None without a cascade."""
        spec = self.job.spec
        if spec.cascade is None or self.job.limit is not None:
            return None
        entry, n = self.cascade(), len(self.rows.row_key)
        if entry is None:  # all of them, for what is known
            estimate = estimates[spec.names[0]]
            row_usd = float(estimate.cost_usd(self.rows.prompt_bytes).mean()) if n else 0.0
            share = spec.cascade.band if "agreement" in spec.cascade.signals else 0.0
            return WeakFirst(np.ones(n, bool), share * n * spec.cascade.samples * row_usd)
        if not entry.used:
            return None
        straight = self.run.store.read_table(f"{self.cascade_folder}/straight.parquet")["row_key"].to_numpy()
        return WeakFirst(~is_among(self.rows.row_key, straight), 0.0)

    def beside_usd(self) -> float:
        """What the judge and the cascade's further answers have cost so far, of whichever job file."""
        spent = (judge_spent(self.run.store, self.job.spec), samples_spent(self.run.store, self.job.spec))
        return sum(each.cost_usd + each.lost_usd for each in spent)

    def situation(
        self, estimates: Mapping[str, Estimate], paid: Paid | None = None, judged_usd: float | None = None
    ) -> Situation:
        """What a cut is made from now. paid, judged_usd: as in `Situation`."""
        return Situation(
            spec=self.job.spec, rows=self.rows, estimates=estimates, too_long=self.too_long, paid=paid,
            maybe_too_long=maybe_too_long(self.job, self.rows),
            sample=self.sample(), judged_usd=judged_usd, weak_first=self.weak_first(estimates),
        )  # fmt: skip

    def draft(self) -> Plan:
        """A plan that is not written: what the pilot asks. Draws the sample, once and for all."""
        assignments, bill = decide(self.situation(self.estimates()))
        name = f"{self.pilot_folder}/sample.parquet"
        if has_pilot(self.job.spec) and not self.run.store.exists(name):
            drawn = assignments.fold >= 0
            self.run.store.write_table(
                name, pa.table({"row_key": assignments.row_key[drawn], "fold": assignments.fold[drawn]})
            )
        return Plan(0, assignments, bill)

    def sample(self) -> Sample | None:
        """The sample that was drawn, with what is measured of it; None before."""
        store, folder = self.run.store, self.pilot_folder
        if not has_pilot(self.job.spec) or not store.exists(f"{folder}/sample.parquet"):
            return None
        table = store.read_table(f"{folder}/sample.parquet")
        quality, rank_by = None, None
        entry = self.pilot()
        if entry is not None:
            chosen = (entry.rank_by or {}).get(policy_of(self.job.spec).kind)
            rank_by = chosen.rank_by if chosen else None
            found = store.read_table(f"{folder}/quality.parquet")
            quality = np.stack([found[name].to_numpy() for name in self.job.spec.names], axis=1)
        return Sample(table["row_key"].to_numpy(), table["fold"].to_numpy(), quality, rank_by)

    @cached_property
    def groups(self) -> Groups:
        """Which rows are one request."""
        return group_rows(self.job.spec, self.rows, self.too_long)

    def leaders_of(self, keys: NDArray[np.int64]) -> NDArray[np.int64]:
        """Row key of the row that is asked for each of these."""
        return self.rows.row_key[self.groups.leader[self.places(keys)]]

    def places(self, keys: NDArray[np.int64]) -> NDArray[np.intp]:
        """Index in `rows` of each of these row keys. Raises KeyError for one that is not there."""
        return positions(self.rows.row_key, keys, self._by_key)

    def forget(self) -> None:
        """The pilot or the cascade is through: predictions are read anew."""
        self._rows = None

    def plan(self) -> Plan:
        """The newest plan if it is the plan of this very policy, else a new one. Raises SpecError."""
        pilot, cascade = self.pilot(), self.cascade()
        marks: list[Any] = [plan_fingerprint(self.run, self.job.spec), pilot and pilot.to_json()]
        if self.job.spec.cascade is not None and self.job.limit is None:
            marks.append(cascade.to_json() if cascade else self.job.spec.cascade.model_dump())
        mark = fingerprint(marks)
        number, bill = latest_plan(self.run.store)
        if bill is not None and bill.fingerprint == mark:
            return load_plan(self.run.store, number)
        spec, estimates = self.job.spec, self.estimates()
        # A budget counts what is spent already; the other policies say what they want as if nothing were paid.
        paid = self.paid() if spec.policy.budget_usd is not None else None
        beside_usd = None if spec.quality.judge and pilot is None else self.beside_usd()
        assignments, bill = decide(self.situation(estimates, paid, beside_usd))
        bill = replace(
            bill, pilot=pilot, cascade=cascade, fingerprint=mark, checks=dict(self.job.checks),
            notes=tuple(note for note in (*bill.notes, why_not_once(spec), *self.job.border_notes, *self._body_notes()) if note),
            job=spec.content(), request=self._rendered_request(),
            hours=running_hours(spec, bill, {name: estimates[name].latency_s for name in spec.names}, self.job.turns),
            places=tuple(self.job.places),
        )  # fmt: skip
        return write_plan(self.run.store, number + 1, assignments, bill)

    def _body_notes(self) -> list[str]:
        return body_notes(part.noted for part in self.parts)

    def standing(self) -> Standing:
        """What the journal says now."""
        return Standing(self.paid(), self.estimates())

    def recut(self, plan: Plan, standing: Standing) -> Plan | None:
        """The same policy, cut again over what is not paid yet. None where the dollars left pay for no plan at all."""
        beside_usd = self.beside_usd()
        try:
            assignments, bill = decide(self.situation(standing.estimates, standing.paid, beside_usd))
        except SpecError:
            return None
        history = Recut(
            after_usd=standing.paid.usd + beside_usd,
            expected_usd=bill.planned_usd,
            upper_usd=bill.range_usd[1],
            strong_share=bill.strong_share,
        )
        seen = plan.bill
        bill = replace(
            bill, recuts=(*seen.recuts, history),
            # What the user saw before the run stays.
            planned_usd=seen.planned_usd, range_usd=seen.range_usd, bound_usd=seen.bound_usd, curve=seen.curve,
            request=seen.request, hours=seen.hours, places=seen.places, assumptions=seen.assumptions, notes=seen.notes,
            # It is the same plan, cut again.
            fingerprint=seen.fingerprint, job=seen.job, checks=seen.checks, pilot=seen.pilot, cascade=seen.cascade,
        )  # fmt: skip
        return write_plan(self.run.store, plan.number + 1, assignments, bill)

    @property
    def rows(self) -> Rows:
        """The planning columns of all rows, with the predictions of the cascade or the pilot where there are some."""
        if self._rows is None:
            self._rows = self._read_rows()
        return self._rows

    def _read_rows(self) -> Rows:
        rows = read_rows(self.run.store, self.parts)
        entry = self.pilot() if has_pilot(self.job.spec) else None
        if entry is not None and entry.head != "none":
            rows = replace(rows, predicted=self.predictions(self.pilot_folder, rows.row_key), raw=rows.predicted)
        cascade = self.cascade()
        if cascade is not None and cascade.used:
            raw = rows.predicted if rows.raw is None else rows.raw
            rows = replace(rows, predicted=self.predictions(self.cascade_folder, rows.row_key), raw=raw)
        return rows

    def predictions(self, folder: str, row_key: NDArray[np.int64]) -> NDArray[np.float32]:
        """(n, m) what a fitted head wrote under `folder` for these rows."""
        store = self.run.store
        files = [f"{folder}/predicted/{name.rsplit('/', 1)[-1]}" for name in self.names]
        table = pa.concat_tables([store.read_table(name) for name in files])
        return matrix_of(table["predicted"])[positions(table["row_key"].to_numpy(), row_key)]

    @cached_property
    def _by_key(self) -> NDArray[np.int64]:
        return np.argsort(self.rows.row_key)

    def estimates(self) -> dict[str, Estimate]:
        """What a call of each model costs, by what this run has measured so far."""

        def measured_bytes(keys: NDArray[np.int64]) -> NDArray[np.int64]:
            return self.rows.prompt_bytes[self.places(keys)]

        return estimate_all(
            self.job.spec, self.run.store, self.names, self.border.router_card, self.border.router_columns,
            count_tokens=lambda name: token_counter(self.job.spec, name), measured_bytes=measured_bytes,
        )  # fmt: skip

    def weak_usd(self, plan: Plan, standing: Standing | None = None) -> float:
        """What the dear models must leave of the cap. 0 without a cap.

        That is what the judge has had, and for the weak model what is paid already and the upper end for rows without an answer.
        `standing`: what the journal said a moment ago; None reads it.
        """
        spec = self.job.spec
        weak = spec.names[0]
        if cap_usd(spec) is None:
            return 0.0
        if not is_tight(spec, plan.bill):
            part = plan.bill.by_model[weak]
            factor = part.usd_high / part.usd if part.usd else 1.1
            return float(plan.bill.all_weak_usd * factor) + self.beside_usd()
        standing = standing or self.standing()
        paid, estimate = standing.paid, standing.estimates[weak]
        lead = (plan.assignments.row_key == plan.assignments.leader) & (plan.assignments.model >= 0)
        n_bytes = self.rows.prompt_bytes[lead & ~paid.answered.any(axis=1)]
        if estimate.measured or spec.models[weak].traits.runs != "here":
            output = min(estimate.max_tokens, estimate.completion_tokens * (1 + estimate.completion_spread))
            rest = estimate.cost_usd(n_bytes, output) * (1.02 if estimate.measured else 1.1)
        else:  # nobody meters it: only the bound is certain
            rest = estimate.bound_usd(n_bytes)
        return float(paid.cost_usd[:, 0].sum() + paid.lost_usd[0] + rest.sum()) + self.beside_usd()

    def paid(self) -> Paid:
        """What the journal says is settled, and every dollar that is gone."""
        store, names, keys = self.run.store, self.job.spec.names, self.rows.row_key
        journal = Journal(store)
        shape = (len(keys), len(names))
        answered, rejected, moves = np.zeros(shape, bool), np.zeros(shape, bool), np.zeros(shape, bool)
        cost = np.zeros(shape)
        lost = np.zeros(len(names))
        stranded_usd = sum(stranded(store, self.job.spec.payees, without=self.job.session).values())
        for j, name in enumerate(names):
            found = journal.settlements(name)
            lost[j] = found.lost_usd.sum()
            at = self.places(found.row_key)
            answered[at, j] = found.rank == RANKS["answered"]
            rejected[at, j] = found.rank == RANKS["rejected"]
            if rejected[at, j].any():  # an answer that says nothing is paid for all the same, and no refusal
                empty = self.places(journal.empty(name))
                answered[empty, j], rejected[empty, j] = True, False
            refused = found.row_key[found.rank == RANKS["rejected"]]
            moves[self.places(going_up(store, self.job.spec, name, refused)), j] = True
            cost[at, j] = found.cost_usd
        return Paid(answered, rejected, cost, lost, stranded_usd, moves)

    @cached_property
    def too_long(self) -> NDArray[np.bool_]:
        """(n, m) True where a prompt and its answer do not fit a model's context."""
        return find_too_long(self.job, self.run.store, self.parts, self.rows, self.places)

    def _rendered_request(self) -> dict[str, Any]:
        """The strong model's request for the first row that can be asked: what `plan` shows."""
        spec = self.job.spec
        name = spec.names[-1]
        table = self.run.store.read_table(self.names[0], columns=["messages", "body", "input_error"])
        good = table.filter(pc.equal(table["input_error"], "")).slice(0, 1).to_pylist()
        if not good:
            return {}
        messages, body = json.loads(good[0]["messages"]), json.loads(good[0]["body"] or "{}")
        return build_request(spec.models[name], name, spec.sampling_of(name), spec.response_format, messages, body)
