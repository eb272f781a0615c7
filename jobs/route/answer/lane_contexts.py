"""What each lane is given to work with, and the check that it can: keys, models and context lengths, before anything is spent.

The judge and a cascade's further answers are lanes of their own: another lane's model under a name of theirs in the journal.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from jobs.errors import SpecError
from jobs.journal.local_log import local_dir
from jobs.lanes import lane_of
from jobs.lanes.base import LaneContext
from jobs.money.client import GovernorClient
from jobs.route.plan.prices import model_rates
from jobs.route.start import Job
from jobs.spec.engine_kwargs import needs_trust
from jobs.spec.job import JobSpec, _judge_of
from jobs.spec.sections import JUDGE, SAMPLES
from jobs.storage.store import Store
from routing.answers.llm_judge import PAIRWISE_SCHEMA, RATING_SCHEMA, Message, rating_prompt


def check_lanes(job: Job, asked: tuple[str, ...]) -> None:
    """Ask the lanes for keys, models and context lengths; only those in `asked` have to be there. Raises SpecError."""
    judge = job.spec.quality.judge
    if judge is not None:  # a model like any other, in the ladder or not
        asked = tuple(judge.model if name == JUDGE else name for name in asked)
    asked = tuple(job.spec.names[0] if name == SAMPLES else name for name in asked)
    for name in dict.fromkeys([*job.spec.names, *([judge.model] if judge else [])]):
        model = job.spec.models[name]
        if model.api_key_command and not job.allow_code:
            raise SpecError(
                f"models.{name}.api_key_command: runs a program; remove it, or pass --allow-code if you trust this job file"
            )
        if name in job.checks:
            continue
        if model.traits.runs != "here" and name not in asked:
            job.contexts.setdefault(name, model.context)
            continue
        if not job.allow_code and (argument := needs_trust(model.traits.safe_kwargs, model.engine_kwargs)):
            raise SpecError(
                f"models.{name}.engine_kwargs.{argument}: may load code; remove it, or pass --allow-code if you trust this job file"
            )
        examples = (*(job.examples if name in job.spec.names else ()), *_judged_example(job.spec, name))
        found = lane_of(model.engine).check(replace(lane_context(job, name), examples=examples))
        if not found.ok:
            raise SpecError(found.detail if found.detail.startswith("models.") else f"models.{name}: {found.detail}")
        job.checks[name] = found.detail
        job.border_notes += [f"{name}: {note}" for note in found.notes]
        job.contexts[name] = model.context or found.context_tokens


def _judged_example(spec: JobSpec, name: str) -> tuple[list[Message], ...]:
    """A request to the judge, where this model is the judge."""
    judge = spec.quality.judge
    return (rating_prompt("a question", "an answer"),) if judge is not None and judge.model == name else ()


def lane_context(job: Job, name: str, governor: GovernorClient | None = None) -> LaneContext:
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
        rows_per_block=model.traits.rows_per_block,
        logprobs=cascade is not None and "logprob" in cascade.signals and name == spec.names[0],
    )  # fmt: skip


MAX_TOKENS = 512
"""Room for a sentence or two and the verdict."""


def judge_sampling(spec: JobSpec) -> dict[str, Any]:
    """Generation parameters of the judge."""
    judge = _judge_of(spec)
    if judge.sampling is not None:
        given = judge.sampling.given()
        return given if {"max_tokens", "max_completion_tokens"} & set(given) else {**given, "max_tokens": MAX_TOKENS}
    # Reasoning models take no temperature, and no other name for the limit; the job file says what this model wants.
    of_model, removed = spec.sampling_of(judge.model), spec.models[judge.model].sampling.removed
    name = "max_completion_tokens" if "max_completion_tokens" in of_model else "max_tokens"
    made = {"temperature": 0, name: MAX_TOKENS, "chat_template_kwargs": of_model.get("chat_template_kwargs")}
    return {key: value for key, value in made.items() if value is not None and key not in removed}


def judge_format(spec: JobSpec) -> dict[str, Any]:
    """The job's `response_format` for the judge's lane."""
    return {"json_schema": PAIRWISE_SCHEMA if _judge_of(spec).mode == "pairwise" else RATING_SCHEMA}
