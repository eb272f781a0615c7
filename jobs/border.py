"""The border of a job: all that can be wrong with it is found here, before anything is written or spent."""

from __future__ import annotations

import secrets
import threading
import time
from dataclasses import dataclass, field
from typing import Any

from jobs.errors import SpecError
from jobs.estimate import resolve_prices
from jobs.inputs import InputFile, list_files
from jobs.journal import local_dir
from jobs.lanes import lane_of
from jobs.lanes.base import LaneContext
from jobs.manifest import FOLDER, check_same_job, fingerprints, read_json, router_fingerprint
from jobs.plan import policy_of
from jobs.score import ScorePlan, load_router, plan_score, router_columns
from jobs.spec import UNTRAINED_ROUTERS, JobSpec
from jobs.store import Store
from routing.errors import RoutingError
from routing.matching import make_matcher
from routing.routers.base import read_card

ROWS_PER_BLOCK = {"openai": 1024, "vllm": 512, "transformers": 256}
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


@dataclass(frozen=True, slots=True)
class Border:
    """What the checks before the first write found."""

    files: list[InputFile]
    score: ScorePlan
    marks: dict[str, str]
    router_card: dict[str, Any]
    router_columns: list[int]


def check(job: Job, ask_lanes: bool = False) -> Border:
    """Everything that can be wrong with a job, before anything is written or spent. Raises HeadgateError.

    A run that goes on asks only the lanes that have rows left, later; `ask_lanes` asks them all now.
    """
    spec = job.spec
    files = list_files(spec.input)
    score = plan_score(spec, files)
    resolve_prices(spec)
    marks = fingerprints(spec, files, router_fingerprint(spec))
    try:
        router = load_router(spec)
        columns = router_columns(router, spec)
        policy_of(spec)
        if spec.quality.gold:
            make_matcher(spec.quality.gold.match, allow_code=job.allow_code)
    except RoutingError as error:
        raise SpecError(str(error)) from None
    card = {} if spec.router in UNTRAINED_ROUTERS or "://" in spec.router else read_card(spec.router)
    store = Store(spec.output)
    identity = read_json(store, f"{FOLDER}/run.json")
    if identity is not None:
        check_same_job(spec.output, identity, marks)
    elif store.list():
        raise SpecError(f"output: {spec.output} is not empty and holds no headgate run; choose another prefix")
    check_lanes(job, spec.names if identity is None or ask_lanes else ())
    return Border(files, score, marks, card, columns)


def check_lanes(job: Job, asked: tuple[str, ...]) -> None:
    """Ask the lanes for keys, models and context lengths; only those in `asked` have to be there. Raises SpecError."""
    for name in job.spec.names:
        local = job.spec.models[name].engine in ("vllm", "transformers")
        if name in job.checks:
            continue
        if not local and name not in asked:
            job.contexts.setdefault(name, job.spec.models[name].context)
            continue
        found = lane_of(job.spec.models[name].engine).check(lane_context(job, name))
        if not found.ok:
            raise SpecError(found.detail if found.detail.startswith("models.") else f"models.{name}: {found.detail}")
        job.checks[name] = found.detail
        job.contexts[name] = job.spec.models[name].context or found.context_tokens


def lane_context(job: Job, name: str, governor: Any = None) -> LaneContext:
    """What a lane of this job gets."""
    spec, model = job.spec, job.spec.models[name]
    return LaneContext(
        alias=name, model=model, sampling=spec.sampling_of(name), response_format=spec.response_format,
        price=resolve_prices(spec)[name][0], output=Store(spec.output).uri, session=job.session,
        local_dir=local_dir(Store(spec.output).uri), governor=governor, num_cpus=0.5,
        rows_per_block=ROWS_PER_BLOCK.get(model.engine, 512),
    )  # fmt: skip
