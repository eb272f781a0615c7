"""Programs that print keys: what is a key, what is none, and how seldom one is run."""

from __future__ import annotations

import asyncio
import os
import stat
import sys
import time
from pathlib import Path

import pytest

from jobs.money import governor as governing
from jobs.money import keys
from jobs.money.governor import GovernorService
from jobs.money.keys import Key, KeyCommandError, KeyKeeper, printed_key
from jobs.spec.models import Limits

SECRET = "sk-secret-0a1b2c3d"


def counting(folder: Path, body: str = "") -> tuple[str, ...]:
    """A program that prints key-1, key-2, … and counts its runs in `runs`."""
    code = f"""
import sys
with open({str(folder / "runs")!r}, "a+") as runs:
    runs.write("x")
    runs.seek(0)
    n = len(runs.read())
{body or 'print(f"key-{n}")'}
"""
    (folder / "program.py").write_text(code)
    return (sys.executable, str(folder / "program.py"))


def runs(folder: Path) -> int:
    path = folder / "runs"
    return len(path.read_text()) if path.exists() else 0


@pytest.mark.parametrize(
    "printed",
    ["sk-1234", "sk-1234\n", "\n  sk-1234  \nsecond line\n", "sk-1234\r\n", "\ufeffsk-1234\n"],
)
def test_the_first_line_is_the_key(printed: str) -> None:
    assert (
        printed_key(["printf", "%b", printed.encode("unicode_escape").decode().replace("\\ufeff", "\ufeff")])
        == "sk-1234"
    )


@pytest.mark.parametrize(
    ("command", "says"),
    [
        (["true"], "true printed nothing; make it print the key"),
        (["printf", "  \\n \\n"], "printed nothing"),
        (["printf", '{"accessToken": "%s"}', SECRET], "printed JSON or quotes"),
        (["printf", '"%s"', SECRET], "printed JSON or quotes"),
        (["printf", f"Your key is {SECRET}"], "with blanks"),
        (["printf", f"{SECRET}\\001"], "letters that no key has"),
        (["printf", f"{SECRET}é"], "letters that no key has"),
        (["sh", "-c", f"echo {SECRET}; echo {SECRET} >&2; exit 3"], "sh ended with exit code 3; run it by hand"),
        (["sh", "-c", "kill -9 $$"], "exit code -9"),
        (["yes", SECRET], "printed more than 65,536 bytes"),
        (["no-such-program-at-all", SECRET], "no-such-program-at-all cannot be run (No such file or directory)"),
        (["/etc/passwd"], "passwd cannot be run (Permission denied)"),
    ],
)
def test_what_is_no_key_is_said_without_what_was_printed(command: list[str], says: str) -> None:
    with pytest.raises(KeyCommandError) as raised:
        printed_key(command)
    assert says in str(raised.value) and SECRET not in str(raised.value) and "\n" not in str(raised.value)


def test_no_shell_reads_it_and_nobody_types_for_it(tmp_path: Path) -> None:
    assert printed_key(["echo", "$HOME;id>x|y"], str(tmp_path)) == "$HOME;id>x|y" and list(tmp_path.iterdir()) == []
    with pytest.raises(KeyCommandError, match="cat printed nothing"):
        printed_key(["cat"])
    program = tmp_path / "here"
    program.write_text("#!/bin/sh\necho sk-here\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    assert printed_key(["./here"], str(tmp_path)) == "sk-here", "run where the driver was"


@pytest.mark.parametrize("body", ["sleep 60", "sleep 60 & echo sk-1", "trap '' TERM; sleep 60; sleep 60"])
def test_a_program_that_does_not_end_is_ended_with_its_children(body: str) -> None:
    started = time.monotonic()
    with pytest.raises(KeyCommandError, match=r"sh has not ended within 0|1 s"):
        printed_key(["sh", "-c", body], timeout_s=0.5)
    assert time.monotonic() - started < 10


def test_a_key_is_not_shown(tmp_path: Path) -> None:
    assert SECRET not in repr(Key(SECRET))


def test_the_driver_runs_it_once_and_again_only_for_a_key_refused_that_is_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command, keeper = counting(tmp_path), KeyKeeper()
    assert [keeper.get(command).value for _ in range(3)] == ["key-1"] * 3 and runs(tmp_path) == 1
    assert keeper.get(command, refused="key-1").value == "key-1" and runs(tmp_path) == 1, "not within a minute"
    monkeypatch.setattr(keys, "MIN_AGE_S", 0.0)
    assert (
        keeper.get(command, refused="key-0").value == "key-1" and keeper.get(command, refused="key-1").value == "key-2"
    )


def service(folder: Path) -> GovernorService:
    return GovernorService(str(folder / "run"), "s1", None, {"a": Limits(), "b": Limits()}, str(folder / "local"))


def test_many_senders_of_two_models_make_one_run_a_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(governing, "MIN_AGE_S", 1.0)
    command = counting(tmp_path)

    async def main() -> None:
        one = service(tmp_path)
        await one.know_key(command, Key("key-0", age_s=0.0, cwd=os.getcwd()))
        begun = time.monotonic()
        first = await asyncio.gather(*(one.key("ab"[i % 2], command, "") for i in range(20)))
        assert {key.value for key in first} == {"key-0"} and runs(tmp_path) == 0, "the driver has just run it"
        second = await asyncio.gather(*(one.key("ab"[i % 2], command, "key-0") for i in range(20)))
        assert {key.value for key in second} == {"key-1"} and runs(tmp_path) == 1
        assert time.monotonic() - begun >= 0.95, "a key refused is waited for until the program may be run again"
        late = await asyncio.gather(*(one.key("a", command, "key-0") for _ in range(5)))
        assert {key.value for key in late} == {"key-1"} and runs(tmp_path) == 1, "those who have missed it"
        await asyncio.sleep(1.1)
        new = await asyncio.gather(*(one.key("a", command, "") for _ in range(5)))
        assert {key.value for key in new} == {"key-2"} and runs(tmp_path) == 2, "senders that begin, a minute later"

    asyncio.run(main())


def test_a_program_that_fails_leaves_the_key_at_hand_and_a_word(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(governing, "MIN_AGE_S", 0.3)
    command = counting(tmp_path, "sys.exit(7)")

    async def main() -> None:
        one = service(tmp_path)
        await one.know_key(command, Key("key-0", age_s=5.0))
        kept = await asyncio.gather(*(one.key("a", command, "key-0") for _ in range(20)))
        assert {key.value for key in kept} == {"key-0"} and "exit code 7" in kept[0].trouble and runs(tmp_path) == 1
        state = await one.state()
        assert "exit code 7" in state.models["a"].key_trouble and state.models["b"].key_trouble == ""
        counting(tmp_path)
        assert (await one.key("a", command, "key-0")).value == "key-2"
        assert (await one.state()).models["a"].key_trouble == "", "mended"

    asyncio.run(main())
