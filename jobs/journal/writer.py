"""The journal: every settled answer, on the local disk at once and on the store within seconds. Nothing is paid twice.

`JournalWriter.append` puts one record into a log of its own process (`jobs.journal.local_log`: it survives kill -9). A thread
commits what has gathered as an immutable Parquet segment every `flush_s` seconds or `flush_rows` rows, then removes the
log. The segment's name is made from the log's, so a crash between the two repeats no row: whoever finds the log sees
that its segment stands. `recover_orphans` commits the logs of dead processes.

`jobs.journal.reader.Journal` reads; `jobs.journal.compaction` makes few files of many segments when a run starts.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jobs.errors import StoreError
from jobs.journal.local_log import LocalLog
from jobs.journal.rows import Answer, answers_table, clean
from jobs.journal.segments import folder_of, segment_name
from jobs.storage.store import Store


@dataclass(frozen=True, slots=True)
class Sender:
    """One life of one actor."""

    unique: str
    """JournalWriter.unique: new with every start of the actor, part of its segments' names."""
    node_id: str
    pid: int


_COMMIT_ATTEMPTS = 4


def commit_segment(store: Store, alias: str, segment: str, rows: Sequence[Answer]) -> None:
    """Write one log's rows as its segment. Raises StoreError."""
    store.write_table(segment_name(alias, segment, [row.bucket for row in rows]), answers_table(rows))


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
        """Settle one row; it is in the local log on return, or, where none can be opened, in memory and on its way to the store.

        Gives its number, for `wait`.
        """
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
                if self._log.fd is None:  # in memory alone: to the store at once, and on
                    self._wanted = number
                    self._lock.notify_all()
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
                commit_segment(self._store, self._alias, sealed.segment, sealed.rows)
            except StoreError as refused:
                error = refused
            except Exception as failed:  # noqa: BLE001 - a thread has nobody above it: the next append raises this
                error = StoreError(f"{folder_of(self._alias)}: segment not written: {type(failed).__name__}: {failed}")
                break
            else:
                sealed.remove()
                return None
            if attempt < _COMMIT_ATTEMPTS - 1:
                time.sleep(0.5 * 2**attempt)
        sealed.release()
        return error
