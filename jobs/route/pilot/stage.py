"""The pilot: the sample is answered by every model before the cut, and the router learns from it what it did not know.

    draw (once, kept) → every model answers it → quality: gold, or the judge (jobs/route/pilot/judge.py) → a head on the
    router's scores, fitted on the fit fold → predictions for all rows → the plan

Folds and their sizes: routing/pilot/folds.py. The head: routing/routers/calibrated/calibrated.py, which leaves the
router as it is where nothing does better in cross-validation. Rows that some model has no quality for are left out of
the fit. The pilot's answers are answers of the run and are never asked again. Cost: the router's own scores are read
back, not made again; a head on text costs half a millisecond a prompt.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from jobs.journal.reader import Journal
from jobs.journal.rows import empty_answers
from jobs.route.answer.lane_contexts import lane_context
from jobs.route.answer.session import Session
from jobs.route.pilot.judge import Case, judge_entry, make_docket, read_verdicts, rows_to_judge
from jobs.route.pilot.judged import JUDGED
from jobs.route.pilot.repredict import repredict
from jobs.route.plan.entries import JudgeEntry, PilotEntry
from jobs.route.plan.plan import Plan, Sample
from jobs.route.plan.planner import Planner
from jobs.route.score.router import load_artifact, load_router, router_columns
from jobs.route.score.scored import matrix_of, read_scored
from jobs.route.start import Job
from jobs.spec.job import JobSpec, has_pilot
from jobs.spec.sections import JUDGE
from jobs.storage.keys import positions
from jobs.storage.manifest import Run
from jobs.storage.store import Store
from routing.answers.matching import make_comparer, make_matcher
from routing.data.outcomes import Outcomes
from routing.errors import RoutingError
from routing.metrics.pair import Interval
from routing.pilot.folds import FOLD_NAMES
from routing.pilot.proportions import proportion_interval
from routing.pilot.rank_choice import RankChoice, choose_rank_by
from routing.routers.calibrated.calibrated import CalibratedRouter
from routing.text import Frame, router_text
from routing.upgrades.policy import POLICY_KINDS


@dataclass(frozen=True, slots=True)
class SampleAnswers:
    """What the models answered to the sample, beside what they were asked. Legend: k rows, m models."""

    row_key: NDArray[np.int64]
    """(k,)."""
    bucket: list[int]
    messages: list[str]
    """JSON texts, as in scored/."""
    gold: list[str | None]
    texts: list[str]
    """What the router reads of them."""
    said: NDArray[np.object_]
    """(k, m) None where a model has no answer."""


@dataclass(frozen=True, slots=True)
class SampleQuality:
    """How good the sample's answers are."""

    quality: NDArray[np.float64]
    """(k, m) NaN where it cannot be told."""
    judged: NDArray[np.bool_]
    """(k,) rows whose quality is the judge's."""
    judge: JudgeEntry | None = None


def pilot_stage(job: Job, run: Run, planner: Planner, session: Session) -> None:
    """Answer the sample, and recalibrate; nothing where the job has no pilot, or it is done. Raises LaneDown where a lane stops."""
    if not has_pilot(job.spec) or job.limit is not None or planner.pilot() is not None:
        return
    session.progress.enter("pilot")
    draft = planner.draft()
    keys = draft.assignments.shadow
    todo = {name: np.intersect1d(asked, keys, assume_unique=True) for name, asked in session.open_rows(draft).items()}
    assert job.spec.sample is not None
    session.ask(draft, todo, job.spec.sample.max_usd)
    if not session.through("pilot"):
        return
    sample = planner.sample()
    assert sample is not None
    answered = read_answers(job, run, planner, sample)
    measured = SampleQuality(measure(job, answered), np.zeros(len(sample.row_key), bool))
    if job.spec.quality.judge is not None:
        measured = ask_judge(session, draft, answered, measured.quality)
        if not session.through("pilot"):
            return
    folds = {f: int((sample.fold == i).sum()) for i, f in enumerate(FOLD_NAMES)}
    entry = PilotEntry(
        rows=len(sample.row_key), folds=folds, folder=planner.pilot_folder, head="none", judge=measured.judge
    )
    entry = _recalibrate(planner, sample, measured.quality, answered.texts, entry)
    columns = {"row_key": sample.row_key} | {name: measured.quality[:, j] for j, name in enumerate(job.spec.names)}
    run.store.write_table(f"{planner.pilot_folder}/quality.parquet", pa.table(columns | {JUDGED: measured.judged}))
    run.finish(planner.pilot_entry, entry)
    planner.forget()


def read_answers(job: Job, run: Run, planner: Planner, sample: Sample) -> SampleAnswers:
    """What the models answered to the sample, beside what they were asked."""
    order = np.argsort(sample.row_key)
    keys = sample.row_key[order]
    columns = ["row_key", "bucket", "messages", "gold"]
    table = read_scored(run.store, planner.parts, columns, keys).sort_by("row_key")
    table = table.take(pa.array(np.argsort(order)))
    frame = planner.border.score.frame
    messages = table["messages"].to_pylist()
    return SampleAnswers(
        row_key=sample.row_key, bucket=table["bucket"].to_pylist(), messages=messages, gold=table["gold"].to_pylist(),
        said=answers_of(job, run, planner.leaders_of(sample.row_key)),
        texts=[frame.inner(router_text(json.loads(text))) for text in messages],
    )  # fmt: skip


def measure(job: Job, answered: SampleAnswers) -> NDArray[np.float64]:
    """(k, m) quality of every model's answer to the sample by gold, NaN where that cannot tell.

    Where the policy is a guarantee, quality is agreement with the strong model.
    """
    return _agreement(job, answered.said) if job.spec.policy.guarantee else _gold(job, answered.said, answered.gold)


def ask_judge(session: Session, draft: Plan, answered: SampleAnswers, gold: NDArray[np.float64]) -> SampleQuality:
    """The sample's quality, the judge's where gold (k, m) cannot tell."""
    spec, judge = session.job.spec, session.job.spec.quality.judge
    assert judge is not None and spec.sample is not None
    session.progress.enter("judge")
    at = rows_to_judge(spec, answered.row_key, answered.said, gold)
    cases = [
        Case(answered.bucket[i], answered.messages[i], answered.said[i].tolist(), answered.gold[i]) for i in at.tolist()
    ]
    docket = make_docket(lane_context(session.job, JUDGE), judge, cases)
    session.ask_rows(JUDGE, draft, docket.requests, spec.sample.max_usd)
    verdicts = read_verdicts(session.run.store, judge, docket)
    quality, judged = gold.copy(), np.zeros(len(gold), bool)
    quality[at], judged[at] = verdicts.quality, True
    return SampleQuality(quality, judged, judge_entry(judge, verdicts, len(at)))


def answers_of(job: Job, run: Run, leaders: NDArray[np.int64]) -> NDArray[np.object_]:
    """(k, m) what each model answered to these rows, "" where it was paid to say nothing, None where it did not answer."""
    said = np.full((len(leaders), len(job.spec.names)), None, object)
    for j, name in enumerate(job.spec.names):
        columns = ["row_key", "kind", "generated_text", "completion_tokens"]
        table = Journal(run.store).read(name, None, columns, np.unique(leaders))
        table = table.filter(pc.or_(pc.equal(table["kind"], "answered"), empty_answers(table)))
        texts = table["generated_text"].fill_null("").to_pylist()
        found = dict(zip(table["row_key"].to_pylist(), texts, strict=True))
        said[:, j] = [found.get(leader) for leader in leaders.tolist()]
    return said


def _gold(job: Job, said: NDArray[np.object_], golds: list[str | None]) -> NDArray[np.float64]:
    quality = np.full(said.shape, np.nan)
    if job.spec.quality.matcher is None:
        return quality
    matcher = make_matcher(job.spec.quality.matcher, allow_code=job.allow_code)
    for (i, j), text in np.ndenumerate(said):
        wanted = golds[i]
        if text is not None and wanted is not None:
            quality[i, j] = matcher(text, wanted)
    return quality


def _agreement(job: Job, said: NDArray[np.object_]) -> NDArray[np.float64]:
    """1 where a model says what the strong one says; NaN where that one says nothing."""
    policy, gold = job.spec.policy.guarantee, job.spec.quality.gold
    assert policy is not None
    compare = make_comparer(policy.match or (gold.match if gold else "exact"), allow_code=job.allow_code)
    quality = np.full(said.shape, np.nan)
    for (i, j), text in np.ndenumerate(said):
        strong = said[i, -1]
        if strong:
            quality[i, j] = 1.0 if j == said.shape[1] - 1 else float(text is not None and compare(text, strong))
    return quality


def measured_agreement(spec: JobSpec, store: Store, plan: Plan) -> Interval | None:
    """Share of the rows for which the policy's model says what the strong one does, by the report fold: no choice was made on it.

    Rows of the sample are given the strong model's answer in any case, which is not counted in. None where the policy is no
    guarantee, or its pilot is not through.
    """
    pilot = plan.bill.pilot
    if spec.policy.guarantee is None or pilot is None:
        return None
    sample = store.read_table(f"{pilot.folder}/sample.parquet")
    quality = store.read_table(f"{pilot.folder}/quality.parquet")
    agreed = np.stack([quality[name].to_numpy() for name in spec.names], axis=1)
    model = plan.assignments.model[positions(plan.assignments.row_key, sample["row_key"].to_numpy())]
    reported = (sample["fold"].to_numpy() == FOLD_NAMES.index("report")) & (model >= 0)
    seen = agreed[reported, model[reported]]
    seen = seen[np.isfinite(seen)]
    n_total = int((plan.assignments.model >= 0).sum())
    return proportion_interval(int((seen == 1).sum()), len(seen), n_total) if len(seen) else None


def _recalibrate(
    planner: Planner, sample: Sample, quality: NDArray[np.float64], prompts: list[str], entry: PilotEntry
) -> PilotEntry:
    """Fit the head, and write its predictions for all rows. The entry, with what came of it."""
    spec, store = planner.job.spec, planner.run.store
    fit = np.flatnonzero((sample.fold == FOLD_NAMES.index("fit")) & np.isfinite(quality).all(axis=1))
    if not len(fit):
        return replace(entry, why="too few rows to fit on")
    base = load_router(spec)
    columns = router_columns(base, spec)
    # Under the job's names the pilot's models and the router's are the same ones.
    names = list(base.models_)
    for column, alias in zip(columns, spec.names, strict=True):
        names[column] = alias
    base.models_ = tuple(names)
    pilot = Outcomes(
        ids=[str(key) for key in sample.row_key[fit]], prompts=[prompts[i] for i in fit], datasets=["pilot"] * len(fit),
        models=spec.names, quality=quality[fit].astype(np.float32),
    )  # fmt: skip
    try:
        router = CalibratedRouter(seed=spec.sample.seed if spec.sample else 0).fit_pilot(base, pilot)
    except RoutingError as error:
        return replace(entry, why=str(error))
    ranks: dict[str, RankChoice] | None = None
    if router.held_out_ is not None:
        keys, estimates = sample.row_key[fit], planner.estimates()
        n_bytes = planner.rows.prompt_bytes[planner.places(keys)]
        cost = np.stack([estimates[name].cost_usd(n_bytes) for name in spec.names], axis=1)
        held_out = router.held_out_
        # Of every kind: the same pilot serves the job with another policy.
        ranks = {kind: choose_rank_by(held_out, quality[fit], cost, keys, kind) for kind in POLICY_KINDS}
    folder = f"{planner.pilot_folder}/router"
    _save_router(router, store, folder)
    if router.head_ != "none":
        head = PilotHead(store.url(folder), planner.border.score.frame, columns)
        repredict(store, planner.parts, head, f"{planner.pilot_folder}/predicted")
    return replace(entry, head=router.head_, scores=router.pilot_scores_, fit_rows=len(fit), rank_by=ranks)


def _save_router(router: CalibratedRouter, store: Store, folder: str) -> None:
    with tempfile.TemporaryDirectory(prefix="headgate-pilot-") as here:
        router.save(here)
        for path in sorted(Path(here).rglob("*")):
            if path.is_file():
                store.write(f"{folder}/{path.relative_to(here).as_posix()}", path.read_bytes())


class PilotHead:
    """The recalibrated router, over the scores that the router gave in the score stage.

    Only where its files are travels to the actors: each loads the router itself.
    """

    columns = ("messages", "input_error", "predicted")

    def __init__(self, artifact: str, frame: Frame, model_columns: list[int]) -> None:
        """artifact: URI of the router's folder. model_columns: (m,) which of the router's columns is each model's."""
        self.artifact, self.frame, self.model_columns = artifact, frame, model_columns
        self._router: CalibratedRouter | None = None

    @property
    def router(self) -> CalibratedRouter:
        """Loaded once a process, where it is used."""
        if self._router is None:
            router = load_artifact(self.artifact)
            assert isinstance(router, CalibratedRouter)
            self._router = router
        return self._router

    def predict(self, store: Store, file: str, bucket: int, table: pa.Table) -> NDArray[np.float32]:
        """(n, m); see `PartHead`."""
        good = pc.equal(table["input_error"], "").to_numpy(zero_copy_only=False)
        scores = matrix_of(table["predicted"])
        known = table.filter(pa.array(good))
        texts = [self.frame.inner(router_text(json.loads(messages))) for messages in known["messages"].to_pylist()]
        predicted = np.full(scores.shape, np.nan, np.float32)
        if len(self.router.base_.models_) == len(self.model_columns):
            own = np.empty((len(texts), len(self.model_columns)), np.float32)
            own[:, self.model_columns] = scores[good]
            predicted[good] = self.router.predict_from(own, texts)
        else:  # the router knows more models than the job has, and the head may look at all of them
            predicted[good] = self.router.predict(texts)
        return predicted
