"""The border of a job: all that can be wrong with it is found here, before anything is written or spent."""

from __future__ import annotations

from jobs.errors import SpecError
from jobs.report.streams import say
from jobs.route.answer.lane_contexts import check_lanes
from jobs.route.answer.reuse import check_reuse
from jobs.route.identity import changes, check_output, fingerprints
from jobs.route.plan.cut import policy_of
from jobs.route.plan.estimate import resolve_prices
from jobs.route.plan.prices import model_rates
from jobs.route.score.entries import ScoreEntry
from jobs.route.score.files import list_files
from jobs.route.score.first_rows import first_rows, with_gold_read
from jobs.route.score.router import load_router, router_columns, router_fingerprint
from jobs.route.score.stage import plan_score
from jobs.route.start import Border, Job
from jobs.spec.job import UNTRAINED_ROUTERS
from jobs.storage.manifest import Run, read_identity
from jobs.storage.store import Store
from routing.answers.matching import make_matcher
from routing.errors import RoutingError
from routing.routers.base import read_card


def check(job: Job, ask_lanes: bool = False) -> Border:
    """Everything that can be wrong with a job, before anything is written or spent. Raises HeadgateError.

    A run that goes on asks only the lanes that have rows left, later; `ask_lanes` asks them all now.
    """
    spec = job.spec

    def note(line: str) -> None:
        say(line)
        job.notes.append(line)

    files = list_files(spec.input, note)
    score = plan_score(spec, files, note)
    resolve_prices(spec)
    if spec.quality.judge:
        model_rates(spec, spec.quality.judge.model)
    marks = fingerprints(spec, files, router_fingerprint(spec))
    try:
        router = load_router(spec)
        columns = router_columns(router, spec)
        policy_of(spec)
        if spec.quality.matcher:
            make_matcher(spec.quality.matcher, allow_code=job.allow_code)
    except RoutingError as error:
        raise SpecError(str(error)) from None
    card = {} if spec.router in UNTRAINED_ROUTERS or "://" in spec.router else read_card(spec.router)
    store = Store(spec.output)
    identity = read_identity(store)
    check_output(spec.output, identity, marks)
    is_new = identity is None or bool(changes(identity, marks))
    earlier = check_reuse(spec, say)
    rows = first_rows(score)
    job.examples = rows.examples
    if is_new or identity is None or Run(store, identity).entry("score", ScoreEntry) is None:  # else gold has been read
        score, how = with_gold_read(score, rows)
        job.border_notes += [how] if how else []
    check_lanes(job, spec.payees if is_new or ask_lanes else ())
    return Border(files, score, marks, card, columns, earlier)
