"""Preferences: battles between two models' answers to one prompt. Legend: n battles, m models.

RouteLLM's training data (arXiv 2406.18665): arena votes, golden labels (both answers compared with a key) and an LLM
judge's verdicts. `read_preferences` takes files (`routing.data.preference_readers`), `as_preferences` makes golden labels of
outcomes, `as_outcomes` makes a regressor's table of battles, so that every router fits on either. Model tiers are in
`routing.data.tiers`. All functions here are O(n), golden labels O(n m^2).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow.fs import FileSystem

from routing.errors import RoutingError


@dataclass(frozen=True, slots=True)
class Preferences:
    """n battles; a model's answer against another's, to the same prompt."""

    prompts: Sequence[str]
    """n prompt texts."""
    model_a: Sequence[str]
    """n names."""
    model_b: Sequence[str]
    """n names, each another than that of model_a."""
    winner: NDArray[np.float64]
    """(n,): 1 = a won, 0.5 = tie, 0 = b won; between them where labels were averaged."""
    datasets: Sequence[str]
    """n names of the set each battle came from."""

    def __len__(self) -> int:
        return len(self.prompts)

    @property
    def models(self) -> tuple[str, ...]:
        """The distinct names, in alphabetical order."""
        return tuple(sorted({*self.model_a, *self.model_b}))

    def select(self, rows: NDArray[Any]) -> Preferences:
        """The battles at these positions (or where a boolean mask is true), in that order."""
        index = np.arange(len(self))[rows]
        columns = (self.prompts, self.model_a, self.model_b, self.datasets)
        prompts, model_a, model_b, datasets = ([column[i] for i in index] for column in columns)
        return Preferences(prompts, model_a, model_b, self.winner[index], datasets)

    def between(self, models: Sequence[str]) -> Preferences:
        """The battles in which both sides are among `models`. Raises RoutingError where there is none."""
        wanted = set(models)
        rows = [a in wanted and b in wanted for a, b in zip(self.model_a, self.model_b, strict=True)]
        if not any(rows):
            raise RoutingError(
                f"preferences: no battle between {', '.join(map(repr, models))}; the table has {', '.join(self.models)}"
            )
        return self.select(np.array(rows, np.bool_))

    def sides(self, models: Sequence[str]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Positions in `models` of model_a and model_b, (n,) each. Raises RoutingError for a model not among them."""
        position = {name: j for j, name in enumerate(models)}
        unknown = [name for name in self.models if name not in position]
        if unknown:
            raise RoutingError(f"preferences: model {unknown[0]!r} is not one of {', '.join(models)}")
        a, b = (np.array([position[name] for name in names], np.intp) for names in (self.model_a, self.model_b))
        return a, b

    def fingerprint(self) -> str:
        """SHA-256 (hex) over everything in the table: equal content, equal fingerprint, whatever file it came from."""
        digest = hashlib.sha256(b"preferences")
        for texts in (self.prompts, self.model_a, self.model_b, self.datasets):
            digest.update(len(texts).to_bytes(8, "little"))
            for text in texts:
                data = text.encode("utf-8", "surrogatepass")
                # Length first, so that ("ab", "c") and ("a", "bc") differ.
                digest.update(len(data).to_bytes(8, "little") + data)
        digest.update((np.asarray(self.winner) + 0.0).astype("<f8").tobytes())
        return digest.hexdigest()


def write_preferences(preferences: Preferences, path: str | Path, filesystem: FileSystem | None = None) -> None:
    """Write the own Parquet form; `read_preferences` gives back an equal table."""
    columns = {
        "prompt": pa.array(preferences.prompts, pa.string()),
        "model_a": pa.array(preferences.model_a, pa.string()),
        "model_b": pa.array(preferences.model_b, pa.string()),
        "winner": pa.array(preferences.winner, pa.float64()),
        "dataset": pa.array(preferences.datasets, pa.string()),
    }
    pq.write_table(pa.table(columns), str(path), filesystem=filesystem, compression="zstd")


def concat(tables: Sequence[Preferences]) -> Preferences:
    """The battles of all tables, in order."""
    if not tables:
        raise RoutingError("preferences: no table to join")
    return Preferences(
        prompts=[text for table in tables for text in table.prompts],
        model_a=[name for table in tables for name in table.model_a],
        model_b=[name for table in tables for name in table.model_b],
        winner=np.concatenate([table.winner for table in tables]),
        datasets=[name for table in tables for name in table.datasets],
    )


def relabelled(preferences: Preferences, names: dict[str, str]) -> Preferences:
    """Models renamed by `names` (those not in it dropped with their battles); battles inside one name are dropped."""
    sides = list(zip(preferences.model_a, preferences.model_b, strict=True))
    keep = np.array([a in names and b in names and names[a] != names[b] for a, b in sides], np.bool_)
    kept = preferences.select(keep)
    return replace(kept, model_a=[names[a] for a in kept.model_a], model_b=[names[b] for b in kept.model_b])
