"""Standard output and standard error, whoever reads them: a reader that has gone is no error, nor is a letter it cannot show.

A run goes on when `| head` has seen enough; what comes after is written to nowhere.
"""

from __future__ import annotations

import os
import sys
from typing import TextIO

from rich.console import Console

from jobs.errors import plain


class Screen(Console):
    """rich's Console, which ends the program where nobody reads it."""

    def on_broken_pipe(self) -> None:
        to_nowhere(self.file)


def prepare() -> None:
    """Letters that the terminal's or the file's encoding lacks are shown as escapes. A stream that is closed leads nowhere."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115 - for as long as the program lives
        elif hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")


def put(text: str, end: str = "\n") -> None:
    """A piece of the result, on standard output."""
    _write(f"{text}{end}", sys.stdout)


def say(message: str) -> None:
    """One line on standard error, of this program's own words."""
    _write(f"headgate: {plain(message, SAID_CHARS)}\n", sys.stderr)


SAID_CHARS = 800
"""A path and a list of columns fit into it; what others say is cut before."""


def to_nowhere(stream: object) -> None:
    """What is written to this stream from now on is not kept, at the program's end neither."""
    try:
        nowhere, place = os.open(os.devnull, os.O_WRONLY), stream.fileno()  # type: ignore[attr-defined]
        os.dup2(nowhere, place)
        os.close(nowhere)
    except (OSError, ValueError, AttributeError):  # no file behind it: nothing is left to be written
        pass


def _write(text: str, stream: TextIO) -> None:
    try:
        stream.write(text)
        stream.flush()
    except BrokenPipeError:
        to_nowhere(stream)
