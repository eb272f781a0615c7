"""The border of a job: all that can be wrong with it is found here, before anything is written or spent."""

from __future__ import annotations

import secrets
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from jobs.cutting import policy_of
from jobs.engine_kwargs import needs_trust
from jobs.errors import SpecError
from jobs.estimate import resolve_prices
from jobs.inputs import InputFile, list_files
from jobs.journal import local_dir
from jobs.judge import judge_format, judge_sampling
from jobs.lanes import lane_of
from jobs.lanes.base import LaneContext
from jobs.manifest import FOLDER, check_same_job, fingerprints, read_json, router_fingerprint
from jobs.prices import model_rates
from jobs.reuse import check_reuse
from jobs.score import ScorePlan, load_router, plan_score, router_columns
from jobs.spec import JUDGE, SAMPLES, UNTRAINED_ROUTERS, JobSpec
from jobs.store import Store
from routing.errors import RoutingError
from routing.matching import make_matcher
from routing.routers.base import read_card

ROWS_PER_BLOCK = {"openai": 1024, "openai_batch": 50_000, "vllm": 512, "transformers": 256}
"""Grain of a lane: of its claims, its commits and its progress."""


@dataclass
class Job:
    """One start of a job: what was checked at the border, and what is being held."""

    spec: JobSpec
    allow_code: bool = False
    limit: int | None = None
    live: bool | None = None
    """Progress as a panel, as lines, or by the kind of standard error."""
    session: str = field(default_factory=lambda: time.strftime("%Y%m%dT%H%M%S") + "-" + secrets.token_hex(3))
    stopping: threading.Event = field(default_factory=threading.Event)
    checks: dict[str, str] = field(default_factory=dict)
    contexts: dict[str, int | None] = field(default_factory=dict)
    """Model → longest prompt + answer in tokens, where known."""
    notes: list[str] = field(default_factory=list)
    """What the report says about this start beside its figures."""


@dataclass(frozen=True, slots=True)
class Border:
    """What the checks before the first write found."""

    files: list[InputFile]
    score: ScorePlan
    marks: dict[str, str]
    router_card: dict[str, Any]
    router_columns: list[int]
    earlier: list[str]
    """Runs whose answers count."""


def check(job: Job, ask_lanes: bool = False) -> Border:
    """Everything that can be wrong with a job, before anything is written or spent. Raises HeadgateError.

    A run that goes on asks only the lanes that have rows left, later; `ask_lanes` asks them all now.
    """
    spec = job.spec
    files = list_files(spec.input)
    score = plan_score(spec, files)
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
    identity = read_json(store, f"{FOLDER}/run.json")
    if identity is not None:
        check_same_job(spec.output, identity, marks)
    elif store.list():
        raise SpecError(f"output: {spec.output} is not empty and holds no headgate run; choose another prefix")
    earlier = check_reuse(spec, lambda line: print(f"headgate: {line}", file=sys.stderr))
    check_lanes(job, spec.payees if identity is None or ask_lanes else ())
    return Border(files, score, marks, card, columns, earlier)


def check_lanes(job: Job, asked: tuple[str, ...]) -> None:
    """Ask the lanes for keys, models and context lengths; only those in `asked` have to be there. Raises SpecError."""
    judge = job.spec.quality.judge
    if judge is not None:  # a model like any other, in the ladder or not
        asked = tuple(judge.model if name == JUDGE else name for name in asked)
    asked = tuple(job.spec.names[0] if name == SAMPLES else name for name in asked)
    for name in dict.fromkeys([*job.spec.names, *([judge.model] if judge else [])]):
        local = job.spec.models[name].engine in ("vllm", "transformers")
        if name in job.checks:
            continue
        if not local and name not in asked:
            job.contexts.setdefault(name, job.spec.models[name].context)
            continue
        model = job.spec.models[name]
        if local and not job.allow_code and (argument := needs_trust(model.engine, model.engine_kwargs)):
            raise SpecError(
                f"models.{name}.engine_kwargs.{argument}: may load code; remove it, or pass --allow-code if you trust this job file"
            )
        found = lane_of(model.engine).check(lane_context(job, name))
        if not found.ok:
            raise SpecError(found.detail if found.detail.startswith("models.") else f"models.{name}: {found.detail}")
        job.checks[name] = found.detail
        job.contexts[name] = job.spec.models[name].context or found.context_tokens


def lane_context(job: Job, name: str, governor: Any = None) -> LaneContext:
    """What a lane of this job gets; the judge's own, or that of a cascade's samples, with its own name in the journal, where `name`
    is JUDGE or SAMPLES."""
    spec, judge, cascade = job.spec, job.spec.quality.judge, job.spec.cascade
    judging = judge is not None and name == JUDGE
    sampling = cascade is not None and name == SAMPLES
    of_model = judge.model if judge is not None and judging else spec.names[0] if sampling else name
    model, rates = spec.models[of_model], model_rates(spec, of_model)
    if of_model != name:  # what the provider calls it, now that the alias does not say it
        model = model.model_copy(update={"model": model.model or of_model})
    return LaneContext(
        alias=name, model=model, sampling=judge_sampling(spec) if judging else spec.sampling_of(of_model),
        response_format=judge_format(spec) if judging else spec.response_format,
        price=rates.used, full_price=rates.full, output=Store(spec.output).uri, session=job.session,
        local_dir=local_dir(Store(spec.output).uri), governor=governor, num_cpus=0.5,
        rows_per_block=ROWS_PER_BLOCK.get(model.engine, 512),
        logprobs=cascade is not None and "logprob" in cascade.signals and name == spec.names[0],
    )  # fmt: skip
