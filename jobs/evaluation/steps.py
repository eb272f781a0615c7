"""Progress of `train` and `evaluate` on standard error: one line in place on a terminal, plain lines in a log."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LINE_S = 2.0
"""Least time between two plain lines; the first of them comes at once."""


@contextmanager
def steps(command: str) -> Iterator[Callable[[str], None]]:
    """A function that shows what is being done now."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.markup import escape

        with Console(stderr=True).status(f"{command}: starting", spinner="line") as status:
            yield lambda text: status.update(escape(f"{command}: {text}"))
        return
    last = -LINE_S

    def line(text: str) -> None:
        nonlocal last
        if time.monotonic() - last >= LINE_S:
            print(f"headgate: {command}: {text}", file=sys.stderr, flush=True)
            last = time.monotonic()

    yield line
