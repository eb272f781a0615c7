"""The command line's edge: results on standard output, everything else on standard error, one line for whatever goes wrong.

A traceback goes to a file that the line names.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from jobs.errors import EXIT_BAD_INPUT, EXIT_OPEN, ClusterDown, causes_of, find_known, one_line
from jobs.report.streams import Screen, prepare, put, say

AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]
AllowCode = Annotated[bool, typer.Option("--allow-code", help="Let the job file name Python functions to call.")]


TYPERS_INTERRUPTED = 130
"""What typer makes of a Ctrl-C, without a word."""


def finish(result: Mapping[str, Any], as_json: bool) -> None:
    """Print a run's report: the table and where report.html is, or JSON."""
    if as_json:
        print_json(result)
        return
    from jobs.report.terminal import summary_table

    show(summary_table(result))
    put(f"report: {result['output'].rstrip('/')}/report.html")


def print_json(value: Mapping[str, Any]) -> None:
    """One JSON object; what JSON cannot say (NaN) is null."""
    from jobs.report.contents import json_safe

    put(json.dumps(json_safe(value), default=str))


def show(renderable: Any) -> None:
    Screen(soft_wrap=False).print(renderable)


def main(app: typer.Typer) -> None:
    """Run a command line; whatever goes wrong is one line and an exit code."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    prepare()
    try:
        code = app(standalone_mode=False)
        if code == TYPERS_INTERRUPTED:
            raise KeyboardInterrupt
        sys.stdout.flush()
    except BaseException as error:
        if isinstance(error, SystemExit) and not isinstance(error.code, str) and find_known(error) is None:
            raise
        message, code = in_one_line(error)
        leave_at_once_on_signals()
        say(message)
    sys.exit(code)


def in_one_line(error: BaseException) -> tuple[str, int]:
    """What to say of the error that ended a command, and its exit code. The traceback of what nobody foresaw is kept in a file."""
    if isinstance(error, TyperException):
        return error.format_message(), EXIT_BAD_INPUT
    if any(isinstance(each, KeyboardInterrupt | typer.Abort) for each in causes_of(error)):
        return "stopped; what was answered is kept, run the same command to go on", EXIT_OPEN
    known = find_known(error)
    if known is None and isinstance(error, SystemExit):
        return str(error.code), 1
    if isinstance(known, ClusterDown):
        return f"{known}; {write_traceback(error)}", known.exit_code
    if known is not None:
        return str(known), known.exit_code
    return (
        f"internal error: {one_line(error)}; nothing is lost, the same command goes on; {write_traceback(error)}",
        1,
    )


def write_traceback(error: BaseException) -> str:
    """Keep the error's traceback in a file for the bug report; says where."""
    try:
        with tempfile.NamedTemporaryFile(
            "w", prefix="headgate-error-", suffix=".txt", delete=False, encoding="utf-8", errors="backslashreplace"
        ) as out:
            out.writelines(traceback.format_exception(error))
    except OSError as refused:
        return f"no details: they cannot be written ({refused.strerror})"
    return f"details: {out.name}"


def leave_at_once_on_signals() -> None:
    """From here on a second Ctrl-C ends the process without a word, whatever it is tidying up."""
    with contextlib.suppress(ValueError):  # not the main thread: signals are somebody else's
        signal.signal(signal.SIGINT, signal.SIG_DFL)


LINE_S = 2.0
"""Least time between two plain lines; the first of them comes at once."""


@contextmanager
def steps(command: str) -> Iterator[Callable[[str], None]]:
    """A function that shows what is being done now."""
    if sys.stderr.isatty():
        from rich.markup import escape

        with Screen(stderr=True).status(f"{command}: starting", spinner="line") as status:
            yield lambda text: status.update(escape(f"{command}: {text}"))
        return
    last = -LINE_S

    def line(text: str) -> None:
        nonlocal last
        if time.monotonic() - last >= LINE_S:
            say(f"{command}: {text}")
            last = time.monotonic()

    yield line
