"""The border of a job: all that can be wrong with it is found here, before anything is written or spent."""

from __future__ import annotations

from jobs.errors import SpecError
from jobs.lanes import lane_of
from jobs.lanes.base import need_of
from jobs.placement.cluster import Cluster, look
from jobs.placement.fitting import in_turns, remedy, shortfall, verdict
from jobs.placement.needs import Need
from jobs.placement.notes import model_notes, turn_notes
from jobs.report.streams import say
from jobs.route.answer.lane_contexts import check_lanes, lane_context
from jobs.route.answer.reuse import check_reuse
from jobs.route.identity import changes, check_output, fingerprints
from jobs.route.plan.cut import policy_of
from jobs.route.plan.estimate import resolve_prices
from jobs.route.plan.prices import model_rates
from jobs.route.score.entries import ScoreEntry
from jobs.route.score.files import list_files
from jobs.route.score.first_rows import first_rows, with_gold_read
from jobs.route.score.router import load_router, router_columns, router_fingerprint
from jobs.route.score.scorers import scorer_need, scorer_notes
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
        job.border_notes.append(line)

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


def check_places(job: Job, must_fit: bool) -> None:
    """Where the router and the models will run, for `job.places`: what the cluster has, which only a running Ray knows.

    Raises SpecError where one of them could never run and `must_fit`: a plan spends nothing, and may be made elsewhere.
    """
    spec, cluster = job.spec, look()
    scorer, needs = scorer_need(spec, cluster), _needs(job)
    for where, need in [("router", scorer), *((f"models.{name}", need) for name, need in needs.items())]:
        if must_fit and verdict(need, cluster) == "never":
            raise SpecError(
                f"{where}: {shortfall(need, cluster)}; {remedy(need, cluster)}, or run it on a cluster that has them"
            )
    job.turns = in_turns(list(needs.values()), cluster)
    job.places = _places(job, scorer, needs, cluster)


def _places(job: Job, scorer: Need, needs: dict[str, Need], cluster: Cluster) -> list[str]:
    missing = shortfall(scorer, cluster)
    lines = [f"the router {missing}"] if missing else scorer_notes(job.spec, cluster)
    for name, need in needs.items():
        lines += model_notes(job.spec.models[name], need, cluster)
    return lines + turn_notes(job.turns, needs, cluster)


def _needs(job: Job) -> dict[str, Need]:
    """Of the models that run here, in the order in which they go; a judge outside of the ladder last."""
    judge = job.spec.quality.judge
    names = dict.fromkeys([*job.spec.names, *([judge.model] if judge else [])])
    found = {name: need_of(lane_of(job.spec.models[name].engine), lane_context(job, name)) for name in names}
    return {name: need for name, need in found.items() if need is not None}
