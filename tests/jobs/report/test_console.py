"""A command's edge as a program of its own: readers that leave, encodings without our letters, signals, full disks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
HEAD = """
import errno, os, sys, time
import typer
from jobs.report import console
from jobs.report.streams import put, say
app = typer.Typer()
@app.command()
def main() -> None:
"""


def program(body: str) -> list[str]:
    return [sys.executable, "-c", HEAD + textwrap.indent(textwrap.dedent(body), "    ") + "\nconsole.main(app)\n"]


def ended(body: str, shell: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """What came of a command with this body. `shell`: what stands behind it on a shell's line."""
    code = program(body)
    return subprocess.run(
        ["bash", "-c", f'set -o pipefail; "$@" {shell}', "bash", *code],
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment, capture_output=True, timeout=60,
        text=True, encoding=environment.get("PYTHONIOENCODING"),
    )  # fmt: skip


def check_line(stderr: str) -> str:
    lines = stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith("headgate: ") and lines[0].isprintable(), stderr
    return lines[0]


MANY = "for i in range(20000):\n    put(f'row {i}')\n"


def test_a_reader_that_has_seen_enough_ends_nothing() -> None:
    done = ended(MANY + "say('done')\nraise typer.Exit(3)", "| head -1")
    assert (done.returncode, done.stdout, done.stderr) == (3, "row 0\n", "headgate: done\n")
    done = ended(
        "for i in range(20000):\n    say(f'line {i}')\nput('result')",
        "2>&1 >/tmp/result-$$ | head -1; cat /tmp/result-$$; rm /tmp/result-$$",
    )
    assert (done.stdout, done.stderr) == ("headgate: line 0\nresult\n", "")


def test_tables_and_progress_lines_too() -> None:
    table = "from rich.table import Table\nfor _ in range(3000):\n    t = Table('a')\n    t.add_row('b')\n    console.show(t)\n"
    done = ended(table + "say('done')", "| head -1")
    assert (done.returncode, done.stderr) == (0, "headgate: done\n")
    progress = """
    from jobs.report.progress import Progress
    with Progress(0, ["a"], live=False, interval_s=0.0) as shown:
        for number in range(3000):
            shown.enter("score", number)
    put("result")
    """
    done = ended(progress, "2>&1 >/dev/null | head -1")
    assert done.returncode == 0 and done.stdout.startswith("headgate: score"), done


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_letters_that_the_encoding_lacks_are_escaped(encoding: str) -> None:
    body = """
    from rich.table import Table
    table = Table("naïve → 漢字")
    console.show(table)
    put("漢字 \\udcff")
    say("漢字")
    raise ValueError("漢字")
    """
    done = ended(body, PYTHONIOENCODING=encoding)
    assert (
        done.returncode == 1
        and "Traceback" not in done.stderr
        and "\\u6f22" in done.stdout
        and "\\u6f22" in done.stderr
    )
    assert len(done.stderr.splitlines()) == 2


def test_a_closed_stream_is_nobody() -> None:
    done = ended("put('x')\nconsole.show('y')\nsay('z')", ">&-")
    assert (done.returncode, done.stderr) == (0, "headgate: z\n")
    done = ended("put('x')\nsay('z')\nraise ValueError('q')", "2>&-")
    assert (done.returncode, done.stdout, done.stderr) == (1, "x\n", "")


def test_a_full_disk_behind_standard_output_is_said() -> None:
    done = ended(MANY, ">/dev/full")
    assert done.returncode == 3 and "no space left on the device" in check_line(done.stderr)


@pytest.mark.parametrize(
    ("raises", "code", "says"),
    [
        ("raise ValueError('a\\nb\\x1b[31mc')", 1, "internal error: ValueError: a bc; nothing is lost"),
        ("raise RecursionError", 1, "RecursionError"),
        ("raise MemoryError", 3, "out of memory"),
        ("raise OSError(errno.ENOSPC, 'No space left on device', '/data/x')", 3, "(/data/x)"),
        ("raise KeyboardInterrupt", 3, "stopped"),
        ("try:\n    raise KeyboardInterrupt\nfinally:\n    1 / 0", 3, "stopped"),
        ("sys.exit('two\\nlines')", 1, "two lines"),
        ("raise ExceptionGroup('several', [ValueError('a'), KeyError('b')])", 1, "ExceptionGroup: several"),
        ("open('/nowhere/at/all')", 1, "FileNotFoundError"),
        ("import pyarrow as pa\npa.table({'a': [1]}).column('b')", 1, "KeyError"),
        ("from pydantic import TypeAdapter\nTypeAdapter(int).validate_python('x')", 1, "validation error"),
        ("import botocore.exceptions as b\nraise b.ClientError({'Error': {'Code': 'Slow'}}, 'Put')", 1, "ClientError: An"),
    ],
)  # fmt: skip
def test_whatever_ends_a_command_is_one_line(tmp_path: Path, raises: str, code: int, says: str) -> None:
    done = ended(raises, TMPDIR=str(tmp_path))
    line = check_line(done.stderr)
    assert (done.returncode, done.stdout) == (code, "") and says in line
    assert len(line.partition("details: ")[0]) <= 420
    if "details: " in line:
        assert "Traceback" in Path(line.rpartition("details: ")[2]).read_text()


def test_an_exit_code_alone_is_said_by_nobody() -> None:
    done = ended("sys.exit(7)")
    assert (done.returncode, done.stdout, done.stderr) == (7, "", "")


def test_details_that_cannot_be_kept_are_no_second_error() -> None:
    done = ended("import tempfile\ntempfile.tempdir = '/nowhere'\nraise ValueError('x')")
    assert done.returncode == 1 and "no details: they cannot be written" in check_line(done.stderr)


def test_json_that_fails_leaves_standard_output_empty() -> None:
    done = ended("console.print_json({'a': float('nan'), 'b': '\\udcff漢'})", PYTHONIOENCODING="ascii")
    assert done.returncode == 0 and json.loads(done.stdout)["a"] is None
    done = ended("raise ValueError('x')")
    assert done.stdout == ""


def test_a_second_ctrl_c_while_tidying_up_ends_without_a_word() -> None:
    body = """
    import atexit, signal
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a runner in the background has it ignored
    atexit.register(time.sleep, 30)
    put("up", end="")
    sys.stdout.flush()
    time.sleep(30)
    """
    running = subprocess.Popen(
        program(body),
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert running.stdout is not None and running.stderr is not None
    assert running.stdout.read(2) == "up"
    running.send_signal(signal.SIGINT)
    assert "stopped" in running.stderr.readline()
    running.send_signal(signal.SIGINT)
    assert running.wait(10) == -signal.SIGINT and running.stderr.read() == ""
    running.stdout.close()
    running.stderr.close()
