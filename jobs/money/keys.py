"""Keys that a program of the user's prints, for providers whose keys expire within a run.

The program is an argument list: no shell reads it. One process at a time runs it: the driver, before the run; then the governor,
which is told what the driver has, and whom all senders ask. It runs when there is no key yet, when the provider has refused the
one at hand, and when a new sender finds it older than MIN_AGE_S; never twice within MIN_AGE_S. Where it fails the old key stays.
A key is in the memory of those who send it, and in the calls between them: in no log, file, error, or argument of an actor.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from jobs.errors import LaneDown

MIN_AGE_S = 60.0
TIMEOUT_S = 30.0
MAX_BYTES = 2**16
Command = tuple[str, ...]


class KeyCommandError(LaneDown):
    """The program gave no key. The message holds nothing that it printed, and none of its arguments."""


@dataclass(frozen=True, slots=True)
class Key:
    """A key and its history."""

    value: str = field(default="", repr=False)
    """"" while there has been none."""
    age_s: float = 0.0
    """Since the program was run last, with or without success."""
    trouble: str = ""
    """Why the last run of the program gave none."""
    cwd: str = ""
    """Where it is run: the driver's folder."""


class KeyKeeper:
    """The keys of this process, by command. Not for several threads at once: `lock` is for those who are."""

    def __init__(self) -> None:
        self._keys: dict[Command, Key] = {}
        self._ran: dict[Command, float] = {}
        self.lock = threading.Lock()

    def held(self, command: Command) -> Key | None:
        """What is known, as old as it is now."""
        key = self._keys.get(command)
        return key and Key(key.value, time.monotonic() - self._ran[command], key.trouble, key.cwd)

    def take(self, command: Command, key: Key) -> None:
        """What another process has; nothing where this one has something."""
        if command not in self._keys:
            self._keys[command], self._ran[command] = key, time.monotonic() - key.age_s

    def run(self, command: Command) -> Key:
        """Run the program now. Where it fails the old key stays, with the reason."""
        old = self._keys.get(command) or Key(cwd=os.getcwd())
        try:
            new = Key(printed_key(command, old.cwd), cwd=old.cwd)
        except KeyCommandError as error:
            new = Key(old.value, trouble=str(error), cwd=old.cwd)
        self._keys[command], self._ran[command] = new, time.monotonic()
        return new

    def get(self, command: Command, refused: str = "") -> Key:
        """The key at hand; a new one where there is none, or where it is the `refused` one and old enough."""
        key = self.held(command)
        wanted = key is None or (bool(refused) and key.value == refused and key.age_s >= MIN_AGE_S)
        return self.run(command) if key is None or wanted else key


HERE = KeyKeeper()
"""The driver's: for the checks before a run, and what the governor is told."""


def printed_key(command: Sequence[str], cwd: str = "", timeout_s: float = TIMEOUT_S) -> str:
    """What the program prints on its first line. Raises KeyCommandError."""
    name = Path(command[0]).name
    try:
        process = subprocess.Popen(
            command, cwd=cwd if os.path.isdir(cwd) else None, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip
    except (OSError, ValueError) as error:
        raise KeyCommandError(
            f"{name} cannot be run ({getattr(error, 'strerror', None) or type(error).__name__})"
        ) from None
    late = threading.Event()

    def end() -> None:
        late.set()
        _kill(process)

    timer = threading.Timer(timeout_s, end)
    timer.start()
    try:
        with process:
            assert process.stdout is not None
            printed = process.stdout.read(MAX_BYTES + 1)
            if len(printed) > MAX_BYTES:
                _kill(process)
            code = process.wait()
    finally:
        timer.cancel()
        _kill(process)  # what it has left behind
    if late.is_set():
        raise KeyCommandError(f"{name} has not ended within {timeout_s:.0f} s")
    if len(printed) > MAX_BYTES:
        raise KeyCommandError(f"{name} printed more than {MAX_BYTES:,} bytes; make it print the key alone")
    if code:
        raise KeyCommandError(f"{name} ended with exit code {code}; run it by hand to see why")
    return _first_line(printed, name)


def _first_line(printed: bytes, name: str) -> str:
    lines = printed.decode("utf-8", "replace").removeprefix("\ufeff").strip().splitlines()
    key = lines[0].strip() if lines else ""
    if not key:
        raise KeyCommandError(f"{name} printed nothing; make it print the key")
    if key[0] in "{[\"'<":
        raise KeyCommandError(
            f"{name} printed JSON or quotes; make it print the key alone (az: --query accessToken -o tsv)"
        )
    if not all("!" <= char <= "~" for char in key):
        raise KeyCommandError(
            f"{name} printed a first line with blanks or letters that no key has; make it print the key alone"
        )
    return key


def _kill(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(OSError):
        os.killpg(process.pid, signal.SIGKILL)
