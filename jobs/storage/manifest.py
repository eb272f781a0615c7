"""What makes an output prefix one run: its identity, and the entry that each finished stage leaves.

`_headgate/run.json` is created first, once, by whoever comes first; every later start must describe the same job. Stages write
their entry (`_headgate/<stage>.json`) last, so that what an entry names is whole.
"""

from __future__ import annotations

import hashlib
import json
import time
from dataclasses import dataclass
from typing import Any

from jobs.errors import SpecError, StoreError
from jobs.inputs import InputFile, listing_json
from jobs.spec import UNTRAINED_ROUTERS, JobSpec
from jobs.store import Store

FOLDER = "_headgate"
FORMAT = 1
MEANINGS = {
    "input": "the input changed (files, sizes or dates, columns)",
    "prompts": "the template, the system prompt or the kept columns changed",
    "router": "the router changed",
    "answers": "a model, its sampling or the response format changed",
}


def fingerprint(value: Any) -> str:
    """Short hash of a JSON-safe value."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True, default=str).encode(), digest_size=12).hexdigest()


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
        "input": fingerprint([listing_json(files), spec.input.model_dump(exclude={"path", "keep"})]),
        "prompts": fingerprint(
            [spec.system, spec.template, spec.input.keep, spec.quality.gold and spec.quality.gold.column]
        ),
        "router": fingerprint([router, spec.router_models]),
        "answers": fingerprint([list(spec.names), answers, spec.response_format]),
    }


def router_fingerprint(spec: JobSpec) -> str:
    """Hash of the artifact's files, or the name of a router that needs no training. Raises SpecError where there is none."""
    if spec.router in UNTRAINED_ROUTERS:
        return spec.router
    try:
        store = Store(spec.router)
        if not store.exists("router.json"):
            names = ", ".join(UNTRAINED_ROUTERS)
            raise SpecError(
                f"router: {spec.router} is neither an artifact directory (no router.json there) nor one of: {names}; "
                "the README says how to train one"
            )
        digest = hashlib.blake2b(digest_size=16)
        for name in store.list():
            digest.update(name.encode() + hashlib.sha256(store.read(name)).digest())
    except StoreError as error:
        raise SpecError(f"router: {error}") from None
    return digest.hexdigest()


@dataclass(frozen=True, slots=True)
class Run:
    """An opened run."""

    store: Store
    identity: dict[str, Any]

    @property
    def files(self) -> list[InputFile]:
        return [InputFile(**item) for item in self.identity["input"]]

    def entry(self, stage: str) -> dict[str, Any] | None:
        """A stage's manifest entry, None while the stage is not finished."""
        return read_json(self.store, f"{FOLDER}/{stage}.json")

    def finish(self, stage: str, entry: dict[str, Any]) -> dict[str, Any]:
        """Write a stage's entry unless it stands; returns the one that stands."""
        body = json.dumps(entry, indent=1, sort_keys=True, default=str).encode()
        if not self.store.create(f"{FOLDER}/{stage}.json", body):
            return self.entry(stage) or entry
        return entry


def read_json(store: Store, name: str) -> dict[str, Any] | None:
    """A JSON object of the run, None where the file is not there. Raises StoreError where it is damaged."""
    return read_object(store, name) if store.exists(name) else None


def read_object(store: Store, name: str) -> dict[str, Any]:
    """A JSON object of the run. Raises StoreError where it is missing or damaged."""
    try:
        data = json.loads(store.read(name))
    except (ValueError, RecursionError):
        data = None
    if not isinstance(data, dict):
        raise damaged(store, name)
    return data


def damaged(store: Store, name: str) -> StoreError:
    """The error for a file of the run that does not hold what this program wrote."""
    return StoreError(f"{store.url(name)}: damaged; put a copy of it back, or choose another output prefix")


def open_run(spec: JobSpec, files: list[InputFile], marks: dict[str, str]) -> Run:
    """Create the run at `spec.output`, or go on with the one that is there. Raises SpecError where it is another job."""
    store = Store(spec.output)
    name = f"{FOLDER}/run.json"
    identity = read_json(store, name)
    if identity is None:
        if store.list():
            raise SpecError(f"output: {spec.output} is not empty and holds no headgate run; choose another prefix")
        identity = {
            "format": FORMAT,
            "created": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "input": listing_json(files),
            "fingerprints": marks,
            "models": list(spec.names),
        }
        if not store.create(name, json.dumps(identity, indent=1).encode()):
            identity = read_json(store, name) or identity
    if identity.get("format") != FORMAT:
        raise SpecError(f"output: {spec.output} was written by another version of headgate; choose another prefix")
    check_same_job(spec.output, identity, marks)
    return Run(store, identity)


def check_same_job(output: str, identity: dict[str, Any], marks: dict[str, str]) -> None:
    """Raises SpecError, naming what changed, unless the run in `output` is this very job."""
    changed = [meaning for key, meaning in MEANINGS.items() if identity["fingerprints"].get(key) != marks[key]]
    if changed:
        raise SpecError(f"output: {output} holds another job: {'; '.join(changed)}; choose another prefix")


def load_run(output: str) -> Run:
    """The run at `output`, for `status` and `report`. Raises SpecError where there is none."""
    store = Store(output)
    identity = read_json(store, f"{FOLDER}/run.json")
    if identity is None:
        raise SpecError(f"{output}: no headgate run there (no {FOLDER}/run.json)")
    return Run(store, identity)
