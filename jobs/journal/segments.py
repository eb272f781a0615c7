"""Which files of a run are its journal: the names of segments, and the manifests of merges.

    answers/model=ALIAS/seg-<session>--<writer>--<number>.b<low>..<high>.parquet       what a JournalWriter committed
    answers/model=ALIAS/big-<merge>-<nonce>-<number>--<session>.b<low>..<high>.parquet   many of them in one
    (jobs.journal.compaction) merges/model=ALIAS/<merge>.json                                                    which
    took the place of which

A segment counts unless a manifest says that it was replaced; a merged one counts only where a manifest names it. So one
create-if-absent swaps many files at once. The folder is listed first and the manifests after it: a segment that is
missing from the listing was deleted, it was replaced before that, and so the manifests read later tell of it. Manifests
name what they replaced for ever, for the log of a node that comes back after its segment was merged. Cost: two
listings; 70 bytes a segment ever merged.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

from jobs.storage.manifest import damaged, read_object
from jobs.storage.store import Store

_NAME = re.compile(
    r"(?:seg-(?P<session>.+)--(?P<writer>[0-9a-f]{12})--\d{6}|big-(?P<merge>\d{4})-[0-9a-f]{12}-\d{4}--(?P<of>.+))"
    r"\.b(?P<low>-?\d+)\.\.(?P<high>-?\d+)\.parquet"
)


def folder_of(alias: str) -> str:
    """Where a model's segments stand."""
    return f"answers/model={alias}"


def merges_of(alias: str) -> str:
    """Where the manifests of its merges stand."""
    return f"merges/model={alias}"


def segment_name(alias: str, segment: str, buckets: Sequence[int]) -> str:
    """Where a segment with rows of these buckets stands. `segment`: <session>--<12 hex digits of its writer>--<6 digits>."""
    return f"{folder_of(alias)}/seg-{segment}.b{min(buckets)}..{max(buckets)}.parquet"


def merged_name(alias: str, *, merge: int, nonce: str, number: int, session: str, buckets: Sequence[int]) -> str:
    """Where a merge writes its file `number`, with rows of these buckets of one session.

    `merge`: the number of its manifest; `nonce`: 12 hex digits, its own.
    """
    low, high = min(buckets), max(buckets)
    return f"{folder_of(alias)}/big-{merge:04d}-{nonce}-{number:04d}--{session}.b{low}..{high}.parquet"


@dataclass(frozen=True, slots=True)
class Segment:
    """What a file's name tells of it."""

    name: str
    session: str
    writer: str
    """"" for a merged one, which has rows of many."""
    merge: int
    """Number of the manifest that names it; 0 for a segment as it was committed."""
    low: int
    high: int
    """Its rows' buckets lie in low..high."""


def parse_name(name: str) -> Segment | None:
    """None for a file that is no segment."""
    parts = _NAME.fullmatch(name.rsplit("/", 1)[-1])
    if parts is None:
        return None
    session, merge = parts["session"] or parts["of"], int(parts["merge"] or 0)
    return Segment(name, session, parts["writer"] or "", merge, int(parts["low"]), int(parts["high"]))


@dataclass(frozen=True, slots=True)
class Merges:
    """All manifests of one model together."""

    last: int
    """Number of the newest; 0 where there is none."""
    new: frozenset[str]
    """Merged files that count."""
    replaced: frozenset[str]
    """Segments that do not any more, whether they are still there or not."""


class Segments:
    """The segments of a run, model by model. Keeps the manifests it has read, which never change, and nothing else."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._merges: dict[str, tuple[list[str], Merges]] = {}

    def visible(self, alias: str) -> list[Segment]:
        """What counts now, in name order."""
        names = self._store.list(folder_of(alias))
        merges = self.merges(alias)
        listed = (parse_name(name) for name in names)
        found = [s for s in listed if s is not None and not s.merge and s.name not in merges.replaced]
        merged = (parse_name(name) for name in merges.new - merges.replaced)
        return sorted([*found, *(s for s in merged if s is not None)], key=lambda s: s.name)

    def merges(self, alias: str) -> Merges:
        """The manifests that stand now. Raises StoreError for a damaged one: which segments count cannot be told without it."""
        names = list(self._store.list(merges_of(alias)))
        known, merges = self._merges.get(alias, ([], Merges(0, frozenset(), frozenset())))
        if names == known:
            return merges
        records = [self._record(name) for name in names if name not in known]
        merges = Merges(
            last=max(int(name.rsplit("/", 1)[-1].removesuffix(".json")) for name in names),
            new=merges.new.union(*(_paths(alias, new) for new, _ in records)),
            replaced=merges.replaced.union(*(_paths(alias, replaced) for _, replaced in records)),
        )
        self._merges[alias] = (names, merges)
        return merges

    def _record(self, name: str) -> tuple[list[str], list[str]]:
        """(new, replaced) of one manifest."""
        record = read_object(self._store, name)
        if not all(isinstance(record.get(key), list) for key in ("new", "replaced")):
            raise damaged(self._store, name)
        return record["new"], record["replaced"]

    def stands(self, alias: str, segment: str) -> bool:
        """Has this segment (<session>--<writer>--<number>) been committed, merged since or not?"""
        mark = f"{folder_of(alias)}/seg-{segment}."
        listed = self._store.list(folder_of(alias))
        return any(name.startswith(mark) for name in (*listed, *self.merges(alias).replaced))


def manifest(new: Sequence[str], replaced: Sequence[str]) -> bytes:
    """A merge's manifest: names of files in the model's folder."""
    short = {key: [name.rsplit("/", 1)[-1] for name in names] for key, names in (("new", new), ("replaced", replaced))}
    return json.dumps(short).encode()


def _paths(alias: str, names: Sequence[str]) -> list[str]:
    return [f"{folder_of(alias)}/{name}" for name in names]
