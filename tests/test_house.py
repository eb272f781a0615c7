"""The house stays one that a newcomer finds his way in: sizes of rooms and functions, records, and what a folder says of itself.

Read from the source as text and syntax trees, without importing it. Which folder may use which is import-linter's
(`lint-imports` in `make check`).
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PRODUCT = ("jobs", "routing")
MEASURED = (*PRODUCT, "benchmarks")
MOST_ENTRIES = {"jobs": 13, "routing": 10}
MOST_FILES, FEWEST_FILES = 13, 3
FILE_LINES, FUNCTION_LINES, PARAMETERS, BY_PLACE = 350, 60, 8, 6
MOST_LOOSE = 100
"""Times `dict[str, Any]` may stand in the product: JSON at its border."""
REGISTRIES = ("jobs/lanes/__init__.py", "routing/routers/__init__.py")
"""The folders whose `__init__` is code: each hands out what lies in it by name."""
BESIDE_THE_MIRROR = {"system", "chaos", "browser", "benchmarks", "toy_engine"}


def files(*tops: str) -> list[Path]:
    return [path for top in tops for path in sorted((ROOT / top).rglob("*.py")) if "toy_engine" not in path.parts]


def folders() -> list[Path]:
    """Every package of the product, the two tops included."""
    return sorted({path.parent for path in files(*PRODUCT)})


def entries(folder: Path) -> list[str]:
    """Its files and packages, but `__init__.py`."""
    packages = [path.name for path in folder.iterdir() if path.is_dir() and (path / "__init__.py").exists()]
    return sorted(packages + [path.name for path in folder.glob("*.py") if path.name != "__init__.py"])


def named(path: Path, node: ast.AST | None = None) -> str:
    line = f":{node.lineno}" if node is not None else ""  # type: ignore[attr-defined]
    return f"{path.relative_to(ROOT)}{line}"


def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def functions(path: Path) -> Iterator[tuple[ast.FunctionDef | ast.AsyncFunctionDef, str]]:
    """Each function with the class it is a method of, "" outside of one."""
    for node in ast.walk(tree(path)):
        for child in ast.iter_child_nodes(node):
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                yield child, node.name if isinstance(node, ast.ClassDef) else ""


def is_command(function: ast.FunctionDef | ast.AsyncFunctionDef) -> bool:
    """A typer command: its parameters are its options, and most of its lines say what they are."""
    return any(ast.unparse(each).startswith("app.command") for each in function.decorator_list)


def none_of(offenders: list[str], what: str) -> None:
    assert not offenders, what + ":\n" + "\n".join(offenders)


@pytest.mark.parametrize("top", PRODUCT)
def test_the_top_is_read_at_a_glance(top: str) -> None:
    found = entries(ROOT / top)
    assert len(found) <= MOST_ENTRIES[top], f"{top}/ has {len(found)} entries: {', '.join(found)}"


def test_a_folder_is_a_room_and_no_hall() -> None:
    sizes = {folder: len(entries(folder)) for folder in folders() if folder.name not in PRODUCT}
    off = [f"{named(folder)}: {n}" for folder, n in sizes.items() if not FEWEST_FILES <= n <= MOST_FILES]
    none_of(off, f"folders with fewer than {FEWEST_FILES} or more than {MOST_FILES} entries")


def test_no_file_is_too_long() -> None:
    lengths = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in files(*MEASURED, "tests")}
    none_of([f"{named(p)}: {n} lines" for p, n in lengths.items() if n > FILE_LINES], f"files over {FILE_LINES} lines")


def measured_functions() -> Iterator[tuple[str, Path, ast.FunctionDef | ast.AsyncFunctionDef]]:
    """Each function that limits hold for, with its place and name."""
    for path in files(*MEASURED):
        for function, of_class in functions(path):
            if not is_command(function):
                yield f"{named(path, function)} {of_class and of_class + '.'}{function.name}", path, function


def test_no_function_is_too_long() -> None:
    long = []
    for where, _, function in measured_functions():
        lines = (function.end_lineno or function.lineno) - function.lineno + 1
        if lines > FUNCTION_LINES:
            long.append(f"{where}: {lines} lines")
    none_of(long, f"functions over {FUNCTION_LINES} lines")


def test_no_function_takes_too_much() -> None:
    wide = []
    for where, path, function in measured_functions():
        arguments = function.args.posonlyargs + function.args.args + function.args.kwonlyargs
        n = len(arguments) - (bool(arguments) and arguments[0].arg in ("self", "cls"))
        # An estimator's hyperparameters are its constructor's, as in scikit-learn.
        estimator = function.name == "__init__" and path.is_relative_to(ROOT / "routing" / "routers")
        if n > PARAMETERS and not estimator:
            wide.append(f"{where}: {n} parameters")
    none_of(wide, f"functions with more than {PARAMETERS} parameters")


def test_no_call_is_a_row_of_places() -> None:
    off = []
    for path in files(*MEASURED):
        for node in ast.walk(tree(path)):
            if isinstance(node, ast.Call):
                n = sum(not isinstance(each, ast.Starred) for each in node.args)
                if n > BY_PLACE:
                    off.append(f"{named(path, node)} {ast.unparse(node.func)}: {n}")
    none_of(off, f"calls with more than {BY_PLACE} arguments by place: use names, or a record")


def test_records_end_at_the_border() -> None:
    counts = {path: path.read_text(encoding="utf-8").count("dict[str, Any]") for path in files(*PRODUCT)}
    most = sorted(counts.items(), key=lambda item: -item[1])[:10]
    assert sum(counts.values()) <= MOST_LOOSE, f"{sum(counts.values())} times dict[str, Any]; most in " + ", ".join(
        f"{named(path)} ({n})" for path, n in most
    )


def test_a_folder_says_what_it_is_for() -> None:
    silent = []
    for path in (folder / "__init__.py" for folder in folders()):
        said = (ast.get_docstring(tree(path)) or "") if path.exists() else "no such file"
        if len(said.split()) < 20 or "import" not in said:
            silent.append(f"{named(path)}: {said[:80]!r}")
    none_of(silent, "packages whose __init__ does not say their concern and what they must not import")


def test_a_folder_hands_on_nothing() -> None:
    busy = []
    for path in files(*PRODUCT):
        if path.name == "__init__.py" and named(path) not in REGISTRIES:
            busy += [f"{named(path, node)} {ast.unparse(node)[:80]}" for node in tree(path).body[1:]]
    none_of(busy, "packages whose __init__ is code")


def test_a_file_says_what_it_is_for() -> None:
    heads = {path: (ast.get_docstring(tree(path)) or "") for path in files(*MEASURED)}
    bare = [named(path) for path, head in heads.items() if len(head.split()) < 4 or "carried here" in head]
    none_of(bare, "files without a head")


def test_tests_mirror_the_folders() -> None:
    off = []
    for folder in sorted({path.parent for path in files("tests")}):
        parts = folder.relative_to(ROOT / "tests").parts
        if parts and parts[0] not in BESIDE_THE_MIRROR and not (ROOT.joinpath(*parts) / "__init__.py").exists():
            off.append(named(folder))
    none_of(off, "folders of tests that the product does not have")


def test_one_place_knows_where_the_shared_data_are() -> None:
    off = [
        named(path)
        for path in files("tests")
        if '"shared"' in path.read_text(encoding="utf-8") and path.name not in ("shared_files.py", "test_house.py")
    ]
    none_of(off, "files that look for ../shared by themselves, and not through tests/shared_files.py")
