"""The local append-only log: where an answer is before it is on the store. Survives kill -9 of its process.

A record is length, crc and JSON, written by one `write` to a file opened for appending; no fsync, so a power cut may
take the last of them. A log is held by an flock as long as its process lives: the kernel drops it however the process
ends, and a recoverer that gets the lock knows that the owner is dead and that nobody else recovers.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import re
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from weakref import WeakSet

import psutil

from jobs.journal.rows import FIELDS, Answer
from jobs.storage.private_folder import private_folder

_FRAME = struct.Struct("<II")
_LOG_NAME = re.compile(r"(?P<alias>.+)--(?P<segment>.+--[0-9a-f]{12}--\d{6})--(?P<pid>\d+)-(?P<started>\d+)\.log")
_KEY_AT = FIELDS.index("answer_key")


def local_dir(output_uri: str) -> str:
    """Folder of a run's local logs: the same on every node, per user, private (0700), made if needed."""
    return str(private_folder(hashlib.blake2b(output_uri.rstrip("/").encode(), digest_size=10).hexdigest()))


class LocalLog:
    """One append-only log file, locked while its process lives. Its rows become exactly one segment.

    Where no file can be opened (no descriptor left, no inode, no such folder) the rows are in memory alone.
    """

    def __init__(self, folder: str, alias: str, segment: str) -> None:
        self.segment = segment
        self.rows: list[Answer] = []
        self.size = 0
        self.fd: int | None = None
        try:
            process = psutil.Process()
            self.path = Path(folder) / f"{alias}--{segment}--{process.pid}-{int(process.create_time() * 1000)}.log"
            self.fd = _open_locked(self.path)
        except (OSError, psutil.Error):
            return
        _OPEN_LOGS.add(self)

    def append(self, answer: Answer) -> None:
        """Raises OSError where the disk refuses; the row is in memory then, and part of the segment all the same."""
        self.rows.append(answer)
        if self.fd is None:
            return
        record = encode(answer)
        written = 0
        try:
            written = os.write(self.fd, record)
        finally:
            if written == len(record):
                self.size += written
            else:  # a half-written record would hide all that follow it
                os.ftruncate(self.fd, self.size)
        if written != len(record):
            raise OSError(f"{self.path.parent}: no space left for the local log")

    def remove(self) -> None:
        if self.fd is not None:
            self.path.unlink(missing_ok=True)
        self.release()

    def release(self) -> None:
        if self.fd is not None:
            _OPEN_LOGS.discard(self)
            os.close(self.fd)


def _open_locked(path: Path) -> int:
    while True:
        fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            if os.fstat(fd).st_nlink:  # else a recoverer met the file before it was locked, and took it away
                return fd
        except OSError:
            os.close(fd)
            raise
        os.close(fd)


_OPEN_LOGS: WeakSet[LocalLog] = WeakSet()


def _close_in_child() -> None:
    """A forked child would keep the parent's locks alive after it."""
    for log in list(_OPEN_LOGS):
        with contextlib.suppress(OSError):
            log.release()


os.register_at_fork(after_in_child=_close_in_child)


def encode(answer: Answer) -> bytes:
    values = [getattr(answer, name) for name in FIELDS]
    values[_KEY_AT] = answer.answer_key.hex()
    payload = json.dumps(values, separators=(",", ":")).encode("ascii")
    return _FRAME.pack(len(payload), zlib.crc32(payload)) + payload


def decode(data: bytes) -> Iterator[Answer]:
    """Records up to the first torn one, which can only be the last: what was cut off was never settled."""
    place = 0
    while place + _FRAME.size <= len(data):
        length, crc = _FRAME.unpack_from(data, place)
        place += _FRAME.size
        payload = data[place : place + length]
        place += length
        if len(payload) < length or zlib.crc32(payload) != crc:
            return
        values = json.loads(payload)
        values[_KEY_AT] = bytes.fromhex(values[_KEY_AT])
        yield Answer(
            **dict(zip(FIELDS, values, strict=False))
        )  # an earlier version's record ends before the newest fields


def logs(folder: str, alias: str | None = None, writer: str = "") -> Iterator[tuple[Path, re.Match[str]]]:
    """Local logs of a model (None: of all), of one writer where given: (path, groups alias, segment, pid, started)."""
    for path in sorted(Path(folder).glob("*.log")):
        name = _LOG_NAME.fullmatch(path.name)
        if name and alias in (None, name["alias"]) and (not writer or f"--{writer}--" in path.name):
            yield path, name


@contextlib.contextmanager
def orphan(path: Path) -> Iterator[list[Answer] | None]:
    """Hold a dead process's log: its rows; [] where it is gone already; None where its process lives."""
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        yield []
        return
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        if not os.fstat(fd).st_nlink:  # another recoverer was here
            yield []
            return
        with open(fd, "rb", closefd=False) as file:
            rows = list(decode(file.read()))
        yield rows
    finally:
        os.close(fd)
