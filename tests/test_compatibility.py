"""docs/compatibility.md says what is read, from whom, and what is refused; each line is kept true by a test that it names."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "compatibility.md"
NAMED = re.compile(r"`(tests/[\w/]+\.py)::(\w+)`")


def tables() -> list[tuple[int, list[str]]]:
    """Number of the first line of each table, and its lines with the one before it that is not empty."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    found: list[tuple[int, list[str]]] = []
    for at, line in enumerate(lines):
        if line.startswith("|") and not lines[at - 1].startswith("|"):
            found.append((at + 1, [lines[at - 2]]))
        if line.startswith("|"):
            found[-1][1].append(line)
    return found


def named_tests() -> list[tuple[str, str]]:
    return sorted(set(NAMED.findall(PAGE.read_text(encoding="utf-8"))))


def test_every_line_names_its_test() -> None:
    """Or the sentence above the table does, for all of its lines."""
    without = [
        f"line {first + at}: {line[:80]}"
        for first, (above, _, _, *rows) in tables()
        for at, line in enumerate(rows, 2)
        if not NAMED.search(above) and not NAMED.search(line)
    ]
    assert tables() and not without, "\n".join(without)


@pytest.mark.parametrize(("path", "name"), named_tests())
def test_the_test_is_there(path: str, name: str) -> None:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    functions = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}
    assert name in functions
