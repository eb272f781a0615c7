"""The journal: every settled answer, on the local disk at once and on the store within seconds. Nothing is paid twice.

`JournalWriter.append` puts one record into a log of its own process (`jobs.local_log`: it survives kill -9). A thread
commits what has gathered as an immutable Parquet segment every `flush_s` seconds or `flush_rows` rows, then removes the
log. The segment's name is made from the log's, so a crash between the two repeats no row: whoever finds the log sees
that its segment stands. `recover_orphans` commits the logs of dead processes.

`Journal` reads: one row per row_key (`jobs.answer_rows.one_per_key`), `answered` before `rejected` before `failed`, the
first answered before later ones; what the others cost is added to the winner's `lost_usd`. Segment names carry their
range of buckets, so that finding the segments of a bucket is one listing. 8 bytes a settled key in memory.
"""

from __future__ import annotations

import re
import secrets
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.answer_rows import ANSWER_SCHEMA, DECIDING_COLUMNS, Answer, Kind, answers_table, clean, one_per_key
from jobs.errors import StoreError
from jobs.local_log import LocalLog, local_dir, logs, orphan
from jobs.store import Store

__all__ = [
    "ANSWER_SCHEMA",
    "Answer",
    "Journal",
    "JournalWriter",
    "Kind",
    "Recovered",
    "Spent",
    "local_dir",
    "one_per_key",
    "recover_orphans",
]

_SEGMENT_NAME = re.compile(
    r"seg-(?P<session>.+)--(?P<writer>[0-9a-f]{12})--\d{6}\.b(?P<low>-?\d+)\.\.(?P<high>-?\d+)\.parquet"
)
_COMMIT_ATTEMPTS = 4
_READ_THREADS = 16


def _folder(alias: str) -> str:
    return f"answers/model={alias}"


def _commit(store: Store, alias: str, segment: str, rows: Sequence[Answer]) -> None:
    buckets = [row.bucket for row in rows]
    name = f"{_folder(alias)}/seg-{segment}.b{min(buckets)}..{max(buckets)}.parquet"
    store.write_table(name, answers_table(rows))


class JournalWriter:
    """Settles answers of one model in one process. Safe to use from several threads.

    Once the store has refused `_COMMIT_ATTEMPTS` times in a row, `append`, `wait` and `flush` raise StoreError (the
    answer given to `append` is in the local log all the same); the logs stay for `recover_orphans`.
    """

    def __init__(
        self,
        store_uri: str,
        model_alias: str,
        local_dir: str,
        session: str,
        flush_s: float = 2.0,
        flush_rows: int = 2000,
    ) -> None:
        if not session or "--" in session:
            raise ValueError(f"session {session!r} may not be empty or hold '--': it is a part of file names")
        self.unique = secrets.token_hex(6)
        """Names this writer: every segment of it is called seg-<session>--<unique>--…"""
        self._store = Store(store_uri)
        self._alias, self._dir, self._session = model_alias, local_dir, session
        self._flush_s, self._flush_rows = flush_s, flush_rows
        Path(local_dir).mkdir(mode=0o700, parents=True, exist_ok=True)
        self._lock = threading.Condition()
        self._n_logs = 0
        self._log: LocalLog | None = None
        self._appended = self._committed = self._wanted = 0
        self._error: StoreError | None = None
        self._closing = self._closed = False
        self._thread = threading.Thread(target=self._commit_forever, name="journal-commit", daemon=True)
        self._thread.start()

    def append(self, answer: Answer) -> int:
        """Settle one row; it is in the local log on return. Gives its number, for `wait`."""
        answer = clean(answer, time.time())
        with self._lock:
            if self._closed or self._closing:
                raise StoreError("the journal is closed")
            self._appended += 1
            number = self._appended
            try:
                if self._log is None:
                    self._n_logs += 1
                    self._log = LocalLog(self._dir, self._alias, f"{self._session}--{self.unique}--{self._n_logs:06d}")
                    self._lock.notify_all()
                self._log.append(answer)
            except OSError as error:
                self._error = StoreError(
                    f"local log in {self._dir}: {error.strerror or error}; free some space or set TMPDIR"
                )
            if self._log is not None and len(self._log.rows) >= self._flush_rows:
                self._lock.notify_all()
            if self._error is not None:
                raise self._error
        return number

    @property
    def appended(self) -> int:
        """Number of the last answer."""
        return self._appended

    def wait(self, number: int, timeout_s: float | None = None) -> bool:
        """Wait until the answer `number` (and all before it) is on the store. False on time-out."""
        with self._lock:
            done = self._lock.wait_for(
                lambda: self._committed >= number or self._error is not None or self._closed, timeout_s
            )
            if self._error is not None and self._committed < number:
                raise self._error
            return done and self._committed >= number

    def flush(self) -> None:
        """Commit all that is appended, now. Raises StoreError."""
        with self._lock:
            number = self._wanted = self._appended
            self._lock.notify_all()
        if number:
            self.wait(number)

    def close(self) -> None:
        """Commit everything and stop. Raises StoreError where that fails; the local logs stay then."""
        with self._lock:
            if self._closed:
                return
            self._closing = True
            self._lock.notify_all()
        self._thread.join()
        with self._lock:
            self._closed = True
            if self._log is not None:
                self._log.release()
                self._log = None
            if self._error is not None and self._committed < self._appended:
                raise self._error

    def __enter__(self) -> JournalWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _due(self) -> bool:
        full = self._log is not None and len(self._log.rows) >= self._flush_rows
        return self._closing or full or self._wanted > self._committed

    def _commit_forever(self) -> None:
        while True:
            with self._lock:
                self._lock.wait_for(lambda: self._log is not None or self._closing)
                self._lock.wait_for(self._due, self._flush_s)
                sealed, self._log = self._log, None
                number = self._appended
            if sealed is None:
                return
            error = self._commit(sealed)
            with self._lock:
                if error is None:
                    self._committed = number
                else:
                    self._error = self._error or error
                self._lock.notify_all()
                if error is not None:
                    return

    def _commit(self, sealed: LocalLog) -> StoreError | None:
        error = StoreError("")
        for attempt in range(_COMMIT_ATTEMPTS):
            try:
                _commit(self._store, self._alias, sealed.segment, sealed.rows)
            except StoreError as refused:
                error = refused
            except Exception as failed:  # noqa: BLE001 - a thread has nobody above it: the next append raises this
                error = StoreError(f"{_folder(self._alias)}: segment not written: {type(failed).__name__}: {failed}")
                break
            else:
                sealed.remove()
                return None
            if attempt < _COMMIT_ATTEMPTS - 1:
                time.sleep(0.5 * 2**attempt)
        sealed.release()
        return error


@dataclass(frozen=True, slots=True)
class Recovered:
    """What `recover_orphans` did."""

    rows: int
    alive: tuple[int, ...]
    """pids that still hold logs of another session."""


def recover_orphans(
    store_uri: str, model_alias: str | None, local_dir: str, wait_s: float = 0.0, session: str = "", writer: str = ""
) -> Recovered:
    """Commit the logs that dead processes left on this host. `model_alias` None: of all models.

    `session` names the caller's own: its living writers are not waited for. `writer` (JournalWriter.unique): only that
    writer's logs, whatever its session. Two recoverers at once share the work: each log is done by who locks it.
    Raises StoreError where the store refuses; the logs stay then.
    """
    store = Store(store_uri)
    deadline = time.monotonic() + wait_s
    rows = 0
    while True:
        alive = []
        for path, name in logs(local_dir, model_alias, writer):
            n_rows = _recover(store, path, name["alias"], name["segment"])
            rows += n_rows or 0
            if n_rows is None and (writer or not session or not name["segment"].startswith(f"{session}--")):
                alive.append(int(name["pid"]))
        if not alive or time.monotonic() >= deadline:
            return Recovered(rows, tuple(sorted(set(alive))))
        time.sleep(min(0.1, max(0.0, deadline - time.monotonic())))


def _recover(store: Store, path: Path, alias: str, segment: str) -> int | None:
    """Commit one log unless its process lives (None). Rows committed."""
    with orphan(path) as rows:
        if rows is None:
            return None
        stands = any(f"/seg-{segment}." in name for name in store.list(_folder(alias)))
        if rows and not stands:
            _commit(store, alias, segment, rows)
        path.unlink(missing_ok=True)
        return 0 if stands else len(rows)


@dataclass(frozen=True, slots=True)
class Spent:
    """Dollars of one model in the journal."""

    cost_usd: float = 0.0
    lost_usd: float = 0.0
    by_purpose: dict[str, float] | None = None
    """Purpose → cost_usd + lost_usd of its rows."""
    by_session: dict[str, float] | None = None
    """Session → cost_usd + lost_usd that its segments hold, duplicates included: all that was paid under its grants."""


class Journal:
    """Reads the committed segments of a run. Keeps nothing: every call looks at the store anew."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def segments(
        self, model: str, buckets: Iterable[int] | None = None, session: str = "", writer: str = ""
    ) -> list[str]:
        """A model's segments in name order: those that may hold one of `buckets`, of one session, of one writer."""
        wanted = None if buckets is None else np.unique(np.fromiter(buckets, np.int64))
        names = []
        for name in self._store.list(_folder(model)):
            parts = _SEGMENT_NAME.fullmatch(name.rsplit("/", 1)[-1])
            if parts is None or session not in ("", parts["session"]) or writer not in ("", parts["writer"]):
                continue
            if wanted is not None:
                first = np.searchsorted(wanted, int(parts["low"]))
                if first == len(wanted) or wanted[first] > int(parts["high"]):
                    continue
            names.append(name)
        return names

    def settled(self, model: str, session: str = "", writer: str = "") -> np.ndarray:
        """Sorted int64 row keys that are answered or rejected."""
        return self._keys(model, lambda kinds: pc.not_equal(kinds, "failed"), session, writer)

    def failed(self, model: str) -> np.ndarray:
        """Sorted int64 row keys that were tried and are open."""
        failed = self._keys(model, lambda kinds: pc.equal(kinds, "failed"))
        return np.setdiff1d(failed, self.settled(model), assume_unique=True) if len(failed) else failed

    def _keys(self, model: str, keep: Any, session: str = "", writer: str = "") -> np.ndarray:
        def read(name: str) -> np.ndarray:
            table = self._store.read_table(name, columns=["row_key", "kind"])
            return np.asarray(table["row_key"].filter(keep(table["kind"])).to_numpy(), dtype=np.int64)

        arrays = self._each(read, self.segments(model, session=session, writer=writer))
        return np.unique(np.concatenate(arrays)) if arrays else np.empty(0, np.int64)

    def spent(self, model: str, session: str = "", writer: str = "") -> Spent:
        """What the model cost up to now (in one session, by one writer). Memory: 40 bytes a row of the journal."""
        names = self.segments(model, session=session, writer=writer)
        columns = ["row_key", "kind", "purpose", "cost_usd", "lost_usd", "attempts", "settled_at"]
        tables = self._each(lambda name: self._store.read_table(name, columns=columns), names)
        if not tables:
            return Spent(by_purpose={}, by_session={})
        by_session: dict[str, float] = {}
        for name, table in zip(names, tables, strict=True):
            parts = _SEGMENT_NAME.fullmatch(name.rsplit("/", 1)[-1])
            assert parts is not None
            paid = (pc.sum(table["cost_usd"]).as_py() or 0.0) + (pc.sum(table["lost_usd"]).as_py() or 0.0)
            by_session[parts["session"]] = by_session.get(parts["session"], 0.0) + paid
        table = one_per_key(pa.concat_tables(tables))
        groups = table.group_by("purpose").aggregate([("cost_usd", "sum"), ("lost_usd", "sum")]).to_pylist()
        return Spent(
            cost_usd=sum(group["cost_usd_sum"] for group in groups),
            lost_usd=sum(group["lost_usd_sum"] for group in groups),
            by_purpose={group["purpose"]: group["cost_usd_sum"] + group["lost_usd_sum"] for group in groups},
            by_session=by_session,
        )

    def read(
        self, model: str, buckets: Iterable[int] | int | None = None, columns: Sequence[str] | None = None
    ) -> pa.Table:
        """One row per row_key of the given buckets (None: all), sorted by (bucket, row_key); see `one_per_key`."""
        buckets = [buckets] if isinstance(buckets, int) else None if buckets is None else list(buckets)
        wanted = list(columns or ANSWER_SCHEMA.names)
        needed = [name for name in ANSWER_SCHEMA.names if name in wanted or name in DECIDING_COLUMNS]
        mask = None if buckets is None else [("bucket", "in", buckets)]
        names = self.segments(model, buckets)
        tables = self._each(lambda name: self._store.read_table(name, columns=needed, filters=mask), names)
        empty = pa.schema([ANSWER_SCHEMA.field(name) for name in needed]).empty_table()
        table = one_per_key(
            pa.concat_tables([table.replace_schema_metadata(None) for table in tables]) if tables else empty
        )
        return table.sort_by([("bucket", "ascending"), ("row_key", "ascending")]).select(wanted)

    def _each(self, read: Any, names: list[str]) -> list[Any]:
        with ThreadPoolExecutor(_READ_THREADS) as pool:
            return list(pool.map(read, names))
