"""Reading outcomes: own wide Parquet, RouterBench, RouteLLM; the JSON forms are in `outcome_json`.

Every file becomes an Arrow table (a CSV one of text columns, so that no number is guessed into a prompt), its columns
tell the format, and one function per format makes `Outcomes` of it. All in memory: RouterBench's 36,497 rows take
seconds. Legend: n rows, m models.
"""

from __future__ import annotations

import ast
import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow.fs import FileSelector, FileSystem, FileType, LocalFileSystem

from routing.data.outcome_json import read_contaminated, read_json
from routing.data.outcomes import NUMBERS, OPTIONAL, Outcomes, concat
from routing.data.pandas_pickle import load_table
from routing.errors import RoutingError

PARQUET, CSV, PICKLE, JSON = (".parquet",), (".csv",), (".pkl", ".pickle"), (".json", ".jsonl")


def read_outcomes(
    path: str | Path, filesystem: FileSystem | None = None, *, drop_contaminated: bool = False
) -> Outcomes:
    """Read a file, or a folder of files of one format; the columns say which format.

    Own wide Parquet: `id, prompt, dataset`, `<model>|quality` and optional `<model>|cost_usd` and so on. RouterBench
    (CSV, Parquet, or a pickled pandas table read without executing it): `sample_id, prompt, eval_name, <model>`,
    `<model>|model_response`, `<model>|total_cost`; its prompts are joined from stringified lists and its split
    duplicates merged. RouteLLM (CSV): `prompt` and a true/false column per model, optionally `<model>_response`;
    dataset = file stem. MT-Bench judgements (`.jsonl`, quality = score / 10) and LLMRouter's score lists (`.json`): see
    `routing.data.outcome_json`. `filesystem` is where `path` lies (default: local). `drop_contaminated` leaves out the
    `eval_prompt`s listed in `contaminated_prompts.jsonl` beside the files, as RouteLLM's evaluation does. Raises
    RoutingError for a missing or unreadable file, missing or repeated columns, no rows, or quality outside 0..1.
    """
    fs = filesystem or LocalFileSystem()
    try:
        files = _files(str(path), fs)
        read = [_read_file(file, fs) for file in files]
        outcomes = concat([table for _, table in read])
        if drop_contaminated:
            barred = read_contaminated(str(PurePosixPath(files[0]).parent / "contaminated_prompts.jsonl"), fs)
            outcomes = outcomes.select(np.array([prompt not in barred for prompt in outcomes.prompts], np.bool_))
    except OSError as error:
        raise RoutingError(f"outcomes {path}: not readable ({error})") from error
    if not len(outcomes):
        raise RoutingError(f"outcomes {path}: no rows")
    # The two halves of a RouterBench item may lie in two files (train and test), so they are merged after joining.
    return _merge_split_rows(outcomes) if any(form == "RouterBench" for form, _ in read) else outcomes


def _files(path: str, fs: FileSystem) -> list[str]:
    info = fs.get_file_info(path)
    if info.type == FileType.NotFound:
        raise RoutingError(f"outcomes {path}: no such file or folder")
    if info.type == FileType.File:
        return [path]
    found = sorted(item.path for item in fs.get_file_info(FileSelector(path)) if item.type == FileType.File)
    shown = [file for file in found if not PurePosixPath(file).name.startswith((".", "_"))]
    by_kind = [[f for f in shown if f.lower().endswith(kind)] for kind in (PARQUET, CSV, PICKLE)]
    kinds = [files for files in by_kind if files]
    if not kinds:
        # Many folders hold JSON beside their tables, so it is read only where there is none, and by its known names.
        notes = ("question.jsonl", "contaminated_prompts.jsonl", "default_query_")
        named = [f for f in shown if f.lower().endswith(JSON) and not PurePosixPath(f).name.startswith(notes)]
        kinds = [named] if named else []
    if len(kinds) != 1:
        what = (
            "Parquet, CSV and pickle files are mixed in it" if kinds else "no .parquet, .csv, .pkl or .json file in it"
        )
        raise RoutingError(f"outcomes {path}: {what}; name one file, or a folder of files of one kind")
    return kinds[0]


def _read_file(path: str, fs: FileSystem) -> tuple[str, Outcomes]:
    """The form of a file and its outcomes."""
    try:
        if path.lower().endswith(JSON):
            form, outcomes = read_json(path, fs)
            _check(outcomes)
            return form, outcomes
        table = _table(path, fs)
        names = table.column_names
        repeated = [name for name, count in Counter(names).items() if count > 1]
        if repeated:
            raise RoutingError(f"column {repeated[0]!r} is there more than once; keep one")
        if not table.num_rows:
            raise RoutingError("no rows")
        if any(name.endswith("|quality") for name in names):
            form, outcomes = "own", _own(table)
        elif any(name.endswith(("|model_response", "|total_cost")) for name in names):
            form, outcomes = "RouterBench", _routerbench(table)
        else:
            form, outcomes = "RouteLLM", _routellm(table, PurePosixPath(path).stem)
        _check(outcomes)
        return form, outcomes
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, pa.ArrowTypeError, UnicodeDecodeError) as error:
        raise RoutingError(f"outcomes {path}: not readable ({str(error).splitlines()[0]})") from error
    except RoutingError as error:
        raise RoutingError(f"outcomes {path}: {error}") from error


def _table(path: str, fs: FileSystem) -> pa.Table:
    lower = path.lower()
    if lower.endswith(PARQUET):
        return pq.ParquetFile(fs.open_input_file(path)).read()
    with fs.open_input_stream(path) as stream:
        data = stream.read()
    if lower.endswith(PICKLE):
        return load_table(data)
    if lower.endswith(CSV):
        if not data.strip():
            raise RoutingError("the file is empty")
        # One block for the whole file: Arrow refuses rows that straddle blocks, and responses hold line breaks.
        read = pa_csv.ReadOptions(block_size=min(len(data) + 1, 2**31 - 1))
        parse = pa_csv.ParseOptions(newlines_in_values=True)
        header = pa_csv.open_csv(io.BytesIO(data), read, parse).schema.names
        # Text stays text ("NA" is a word); an empty cell is unknown, a quoted empty one is empty.
        convert = pa_csv.ConvertOptions(
            column_types={name: pa.string() for name in header},
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        )
        return pa_csv.read_csv(io.BytesIO(data), read, parse, convert)
    raise RoutingError("unknown kind of file; .parquet, .csv, .pkl, .json and .jsonl are read")


def _own(table: pa.Table) -> Outcomes:
    names = table.column_names
    models = tuple(name.removesuffix("|quality") for name in names if name.endswith("|quality"))
    suffixes = {"response": "responses", **{name: name for name in NUMBERS}}
    for name in names:
        model, _, suffix = name.rpartition("|")
        if suffix in suffixes and model and model not in models:
            raise RoutingError(f"column {name!r} without {model + '|quality'!r}; add it or leave the model out")
    optional: dict[str, NDArray[Any]] = {}
    for suffix, field in suffixes.items():
        columns = [f"{model}|{suffix}" for model in models]
        if any(column in names for column in columns):
            unknown = pa.nulls(table.num_rows, pa.string() if suffix == "response" else pa.float64())
            chosen = [table[column] if column in names else unknown for column in columns]
            read = _strings if suffix == "response" else _floats
            optional[field] = np.stack([read(values, name) for values, name in zip(chosen, columns, strict=True)], 1)
    if "prompt_tokens" in names:
        shared = _floats(table["prompt_tokens"], "prompt_tokens")[:, None].repeat(len(models), 1)
        each = optional.get("prompt_tokens")
        optional["prompt_tokens"] = shared if each is None else np.where(np.isnan(each), shared, each)
    own = Outcomes(
        ids=_text(table, "id"),
        prompts=_text(table, "prompt"),
        datasets=_text(table, "dataset"),
        models=models,
        quality=_quality(table, models, "|quality"),
    )
    return own.with_arrays(optional)


def _routerbench(table: pa.Table) -> Outcomes:
    names = table.column_names
    found = [name.rpartition("|")[0] for name in names if name.endswith(("|model_response", "|total_cost"))]
    models = tuple(sorted(dict.fromkeys(found), key=lambda model: names.index(model) if model in names else -1))
    optional: dict[str, NDArray[Any]] = {}
    if all(f"{model}|total_cost" in names for model in models):
        optional["cost_usd"] = np.stack([_floats(table[f"{m}|total_cost"], f"{m}|total_cost") for m in models], 1)
    if all(f"{model}|model_response" in names for model in models):
        texts = [_strings(table[f"{model}|model_response"], model) for model in models]
        optional["responses"] = np.stack([np.array([_unlisted(t) for t in column], object) for column in texts], 1)
    plain = Outcomes(
        ids=_text(table, "sample_id"),
        prompts=[_unlisted(prompt) or "" for prompt in _text(table, "prompt")],
        datasets=_text(table, "eval_name"),
        models=models,
        quality=_quality(table, models, ""),
    )
    return plain.with_arrays(optional)


def _routellm(table: pa.Table, stem: str) -> Outcomes:
    names = table.column_names
    if "prompt" not in names:
        raise RoutingError(
            "no outcomes table: no column `<model>|quality` (own form), `<model>|model_response` (RouterBench)"
            f" or `prompt` (RouteLLM) among {', '.join(names[:8])}"
        )
    # An unnamed first column is a row number that pandas wrote.
    answers = {name for name in names if name.endswith("_response") and name.removesuffix("_response") in names}
    models = tuple(name for name in names if name not in {"prompt", "", *answers})
    if not models:
        raise RoutingError("no model column beside `prompt`")
    responses = None
    if answers:
        unknown = pa.nulls(table.num_rows, pa.string())
        columns = [table[f"{m}_response"] if f"{m}_response" in answers else unknown for m in models]
        responses = np.stack([_strings(values, model) for values, model in zip(columns, models, strict=True)], 1)
    return Outcomes(
        ids=[f"{stem}-{row}" for row in range(table.num_rows)],
        prompts=_text(table, "prompt"),
        datasets=[stem] * table.num_rows,
        models=models,
        quality=_quality(table, models, ""),
        responses=responses,
    )


def _text(table: pa.Table, name: str) -> list[str]:
    if name not in table.column_names:
        raise RoutingError(f"no column {name!r}; the table has {', '.join(table.column_names[:8])}")
    column = table[name]
    if column.null_count:
        raise RoutingError(f"column {name!r} is null in row {pc.index(pc.is_null(column), True).as_py()}; fill it")
    result: list[str] = column.cast(pa.string()).to_pylist()
    return result


def _strings(column: Any, name: str) -> NDArray[np.object_]:
    return np.array([None if value is None else str(value) for value in column.to_pylist()], object)


def _floats(column: Any, name: str) -> NDArray[np.float64]:
    """Numbers, booleans or their text (`True`, `0.5`, empty = unknown) as float64."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        text = pc.utf8_lower(pc.utf8_trim_whitespace(column.cast(pa.string())))
        text = pc.if_else(pc.equal(text, "true"), "1", pc.if_else(pc.equal(text, "false"), "0", text))
        column = pc.if_else(pc.is_in(text, pa.array(["", "none", "null"])), pa.scalar(None, pa.string()), text)
    if pa.types.is_boolean(column.type):
        column = column.cast(pa.uint8())
    try:
        values = pc.fill_null(column.cast(pa.float64(), safe=False), float("nan"))
    except pa.ArrowInvalid as error:
        raise RoutingError(f"column {name!r} holds something else than numbers ({error})") from error
    return np.asarray(values.to_numpy(zero_copy_only=False) if isinstance(values, pa.Array) else values.to_numpy())


def _quality(table: pa.Table, models: Sequence[str], suffix: str) -> NDArray[np.float32]:
    missing = [model for model in models if model + suffix not in table.column_names]
    if missing:
        raise RoutingError(f"no column {missing[0] + suffix!r} with the quality of a model it has other columns of")
    return np.stack([_floats(table[model + suffix], model + suffix) for model in models], 1).astype(np.float32)


def _check(outcomes: Outcomes) -> None:
    wrong = np.argwhere((outcomes.quality < 0) | (outcomes.quality > 1))
    if len(wrong):
        row, column = wrong[0]
        raise RoutingError(
            f"quality of model {outcomes.models[column]!r} is {outcomes.quality[row, column]:g} in row {row}"
            f" ({len(wrong)} such values); it must be within 0..1"
        )


def _unlisted(text: str | None) -> str | None:
    """RouterBench keeps texts as stringified lists: `['a', 'b']` becomes "a\\n\\nb". Other text is left as it is.

    Equal neighbours are one text: the rows where RouterBench sent a prompt twice are [p, p].
    """
    if text is None or not (text.startswith("[") and text.endswith("]")):
        return text
    try:
        parts = ast.literal_eval(text)
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return text
    if not isinstance(parts, list) or not parts or not all(isinstance(part, str) for part in parts):
        return text
    return "\n\n".join(part for i, part in enumerate(parts) if i == 0 or part != parts[i - 1])


def _merge_split_rows(outcomes: Outcomes) -> Outcomes:
    """Join rows of the same id, prompt and data set that know different models (14 RouterBench items lie so in two
    rows).

    Each model keeps what the row that knows its quality says. Rows that overlap in a model are true repeats and stay.
    """
    known = ~np.isnan(outcomes.quality)
    first: dict[tuple[str, str, str], int] = {}
    keep = np.ones(len(outcomes), np.bool_)
    pairs: list[tuple[int, int]] = []
    for row, key in enumerate(zip(outcomes.ids, outcomes.prompts, outcomes.datasets, strict=True)):
        target = first.setdefault(key, row)
        if target != row and not (known[target] & known[row]).any():
            known[target] |= known[row]
            keep[row] = False
            pairs.append((target, row))
    if not pairs:
        return outcomes
    arrays = {name: value.copy() for name in ("quality", *OPTIONAL) if (value := getattr(outcomes, name)) is not None}
    for target, row in pairs:
        added = ~np.isnan(outcomes.quality[row])
        for value in arrays.values():
            value[target, added] = value[row, added]
    return replace(outcomes, **arrays).select(keep)
