"""Outcomes: what each of several models did with each of many prompts. Legend: n prompts, m models.

The table behind training, evaluation and replay. `read_outcomes` takes Headgate's own wide Parquet, RouterBench's wide
table, RouteLLM's CSVs and MT-Bench judgements, and LLMRouter's lists (readers: `routing.data.outcome_readers`,
`outcome_json`); `write_outcomes` writes the own form. Held in memory as plain sequences and (n, m) arrays; all
functions here are O(n m).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow.fs import FileSystem

from routing.errors import RoutingError

NUMBERS = ("cost_usd", "prompt_tokens", "completion_tokens", "latency_s")
"""Optional (n, m) arrays of numbers."""
OPTIONAL = ("cost_usd", "responses", "prompt_tokens", "completion_tokens", "latency_s")
"""All optional (n, m) arrays."""


@dataclass(frozen=True, slots=True)
class Outcomes:
    """A prompts x models table; unknown entries are NaN (numbers) or None (text)."""

    ids: Sequence[str]
    """n identifiers."""
    prompts: Sequence[str]
    """n prompt texts."""
    datasets: Sequence[str]
    """n names of the set (or category) each prompt came from."""
    models: tuple[str, ...]
    """m model names."""
    quality: NDArray[np.float32]
    """(n, m), 0..1."""
    cost_usd: NDArray[np.float64] | None = None
    """(n, m), dollars a call; None where the table has no cost."""
    responses: NDArray[np.object_] | None = None
    """(n, m) of str or None."""
    prompt_tokens: NDArray[np.float64] | None = None
    """(n, m)."""
    completion_tokens: NDArray[np.float64] | None = None
    """(n, m)."""
    latency_s: NDArray[np.float64] | None = None
    """(n, m)."""

    def __len__(self) -> int:
        return len(self.ids)

    def select(self, rows: NDArray[Any]) -> Outcomes:
        """The rows at these positions (or where a boolean mask is true), in that order."""
        index = np.arange(len(self))[rows]
        arrays = {name: value[index] for name in ("quality", *OPTIONAL) if (value := getattr(self, name)) is not None}
        ids, prompts, datasets = ([column[i] for i in index] for column in (self.ids, self.prompts, self.datasets))
        return replace(self, ids=ids, prompts=prompts, datasets=datasets, **arrays)

    def with_models(self, names: Sequence[str]) -> Outcomes:
        """These models only, in this order. Raises RoutingError for a model the table lacks, or one named twice."""
        unknown = [name for name in names if name not in self.models]
        if unknown or not names:
            raise RoutingError(
                f"outcomes: no model {', '.join(map(repr, unknown)) or 'named'}; the table has {', '.join(self.models)}"
            )
        if len(set(names)) != len(names):
            raise RoutingError(f"outcomes: a model is named twice in {', '.join(names)}; name each once")
        columns = [self.models.index(name) for name in names]
        arrays = {
            name: value[:, columns] for name in ("quality", *OPTIONAL) if (value := getattr(self, name)) is not None
        }
        return replace(self, models=tuple(names), **arrays)

    def with_arrays(self, arrays: Mapping[str, NDArray[Any]]) -> Outcomes:
        """The same rows with these (n, m) arrays, by field name ("quality", or one of OPTIONAL)."""
        changes: Any = dict(arrays)
        return replace(self, **changes)

    def known(self) -> NDArray[np.bool_]:
        """(n,): rows whose quality is known for every model; `with_models` first for a pair."""
        result: NDArray[np.bool_] = np.logical_not(np.isnan(self.quality).any(axis=1))
        return result

    def fingerprint(self) -> str:
        """SHA-256 (hex) over everything in the table: equal content, equal fingerprint, whatever file it came from."""
        digest = hashlib.sha256()

        def add(value: str | None) -> None:
            data = b"" if value is None else value.encode("utf-8", "surrogatepass")
            # Length first, so that ("ab", "c") and ("a", "bc") differ; -1 tells None from "".
            digest.update((-1 if value is None else len(data)).to_bytes(8, "little", signed=True) + data)

        for texts in (self.models, self.ids, self.prompts, self.datasets):
            add(str(len(texts)))
            for text in texts:
                add(text)
        for name in ("quality", *OPTIONAL):
            value = getattr(self, name)
            add(None if value is None else name)
            if value is not None and name == "responses":
                for text in value.ravel():
                    add(text)
            elif value is not None:
                # NaN has many bit patterns; `+ 0.0` folds -0.0 into 0.0.
                digest.update(np.where(np.isnan(value), np.nan, value + 0.0).astype("<f8").tobytes())
        return digest.hexdigest()


def write_outcomes(outcomes: Outcomes, path: str | Path, filesystem: FileSystem | None = None) -> None:
    """Write the own wide Parquet form, one row per prompt; `read_outcomes` gives back an equal table.

    `prompt_tokens` that are the same for all models become one plain column. Raises RoutingError for a model name
    with "|".
    """
    barred = [name for name in outcomes.models if "|" in name]
    if barred:
        raise RoutingError(
            f"outcomes: model name {barred[0]!r} holds '|', which separates names in the table; rename it"
        )
    columns: dict[str, pa.Array] = {
        "id": pa.array(outcomes.ids, pa.string()),
        "prompt": pa.array(outcomes.prompts, pa.string()),
        "dataset": pa.array(outcomes.datasets, pa.string()),
    }
    tokens = outcomes.prompt_tokens
    shared = tokens is not None and np.array_equal(
        tokens, tokens[:, :1].repeat(len(outcomes.models), 1), equal_nan=True
    )
    if tokens is not None and shared:
        columns["prompt_tokens"] = pa.array(tokens[:, 0], from_pandas=True)
    for j, model in enumerate(outcomes.models):
        for name in ("quality", *OPTIONAL):
            value = getattr(outcomes, name)
            if value is not None and not (name == "prompt_tokens" and shared):
                suffix = "response" if name == "responses" else name
                kind = pa.string() if name == "responses" else None
                columns[f"{model}|{suffix}"] = pa.array(value[:, j], kind, from_pandas=True)
    pq.write_table(pa.table(columns), str(path), filesystem=filesystem, compression="zstd")


def concat(tables: Sequence[Outcomes]) -> Outcomes:
    """The rows of all tables in order; models are united by order of appearance, what a table lacks is unknown."""
    if not tables:
        raise RoutingError("outcomes: no table to join")
    if len(tables) == 1:
        return tables[0]
    models = tuple(dict.fromkeys(model for table in tables for model in table.models))
    columns = [[models.index(model) for model in table.models] for table in tables]
    starts = np.cumsum([0, *map(len, tables)])
    arrays: dict[str, NDArray[Any]] = {}
    for name in ("quality", *OPTIONAL):
        parts = [getattr(table, name) for table in tables]
        first = next((part for part in parts if part is not None), None)
        if first is not None:
            joined = np.full((starts[-1], len(models)), None if name == "responses" else np.nan, first.dtype)
            for part, start, stop, names in zip(parts, starts, starts[1:], columns, strict=False):
                if part is not None:
                    joined[start:stop, names] = part
            arrays[name] = joined
    base = Outcomes(
        ids=[text for table in tables for text in table.ids],
        prompts=[text for table in tables for text in table.prompts],
        datasets=[name for table in tables for name in table.datasets],
        models=models,
        quality=arrays.pop("quality"),
    )
    return base.with_arrays(arrays)


class Prompted(Protocol):
    """Rows that have a prompt each: outcomes, or battles."""

    @property
    def prompts(self) -> Sequence[str]: ...

    def __len__(self) -> int: ...


def split_by_prompt(
    outcomes: Prompted, *, train_rows: int | None = None, fraction: float | None = None, seed: int = 0
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Row numbers (train, test), each ascending: a random split in which equal prompts are always on the same side.

    Train has as many rows as fit without cutting a group of equal prompts apart, never more. Raises RoutingError where a side
    would be empty, or unless one of train_rows and fraction is given.

    outcomes: n rows.
    train_rows: rows of train.
    fraction: the same as a share of all rows.
    seed: of the order in which groups of equal prompts are taken.
    """
    if (train_rows is None) == (fraction is None):
        raise RoutingError("split: give train_rows or fraction, one of the two")
    wanted = train_rows if train_rows is not None else round((fraction or 0.0) * len(outcomes))
    numbers: dict[str, int] = {}
    group = np.array([numbers.setdefault(prompt, len(numbers)) for prompt in outcomes.prompts], np.intp)
    order = np.random.default_rng(seed).permutation(len(numbers))
    chosen = np.zeros(len(numbers), np.bool_)
    chosen[order] = np.cumsum(np.bincount(group, minlength=len(numbers))[order]) <= wanted
    train = chosen[group]
    if train.all() or not train.any():
        raise RoutingError(
            f"split: {wanted} of {len(outcomes)} rows for training leaves one side empty; choose another size"
        )
    return np.flatnonzero(train), np.flatnonzero(~train)
