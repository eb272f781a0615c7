"""What makes an output prefix one run: its identity, and the entry that each finished stage leaves.

`_headgate/run.json` is created first, once, by whoever comes first; every later start must describe the same job. Stages write
their entry (`_headgate/<stage>.json`) last, so that what an entry names is whole.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Protocol, Self, TypeVar

from jobs.errors import SpecError, StoreError
from jobs.storage.store import Store

FOLDER = "_headgate"
RUN = f"{FOLDER}/run.json"


def fingerprint(value: Any) -> str:
    """Short hash of a JSON-safe value."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True, default=str).encode(), digest_size=12).hexdigest()


@dataclass(frozen=True, slots=True)
class InputFile:
    """One file of the frozen listing."""

    uri: str
    size: int
    """Bytes."""
    modified_ns: int
    """0 where the store does not tell."""


@dataclass(frozen=True, slots=True)
class Identity:
    """What a run is: `_headgate/run.json`, as whoever came first wrote it."""

    format: int
    created: str
    """UTC, ISO 8601."""
    files: tuple[InputFile, ...]
    fingerprints: dict[str, str]
    """What must stay the same for two starts to be one job: kind → hash."""
    models: tuple[str, ...]
    """The ladder, cheapest first."""

    def to_json(self) -> dict[str, Any]:
        return {
            "format": self.format, "created": self.created, "input": [asdict(file) for file in self.files],
            "fingerprints": self.fingerprints, "models": list(self.models),
        }  # fmt: skip

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Identity:
        """A run of another format may miss any of the keys. Raises KeyError, TypeError, ValueError for what is no identity."""
        return cls(
            format=data.get("format", 0), created=data.get("created", ""),
            files=tuple(InputFile(file["uri"], file["size"], file["modified_ns"]) for file in data.get("input", ())),
            fingerprints=dict(data.get("fingerprints", {})), models=tuple(data.get("models", ())),
        )  # fmt: skip


class Entry(Protocol):
    """What a finished stage leaves."""

    def to_json(self) -> dict[str, Any]: ...

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self: ...


E = TypeVar("E", bound=Entry)


@dataclass(frozen=True, slots=True)
class Run:
    """An opened run."""

    store: Store
    identity: Identity

    def entry(self, stage: str, kind: type[E]) -> E | None:
        """A stage's entry, None while the stage is not finished. Raises StoreError where it is damaged."""
        data = read_json(self.store, f"{FOLDER}/{stage}.json")
        return None if data is None else kind.from_json(data)

    def finish(self, stage: str, entry: E) -> E:
        """Write a stage's entry unless it stands; returns the one that stands."""
        body = json.dumps(entry.to_json(), indent=1, sort_keys=True, default=str).encode()
        if not self.store.create(f"{FOLDER}/{stage}.json", body):
            return self.entry(stage, type(entry)) or entry
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


def read_identity(store: Store) -> Identity | None:
    """The identity of the run in `store`, None where there is no run. Raises StoreError where it is damaged."""
    data = read_json(store, RUN)
    try:
        return None if data is None else Identity.from_json(data)
    except (KeyError, TypeError, ValueError):
        raise damaged(store, RUN) from None


def load_run(output: str) -> Run:
    """The run at `output`, for `status` and `report`. Raises SpecError where there is none."""
    store = Store(output)
    identity = read_identity(store)
    if identity is None:
        raise SpecError(f"{output}: no headgate run there (no {RUN})")
    return Run(store, identity)
