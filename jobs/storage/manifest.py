"""What makes an output prefix one run: its identity, and the entry that each finished stage leaves.

`_headgate/run.json` is created first, once, by whoever comes first; every later start must describe the same job. Stages write
their entry (`_headgate/<stage>.json`) last, so that what an entry names is whole.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from jobs.errors import SpecError, StoreError
from jobs.storage.store import Store

FOLDER = "_headgate"


def fingerprint(value: Any) -> str:
    """Short hash of a JSON-safe value."""
    return hashlib.blake2b(json.dumps(value, sort_keys=True, default=str).encode(), digest_size=12).hexdigest()


@dataclass(frozen=True, slots=True)
class Run:
    """An opened run."""

    store: Store
    identity: dict[str, Any]

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


def load_run(output: str) -> Run:
    """The run at `output`, for `status` and `report`. Raises SpecError where there is none."""
    store = Store(output)
    identity = read_json(store, f"{FOLDER}/run.json")
    if identity is None:
        raise SpecError(f"{output}: no headgate run there (no {FOLDER}/run.json)")
    return Run(store, identity)
