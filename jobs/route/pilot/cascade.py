"""The cascade: the weak model answers first, and the cut is made with what its answers show.

    a head fitted on the pilot (routing/answers/head.py) → the weak model answers every row, but those that surely go up
    → quality predicted again, part by part → further answers for rows near the cut → predicted again there → the plan

What the weak answers cost is gone before the cut, for all rows alike, so an upgrade is weighed against the whole price of the
dearer call. Rows above the band go straight up, unasked, where the pilot says that a weak answer brings too few of them back to
pay for itself; they keep what the prompt alone said, and may still come down. Copies of a row follow the row that was asked.
Everything that is asked is in the journal, so a cascade that is cut short goes on where it stopped; which rows are left out and
which are looked at twice is written before it is acted upon. Cost: a weak call a row, some 2 ms a row for the features.
Legend: n rows, k pilot rows, m models.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs.journal.reader import Journal
from jobs.route.answer.session import Session
from jobs.route.answer.waves import settled_keys
from jobs.route.pilot.further_answers import read_agreement, sample_requests
from jobs.route.pilot.repredict import repredict
from jobs.route.plan.cut import decide
from jobs.route.plan.entries import CascadeEntry
from jobs.route.plan.plan import Plan, Sample
from jobs.route.plan.planner import Planner
from jobs.route.score.scored import matrix_of, read_scored
from jobs.route.start import Job
from jobs.spec.sections import SAMPLES
from jobs.storage.keys import is_among
from jobs.storage.manifest import Run
from jobs.storage.store import Store
from routing.answers.head import MIN_ROWS, AnswerHead, Evidence
from routing.errors import RoutingError
from routing.pilot.folds import FOLD_NAMES
from routing.text import Frame, router_text

MIN_ABOVE = 30
"""Pilot rows above the band that it takes to leave such rows unasked."""
WEAK_COLUMNS = ["row_key", "kind", "generated_text", "finish_reason", "mean_logprob", "min_logprob"]


def cascade_stage(job: Job, run: Run, planner: Planner, session: Session) -> None:
    """Ask the weak model, and predict again; nothing where the job has no cascade, or it is done. Raises LaneDown."""
    spec = job.spec
    if spec.cascade is None or job.limit is not None or job.stopping.is_set() or planner.cascade() is not None:
        return
    session.progress.enter("cascade")
    draft, sample = planner.draft(), planner.sample()
    assert sample is not None and sample.quality is not None
    draws = spec.cascade.samples if "agreement" in spec.cascade.signals else 0
    without = spec.models[spec.names[0]].sampling.removed
    fit = (sample.fold == FOLD_NAMES.index("fit")) & np.isfinite(sample.quality).all(axis=1)
    taught = Sample(sample.row_key[fit], sample.fold[fit], sample.quality[fit])
    leaders = np.unique(planner.leaders_of(taught.row_key)) if len(taught.row_key) else taught.row_key
    if draws and len(leaders):
        session.ask_rows(SAMPLES, draft, sample_requests(run.store, planner.parts, leaders, draws, without))
        if not session.through("cascade"):
            return
    try:
        heads = fit_heads(job, run, planner, taught, draws)
    except RoutingError as error:
        run.finish(planner.cascade_entry, CascadeEntry(used=False, why=str(error)))
        planner.forget()
        return
    straight = _kept(
        run.store, f"{planner.cascade_folder}/straight.parquet", straight_up(planner, draft, heads, taught)
    )
    session.ask(draft, {spec.names[0]: weak_rows(run.store, planner, draft, straight)})
    if not session.through("cascade"):
        return
    folder, pilot = planner.cascade_folder, planner.pilot()
    first = CascadeHead(
        heads.plain, spec.names[0], planner.border.score.frame, pilot.predictions if pilot else "", straight,
        refused_go_up=job.spec.on_refused == "strong",
    )  # fmt: skip
    repredict(run.store, planner.parts, first, f"{folder}/first/predicted" if draws else f"{folder}/predicted")
    band = np.empty(0, np.int64)
    if draws:
        band = _kept(run.store, f"{planner.cascade_folder}/band.parquet", near_cut(job, planner, straight))
        session.ask_rows(SAMPLES, draft, sample_requests(run.store, planner.parts, band, draws, without))
        if not session.through("cascade"):
            return
        second = replace(first, head=heads.full, before=f"{folder}/first/predicted", band=band, draws=draws)
        repredict(run.store, planner.parts, second, f"{folder}/predicted")
    entry = CascadeEntry(
        used=True, fit_rows=int(fit.sum()), signals=spec.cascade.signals, straight_rows=len(straight),
        band_rows=len(band), samples=draws, error=heads.error,
    )  # fmt: skip
    run.finish(planner.cascade_entry, entry)
    planner.forget()


def _kept(store: Store, name: str, keys: NDArray[np.int64]) -> NDArray[np.int64]:
    """The keys of an earlier start, or these, written for the next one. Sorted."""
    if not store.exists(name):
        store.write_table(name, pa.table({"row_key": np.sort(keys)}))
    return np.asarray(store.read_table(name)["row_key"].to_numpy())


@dataclass(frozen=True, slots=True)
class Heads:
    """What the pilot taught."""

    plain: AnswerHead
    """For rows without further answers."""
    full: AnswerHead
    """For rows with them; the same as `plain` where none are drawn."""
    error: dict[str, float]
    """Mean squared error of the weak model's predicted quality on the pilot: of its mean, before its answer and after it."""


def fit_heads(job: Job, run: Run, planner: Planner, taught: Sample, draws: int) -> Heads:
    """The heads, fitted on the pilot rows `taught`. Raises RoutingError where they teach nothing."""
    assert taught.quality is not None
    if len(taught.row_key) < MIN_ROWS:
        raise RoutingError(f"the pilot has {len(taught.row_key)} rows to fit on; a cascade takes {MIN_ROWS}")
    evidence, before = pilot_evidence(run.store, planner, taught, draws)
    plain = AnswerHead().fit(replace(evidence, agreement=None), taught.quality)
    full = AnswerHead().fit(evidence, taught.quality) if draws else plain
    weak = taught.quality[:, 0]
    error = {
        "mean": float(weak.var()),
        "before": float(np.mean(np.square(before[:, 0] - weak))),
        "after": float(np.mean(np.square(full.loo_[:, 0] - weak))),
    }
    return Heads(plain, full, error)


def pilot_evidence(store: Store, planner: Planner, taught: Sample, draws: int) -> tuple[Evidence, NDArray[np.float32]]:
    """What the weak model showed on the pilot's rows, and what was predicted of them before."""
    leaders, rows = planner.leaders_of(taught.row_key), planner.rows
    at = planner.places(leaders)
    table = read_scored(store, planner.parts, ["row_key", "messages"], np.unique(leaders))
    texts = dict(zip(table["row_key"].to_pylist(), table["messages"].to_pylist(), strict=True))
    weak = _weak_answers(store, planner.job.spec.names[0], np.unique(leaders))
    evidence = _evidence(
        planner.border.score.frame, [texts[key] for key in leaders.tolist()], weak, leaders,
        (rows.predicted if rows.raw is None else rows.raw)[at],
    )  # fmt: skip
    if draws:
        evidence = replace(evidence, agreement=read_agreement(store, leaders, evidence.responses, draws))
    return evidence, rows.predicted[at]


def straight_up(planner: Planner, draft: Plan, heads: Heads, taught: Sample) -> NDArray[np.int64]:
    """Row keys of leaders that go up unasked: above the band, where a weak answer would not pay for itself.

    Of the pilot's rows above the band it takes the share that their answers bring back below the cut: the dollars that
    saves at the dearer models, against those of asking.
    """
    assert planner.job.spec.cascade is not None
    plan = draft.assignments
    leads, place, share = _places(draft)
    above = leads[place < share - planner.job.spec.cascade.band / 2]
    seen = is_among(planner.leaders_of(taught.row_key), np.sort(plan.row_key[above]))
    nobody = np.empty(0, np.int64)
    if seen.sum() < MIN_ABOVE:
        return nobody
    gain = heads.plain.loo_[:, 1:].max(axis=1) - heads.plain.loo_[:, 0]
    back = float((gain[seen] < np.quantile(gain, 1 - share)).mean())
    weak = planner.estimates()[planner.job.spec.names[0]].cost_usd(planner.rows.prompt_bytes[above])
    pays = back * float(plan.cost_usd[above].sum()) > float(weak.sum())
    return nobody if pays else plan.row_key[above]


def near_cut(job: Job, planner: Planner, straight: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sorted row keys of leaders with a weak answer whose rank, by the first prediction, is within the band of the cut."""
    assert job.spec.cascade is not None
    first = planner.predictions(f"{planner.cascade_folder}/first", planner.rows.row_key)
    rows = replace(planner.rows, predicted=first)
    situation = planner.situation(planner.estimates(), judged_usd=planner.beside_usd())
    leads, place, share = _places(Plan(0, *decide(replace(situation, rows=rows))))
    near = rows.row_key[leads[np.abs(place - share) <= job.spec.cascade.band / 2]]
    answered = settled_keys(planner.run.store, job.spec.names[:1]).answered[job.spec.names[0]]
    return np.setdiff1d(np.intersect1d(near, answered), straight)


def _places(plan: Plan) -> tuple[NDArray[np.int64], NDArray[np.float64], float]:
    """Indices of the leaders, each one's place in the order of the cut (0 goes up first, 1 last), and the share above it."""
    rows = plan.assignments
    leads = np.flatnonzero((rows.row_key == rows.leader) & (rows.model >= 0))
    place = np.empty(len(leads))
    place[np.argsort(-rows.rank[leads], kind="stable")] = (np.arange(len(leads)) + 0.5) / max(1, len(leads))
    return leads, place, float((rows.model[leads] > 0).mean()) if len(leads) else 0.0


def weak_rows(store: Store, planner: Planner, draft: Plan, straight: NDArray[np.int64]) -> NDArray[np.int64]:
    """Sorted leaders that the weak model has still to answer: all that fit it, but `straight` and those a dearer one answered."""
    plan, names = draft.assignments, planner.job.spec.names
    leads = (plan.row_key == plan.leader) & (plan.model >= 0) & ~planner.too_long[:, 0]
    settled = settled_keys(store, names)
    done = [settled.answered[names[0]], settled.rejected[names[0]], straight]
    done += [np.setdiff1d(settled.answered[name], plan.shadow) for name in names[1:]]
    return np.setdiff1d(plan.row_key[leads], np.concatenate(done))


@dataclass(frozen=True, slots=True)
class CascadeHead:
    """The head over the rows that the weak model has settled; the others keep the predictions of before."""

    head: AnswerHead
    weak: str
    frame: Frame
    before: str
    """Folder of the predictions that stand so far, "" where those are the router's own."""
    straight: NDArray[np.int64]
    """Sorted row keys that went up unasked."""
    band: NDArray[np.int64] | None = None
    """Sorted row keys to predict; None: all."""
    refused_go_up: bool = False
    """Rows that the weak model refused are as good as answered wrongly."""
    draws: int = 0
    """Further answers of each row to look at."""

    @property
    def columns(self) -> tuple[str, ...]:
        return ("messages", "predicted")

    def predict(self, store: Store, file: str, bucket: int, table: pa.Table) -> NDArray[np.float32]:
        """(n, m); see `PartHead`."""
        keys, raw = table["row_key"].to_numpy(), matrix_of(table["predicted"])
        predicted = (matrix_of(store.read_table(f"{self.before}/{file}")["predicted"]) if self.before else raw).copy()
        weak = _weak_answers(store, self.weak, None, bucket)
        settled = weak.filter(pc.not_equal(weak["kind"], "failed"))
        mine = is_among(keys, np.sort(settled["row_key"].to_numpy())) & ~is_among(keys, self.straight)
        if self.band is not None:
            mine &= is_among(keys, self.band)
        at = np.flatnonzero(mine)
        if len(at):
            texts = table["messages"].take(pa.array(at)).to_pylist()
            evidence = _evidence(self.frame, texts, settled, keys[at], raw[at])
            if self.draws:
                agreement = read_agreement(store, keys[at], evidence.responses, self.draws)
                evidence = replace(evidence, agreement=agreement)
            before = predicted[at]
            predicted[at] = self.head.predict(evidence)
            refused = np.array([response is None for response in evidence.responses], bool)
            if self.refused_go_up:
                predicted[at[refused], 0] = 0.0
            else:  # a refusal tells nothing of how well the prompt would be answered
                predicted[at[refused]] = before[refused]
        return predicted


def _weak_answers(store: Store, weak: str, keys: NDArray[np.int64] | None, bucket: int | None = None) -> pa.Table:
    return Journal(store).read(weak, bucket, WEAK_COLUMNS, keys=keys)


def _evidence(
    frame: Frame, messages: Sequence[str], weak: pa.Table, leaders: NDArray[np.int64], scores: NDArray[np.float32]
) -> Evidence:
    """Of rows with the given messages (JSON texts) and leaders, from the weak model's rows of the journal."""
    place = {key: i for i, key in enumerate(weak["row_key"].to_pylist())}
    at = pa.array([place.get(key) for key in leaders.tolist()], pa.int64())
    found = {name: weak[name].combine_chunks().take(at) for name in WEAK_COLUMNS[1:]}
    answered = [kind == "answered" for kind in found["kind"].to_pylist()]
    told = [found[name].cast(pa.float64()).to_numpy(zero_copy_only=False) for name in ("mean_logprob", "min_logprob")]
    return Evidence(
        prompts=[frame.inner(router_text(json.loads(text))) for text in messages],
        responses=[text if ok else None for text, ok in zip(found["generated_text"].to_pylist(), answered, strict=True)],
        scores=np.nan_to_num(scores), finish_reasons=found["finish_reason"].to_pylist(),
        log_probabilities=np.stack(told, axis=1),
    )  # fmt: skip
