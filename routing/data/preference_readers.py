"""Reading battles: own Parquet, JSON lines, Chatbot Arena. In memory, O(n)."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem

from routing.data.preferences import Preferences, concat
from routing.errors import RoutingError

PARQUET, JSON_LINES, JSON = (".parquet",), (".jsonl", ".ndjson"), (".json",)
NEEDED = ("model_a", "model_b", "winner")
PROMPTS = ("prompt", "turns", "conversation_a")
"""Columns a prompt is taken from, the first one present: text, a list of user turns, a list of chat messages."""
WINNERS = {"a": 1.0, "model_a": 1.0, "b": 0.0, "model_b": 0.0, "tie": 0.5, "tie (bothbad)": 0.5}


def read_preferences(path: str | Path, filesystem: FileSystem | None = None) -> Preferences:
    """Read a file (.parquet, .jsonl, .json), or a folder of files of one kind.

    Columns: `prompt` (or `turns` / `conversation_a`, whose first user turn is taken, as RouteLLM does), `model_a`,
    `model_b`, `winner`: a, b or tie; model_a, model_b, tie or tie (bothbad), as the arena writes them; or 1, 0.5, 0.
    Optional `dataset` (default: the file's stem). Raises RoutingError for a missing or unreadable file, missing
    columns, no rows, an unknown winner, or a model against itself.
    """
    fs = filesystem or LocalFileSystem()
    try:
        return concat([_read_file(file, fs) for file in _files(str(path), fs)])
    except OSError as error:
        raise RoutingError(f"preferences {path}: not readable ({error})") from error


def _files(path: str, fs: FileSystem) -> list[str]:
    info = fs.get_file_info(path)
    if info.type == FileType.NotFound:
        raise RoutingError(f"preferences {path}: no such file or folder")
    if info.type == FileType.File:
        return [path]
    found = sorted(item.path for item in fs.get_file_info(FileSelector(path)) if item.type == FileType.File)
    shown = [file for file in found if not PurePosixPath(file).name.startswith((".", "_"))]
    by_kind = [[f for f in shown if f.lower().endswith(kind)] for kind in (PARQUET, JSON_LINES, JSON)]
    kinds = [files for files in by_kind if files]
    if len(kinds) != 1:
        what = "several kinds of files are mixed in it" if kinds else "no .parquet, .jsonl or .json file in it"
        raise RoutingError(f"preferences {path}: {what}; name one file, or a folder of files of one kind")
    return kinds[0]


def _read_file(path: str, fs: FileSystem) -> Preferences:
    try:
        if path.lower().endswith(PARQUET):
            rows: list[Mapping[str, Any]] = pq.ParquetFile(fs.open_input_file(path)).read().to_pylist()
        elif path.lower().endswith((*JSON_LINES, *JSON)):
            rows = list(_json_rows(path, fs))
        else:
            raise RoutingError("unknown kind of file; .parquet, .jsonl and .json are read")
        return _preferences(rows, PurePosixPath(path).stem)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, UnicodeDecodeError) as error:
        raise RoutingError(f"preferences {path}: not readable ({str(error).splitlines()[0]})") from error
    except RoutingError as error:
        raise RoutingError(f"preferences {path}: {error}") from error


def _json_rows(path: str, fs: FileSystem) -> Iterable[Mapping[str, Any]]:
    with fs.open_input_stream(path) as stream:
        text = stream.read().decode()
    # RouteLLM keeps battles as one JSON array, the arena as lines; str.splitlines would break at U+2028 in a prompt.
    parts = [text] if path.lower().endswith(JSON) else text.split("\n")
    for number, part in enumerate(parts, 1):
        if not part.strip():
            continue
        try:
            value = json.loads(part)
        except ValueError:
            raise RoutingError(f"line {number} is not JSON") from None
        for row in value if isinstance(value, list) else [value]:
            if not isinstance(row, dict):
                raise RoutingError(f"line {number} is not a JSON object")
            yield row


def _preferences(rows: list[Mapping[str, Any]], stem: str) -> Preferences:
    if not rows:
        raise RoutingError("no rows")
    source = next((name for name in PROMPTS if name in rows[0]), None)
    missing = [name for name in NEEDED if name not in rows[0]] + ([] if source else ["prompt"])
    if missing or source is None:
        raise RoutingError(f"no column {missing[0]!r}; the table has {', '.join(list(rows[0])[:8])}")
    winners, texts = [], []
    for number, row in enumerate(rows):
        a, b, dataset = row.get("model_a"), row.get("model_b"), row.get("dataset", stem)
        if not (isinstance(a, str) and isinstance(b, str) and isinstance(dataset, str)) or not a or not b:
            raise RoutingError(f"model_a, model_b or dataset is not a name in row {number}; fill it")
        if a == b:
            raise RoutingError(f"model_a and model_b are both {a!r} in row {number}; leave such rows out")
        texts.append((_prompt(row.get(source), number), a, b, dataset))
        winners.append(_winner(row.get("winner"), number))
    prompts, model_a, model_b, datasets = (list(column) for column in zip(*texts, strict=True))
    return Preferences(prompts, model_a, model_b, np.array(winners), datasets)


def _winner(value: object, number: int) -> float:
    if isinstance(value, str) and value.strip().lower() in WINNERS:
        return WINNERS[value.strip().lower()]
    try:
        share = float(value) if isinstance(value, (int, float, str)) else -1.0
    except ValueError:
        share = -1.0
    if not 0 <= share <= 1:
        raise RoutingError(f"winner is {value!r} in row {number}; it must be a, b or tie, or a number of 0 to 1")
    return share


def _prompt(value: object, number: int) -> str:
    """The text itself, or the first turn of a list: a battle over several turns is routed by what came first."""
    first = value[0] if isinstance(value, list) and value else value
    if isinstance(first, dict):
        first = first.get("content")
    if not isinstance(first, str):
        raise RoutingError(f"the prompt is no text in row {number}; fill it, or leave such rows out")
    return first
