"""Whether two starts are one job: the fingerprints of what a job asks, kept in the run that the first start made.

A run is gone on with only by a job that would ask the same: of the same input, with the same prompts, router and models. What
else the job file says may change between two starts.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict

from jobs.errors import SpecError
from jobs.spec.job import JobSpec
from jobs.spec.sections import InputSpec
from jobs.storage.manifest import RUN, Identity, InputFile, Run, fingerprint, read_identity
from jobs.storage.store import Store

FORMAT = 1
MEANINGS = {
    "input": "the input changed (files, sizes or dates, columns)",
    "prompts": "the template, the system prompt or the kept columns changed",
    "router": "the router changed",
    "answers": "a model, its sampling or the response format changed",
}


def fingerprints(spec: JobSpec, files: list[InputFile], router: str) -> dict[str, str]:
    """What must stay the same for two starts to be one job. Policy, limits, prices, `max_usd` and sample may change.

    `router`: hash of the artifact.
    """
    answers = {
        name: [
            m.engine,
            m.source,
            m.model,
            spec.sampling_of(name),
            None,  # was the service tier, which does not change an answer
            m.engine_kwargs.get("max_model_len"),
        ]
        for name, m in ((name, spec.models[name]) for name in spec.names)
    }
    return {
        "input": fingerprint([[asdict(file) for file in files], _reading(spec.input)]),
        "prompts": fingerprint(
            [spec.system, spec.template, spec.input.keep, spec.quality.gold and spec.quality.gold.column]
        ),
        "router": fingerprint([router, spec.router_models]),
        "answers": fingerprint([list(spec.names), answers, spec.response_format]),
    }


def _reading(spec: InputSpec) -> dict[str, object]:
    """What of `input:` decides how a file is read. A limit of it changes no row that was read."""
    said = spec.model_dump(exclude={"path", "keep", "csv"})
    csv = spec.csv.model_dump(exclude={"max_field_lines"}, exclude_defaults=True)
    return {**said, "csv": csv} if csv else said


def open_run(spec: JobSpec, files: list[InputFile], marks: dict[str, str]) -> Run:
    """Create the run at `spec.output`, or go on with the one that is there. Raises SpecError where it is another job."""
    store = Store(spec.output)
    identity = read_identity(store)
    if identity is None:
        if store.list():
            raise SpecError(f"output: {spec.output} is not empty and holds no headgate run; choose another prefix")
        created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        identity = Identity(FORMAT, created, tuple(files), marks, spec.names)
        if not store.create(RUN, json.dumps(identity.to_json(), indent=1).encode()):
            identity = read_identity(store) or identity
    if identity.format != FORMAT:
        raise SpecError(f"output: {spec.output} was written by another version of headgate; choose another prefix")
    check_same_job(spec.output, identity, marks)
    return Run(store, identity)


def check_same_job(output: str, identity: Identity, marks: dict[str, str]) -> None:
    """Raises SpecError, naming what changed, unless the run in `output` is this very job."""
    changed = [meaning for kind, meaning in MEANINGS.items() if identity.fingerprints.get(kind) != marks[kind]]
    if changed:
        raise SpecError(f"output: {output} holds another job: {'; '.join(changed)}; choose another prefix")
