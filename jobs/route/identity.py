"""Whether two starts are one job: the fingerprints of what a job asks, kept in the run that the first start made.

A run is gone on with only by a job that would ask the same: of the same input, with the same prompts, router and models. What
else the job file says may change between two starts. Until something has been asked, any job may take the output over.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import asdict

from jobs.errors import SpecError
from jobs.spec.job import JobSpec
from jobs.spec.sections import InputSpec
from jobs.storage import lease
from jobs.storage.manifest import FOLDER, RUN, Identity, InputFile, Run, fingerprint, read_identity
from jobs.storage.store import Store

FORMAT = 1
BEFORE_PLAN = ("scored/part-", f"{lease.FOLDER}/")
PLANNED = (RUN, f"{FOLDER}/score.json", "plan/")
"""Names of what a run holds before anything is asked."""
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
    """Create the run at `spec.output`, or go on with the one that is there. To be called while its lease is held.

    Raises SpecError where it is another job that has asked something.
    """
    store = Store(spec.output)
    identity = read_identity(store)
    check_output(spec.output, identity, marks)
    if identity is not None and changes(identity, marks):
        clear(store)
        identity = None
    if identity is None:
        created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        identity = Identity(FORMAT, created, tuple(files), marks, spec.names)
        if not store.create(RUN, json.dumps(identity.to_json(), indent=1).encode()):
            identity = read_identity(store) or identity
            check_output(spec.output, identity, marks)
    return Run(store, identity)


def check_output(output: str, identity: Identity | None, marks: dict[str, str]) -> None:
    """Raises SpecError unless the output is empty, or holds this very job, or one that has asked nothing yet."""
    if identity is None:
        if any(True for _ in _beyond_scoring(Store(output))):
            raise SpecError(f"output: {output} is not empty and holds no headgate run; choose another prefix")
        return
    if identity.format != FORMAT:
        raise SpecError(f"output: {output} was written by another version of headgate; choose another prefix")
    changed = changes(identity, marks)
    if changed and has_asked(Store(output)):
        raise SpecError(f"output: {output} holds another job: {'; '.join(changed)}; choose another prefix")


def changes(identity: Identity, marks: dict[str, str]) -> list[str]:
    """What makes a job of these marks another one than the run's."""
    return [meaning for kind, meaning in MEANINGS.items() if identity.fingerprints.get(kind) != marks[kind]]


def has_asked(store: Store) -> bool:
    """Whether a run has come further than its plan: asked a model, been granted a dollar, or written an answer."""
    return any(not name.startswith((*BEFORE_PLAN, *PLANNED)) for name in store.list())


def _beyond_scoring(store: Store) -> Iterator[str]:
    """What is there beside what a start that was given up may leave, were it only by a task that ended late."""
    return (name for name in store.list() if not name.startswith(BEFORE_PLAN))


def clear(store: Store) -> None:
    """Undo a run that has asked nothing; the lease stays with its holder. Its identity goes last: until then it is a run."""
    for name in [name for name in store.list() if not name.startswith(f"{lease.FOLDER}/") and name != RUN]:
        store.delete(name)
    store.delete(RUN)
