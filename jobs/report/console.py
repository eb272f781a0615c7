"""The command line's edge: results on standard output, everything else on standard error, one line for whatever goes wrong.

A traceback goes to a file that the line names.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from jobs.errors import EXIT_BAD_INPUT, EXIT_OPEN, find_known

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]
AllowCode = Annotated[bool, typer.Option("--allow-code", help="Let the job file name Python functions to call.")]


def finish(result: Mapping[str, Any], as_json: bool) -> None:
    """Print a run's report: the table and where report.html is, or JSON."""
    if as_json:
        print_json(result)
        return
    from jobs.report.terminal import summary_table

    show(summary_table(result))
    print(f"report: {result['output'].rstrip('/')}/report.html")


def print_json(value: Mapping[str, Any]) -> None:
    """One JSON object; what JSON cannot say (NaN) is null."""
    from jobs.report.contents import json_safe

    print(json.dumps(json_safe(value), default=str))


def show(renderable: Any) -> None:
    from rich.console import Console

    Console(soft_wrap=False).print(renderable)


def main(app: typer.Typer) -> None:
    """Run a command line; whatever goes wrong is one line and an exit code."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        sys.exit(app(standalone_mode=False))
    except TyperException as usage:
        fail(usage.format_message(), EXIT_BAD_INPUT)
    except (KeyboardInterrupt, typer.Abort):
        fail("stopped; what was answered is kept, run the same command to go on", EXIT_OPEN)
    except BaseException as error:
        known = find_known(error)
        if known is not None:
            fail(str(known), known.exit_code)
        if isinstance(error, SystemExit):
            raise
        fail(
            f"internal error: {type(error).__name__}; nothing is lost, the same command goes on; details: {write_traceback()}",
            1,
        )


def write_traceback() -> Path:
    """Keep the traceback of the error at hand in a file for the bug report."""
    with tempfile.NamedTemporaryFile("w", prefix="headgate-error-", suffix=".txt", delete=False) as out:
        traceback.print_exc(file=out)
    return Path(out.name)


def fail(message: str, code: int) -> None:
    """One line on standard error, then exit."""
    print(f"headgate: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


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
