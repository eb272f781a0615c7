"""One session of spending: it holds the governor and the lanes, and decides in which order rows are sent.

    1. rows whose model is certain go out together, all lanes side by side
    2. where dollars may run out, the dear models get their best rows first, in bands (jobs/route/answer/bands.py);
       after each band the plan is cut again with what the answers have really cost
    3. rows that waited for the last cut, and rows that have to go to another model, go out together

Neither the governor nor a lane is started before there is a row to ask, or a batch of an earlier start to collect.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from jobs.errors import LaneDown
from jobs.journal.local_log import local_dir
from jobs.journal.reader import Journal
from jobs.journal.recovery import recover_on_all_nodes
from jobs.lanes.openai_batch.manifest import close_settled
from jobs.money.driver import Money
from jobs.money.reservations import unfinished
from jobs.report.progress import Progress
from jobs.route.answer.bands import held_back, next_band
from jobs.route.answer.lane_contexts import check_lanes, lane_context
from jobs.route.answer.live import Live
from jobs.route.answer.waves import Asking, SettledKeys, limited, rows_to_ask, rows_to_move, settled_keys
from jobs.route.plan.bill import is_tight
from jobs.route.plan.context_limits import going_up
from jobs.route.plan.plan import Plan
from jobs.route.plan.planner import Planner
from jobs.route.plan.situation import Standing
from jobs.route.start import Job
from jobs.spec.job import JobSpec
from jobs.storage.keys import is_among
from jobs.storage.manifest import Run

SETTLE_S = 5.0
"""How long the lanes of a wave that is through may take to end."""
Todo = dict[str, NDArray[np.int64]]


class Session:
    """Asks rows and pays for them. Make it with `spending`."""

    def __init__(self, job: Job, run: Run, planner: Planner, progress: Progress) -> None:
        self.job, self.run, self.planner, self.progress = job, run, planner, progress
        self._money: Money | None = None
        self._asking: Asking | None = None

    def stopped(self) -> dict[str, str]:
        """Model → why its lane stopped."""
        return {} if self._money is None else self._money.stopped()

    def notes(self) -> list[str]:
        """What happened to the dollars that the figures alone do not say."""
        return [] if self._money is None else self._money.notes()

    def through(self, stage: str) -> bool:
        """Whether `stage` can go on; False where the job is being stopped. Raises LaneDown where a lane has stopped."""
        if self.job.stopping.is_set():
            return False
        if stopped := self.stopped():
            raise LaneDown(f"the {stage} is not through: {'; '.join(stopped.values())}")
        return True

    def ask(self, plan: Plan, todo: Todo, cap_usd: float | None = None) -> None:
        """One wave by itself. `cap_usd`: what the run may have spent in all when it is through."""
        if not any(len(keys) for keys in todo.values()):
            return
        money, asking = self._open(plan, todo)
        money.next_wave(self.job.spec.names, todo, 0.0, cap_usd)
        asking.wait(asking.start(plan.assignments, todo))
        self._settle()
        money.next_wave(self.job.spec.names, {name: keys[:0] for name, keys in todo.items()}, 0.0)

    def ask_rows(self, payee: str, plan: Plan, requests: pa.Table, cap_usd: float | None = None) -> None:
        """What of these requests (ASK_COLUMNS) JUDGE or SAMPLES has not settled yet; cap_usd as in `ask`."""
        settled = Journal(self.run.store).settled(payee)
        left = requests.filter(pa.array(~is_among(requests["row_key"].to_numpy(), settled)))
        if not len(left) or self.job.stopping.is_set():
            return
        payees = self.job.spec.payees
        money, asking = self._open(plan, {payee: left["row_key"].to_numpy()})
        money.next_wave(payees, {payee: left["row_key"].to_numpy()}, 0.0, cap_usd)
        asking.wait(asking.start_rows(payee, left))
        self._settle()
        money.next_wave(payees, {}, 0.0)

    def spend(self, plan: Plan) -> Plan:
        """Ask every row of the plan. Returns the plan that stands at the end."""
        spec, job = self.job.spec, self.job
        settled = settled_keys(self.run.store, spec.names)
        todo, moved = self.open_rows(plan, settled), self._moved_rows(plan, settled, exhausted=False)
        ahead = {name: np.union1d(keys, moved[name]) for name, keys in todo.items()}
        if not (any(len(keys) for keys in ahead.values()) or unfinished(self.run.store)) or job.stopping.is_set():
            return plan
        money, asking = self._open(plan, ahead)
        money.next_wave(spec.names, todo, self.planner.weak_usd(plan))
        dear = metered(spec) if is_tight(spec, plan.bill) and job.limit is None else ()
        waiting = held_back(plan.assignments, todo, spec.names[0], dear)
        at_once = {name: np.setdiff1d(keys, waiting) for name, keys in todo.items() if name not in dear}
        wave = asking.start(plan.assignments, at_once, batches=asking.with_batches())
        if dear:
            plan = self._upgrade_by_rank(plan, dear)
        asking.wait(wave)
        if dear and not job.stopping.is_set():
            standing = self.planner.standing()
            again = self.planner.recut(plan, standing)
            if again is not None:  # what the weak model did not use up
                plan = self._upgrade_by_rank(again, dear, standing)
        before: Todo = {}
        for _ in spec.names[1:]:  # a row may be refused by one model after the other
            if job.stopping.is_set():
                break
            self._settle()
            last = self._last_rows(plan, dear)
            if all(np.array_equal(keys, before.get(name, keys[:0])) for name, keys in last.items()):
                break  # nothing is left, or nothing came of it
            moves = any(len(last[name]) for name in spec.names[1:])
            most_usd = plan.bill.at_most_usd if moves else None
            money.next_wave(spec.names, last, self.planner.weak_usd(plan), most_usd)
            asking.wait(asking.start(plan.assignments, last))
            before = last
        return plan

    def open_rows(self, plan: Plan, settled: SettledKeys | None = None) -> Todo:
        """Model → sorted keys of the rows it has still to answer. settled: what the journal said a moment ago; None reads it."""
        settled = settled or settled_keys(self.run.store, self.job.spec.names)
        todo = rows_to_ask(plan.assignments, settled, self.job.spec.names)
        return limited(todo, plan.assignments, self.job.limit)

    def close(self) -> None:
        """End the governor. What is granted and not spent goes back."""
        if self._money is not None:
            self._settle()
            self._money.close()

    def _open(self, plan: Plan, todo: Todo) -> tuple[Money, Asking]:
        job, store = self.job, self.run.store
        check_lanes(job, tuple(name for name, keys in todo.items() if len(keys)))
        if self._money is None or self._asking is None:
            money = self._money = Money(job.spec, self.run, job.session)
            contexts = {name: lane_context(job, name, money.governor) for name in money.todo}

            def stop() -> None:
                money.stop("stopped by a signal")

            self._asking = Asking(
                job.spec,
                store,
                self.planner.parts,
                contexts,
                on_progress=Live(money, self.progress, job.placement),
                placement=job.placement,
                on_stop=stop,
                on_lane_down=money.stop_lane,
            )
        self._money.planned_usd = plan.bill.planned_usd
        return self._money, self._asking

    def _upgrade_by_rank(self, plan: Plan, dear: tuple[str, ...], standing: Standing | None = None) -> Plan:
        """Ask the dear models for the best rows first, and cut again after every band, until money or rows are gone.

        standing: what `plan` was just cut by, if it was.
        """
        job = self.job
        while not job.stopping.is_set():
            todo = self.open_rows(plan)
            money, asking = self._open(plan, {name: todo[name] for name in dear})
            spent_usd = sum(Journal(self.run.store).spent(name).cost_usd for name in dear)
            tight = is_tight(job.spec, plan.bill)
            band = next_band(plan.assignments, todo, dear, spent_usd) if tight else {name: todo[name] for name in dear}
            n_asked = sum(len(keys) for keys in band.values())
            if not n_asked or all(name in money.stopped() for name, keys in band.items() if len(keys)):
                break
            money.next_wave(dear, todo, self.planner.weak_usd(plan, standing))
            standing = None  # spent with the band
            asking.wait(asking.start(plan.assignments, band, by_rank=True))
            left = self.open_rows(plan)
            if job.stopping.is_set() or sum(np.isin(band[name], left[name]).sum() for name in dear) == n_asked:
                break  # no row of it could be paid, or answered
            if job.spec.on_budget == "stop" and any(len(left[name]) for name in dear):
                continue  # what was planned stays planned
            standing = self.planner.standing()
            again = self.planner.recut(plan, standing)
            if again is None:
                break
            plan = again
        return plan

    def _last_rows(self, plan: Plan, dear: tuple[str, ...]) -> Todo:
        """Rows that wait for the cut, and those that move to another model."""
        assert self._money is not None
        weak = self.job.spec.names[0]
        settled = settled_keys(self.run.store, self.job.spec.names)
        todo = self._moved_rows(plan, settled, self._money.exhausted())
        if dear:
            todo[weak] = np.union1d(todo[weak], self.open_rows(plan, settled)[weak])
        return todo

    def _moved_rows(self, plan: Plan, settled: SettledKeys, exhausted: bool) -> Todo:
        """Model → sorted keys of rows that another model refused, or, with the dollars gone, could not be paid for there."""
        spec, store = self.job.spec, self.run.store
        upwards = {name: going_up(store, spec, name, settled.rejected[name]) for name in spec.names[:-1]}
        moved = rows_to_move(plan.assignments, settled, spec, exhausted, upwards)
        return limited(moved, plan.assignments, self.job.limit)

    def _settle(self) -> None:
        """Commit what lanes that have ended left behind."""
        recover_on_all_nodes(self.run.store.uri, local_dir(self.run.store.uri), "", SETTLE_S)


@contextmanager
def spending(job: Job, run: Run, planner: Planner, progress: Progress) -> Iterator[Session]:
    """A session that is closed whatever happens."""
    close_settled(run.store)
    session = Session(job, run, planner, progress)
    try:
        yield session
    finally:
        session.close()


def metered(spec: JobSpec) -> tuple[str, ...]:
    """Models above the weak one whose calls go out one by one, each paid as it goes."""
    return tuple(name for name in spec.names[1:] if spec.models[name].traits.runs == "calls")
