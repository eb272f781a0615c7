"""Preferences: battles between two models' answers to one prompt. Legend: n battles, m models.

RouteLLM's training data (arXiv 2406.18665): arena votes, golden labels (both answers compared with a key) and an LLM
judge's verdicts. `read_preferences` takes files (`routing.preference_readers`), `as_preferences` makes golden labels of
outcomes, `as_outcomes` makes a regressor's table of battles, so that every router fits on either. Model tiers are in
`routing.tiers`, verdicts of a judge in `routing.verdicts`. All functions here are O(n), golden labels O(n m^2).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyarrow.fs import FileSystem

from routing import outcomes as outcome_tables
from routing.errors import RoutingError
from routing.outcomes import Outcomes


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
        names = ("prompts", "model_a", "model_b", "datasets")
        texts: dict[str, Any] = {name: [getattr(self, name)[i] for i in index] for name in names}
        return Preferences(winner=self.winner[index], **texts)

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


TrainingData: TypeAlias = Outcomes | Preferences
"""What every router fits on."""


def read_preferences(path: str | Path, filesystem: FileSystem | None = None) -> Preferences:
    """Read a file (.parquet, .jsonl, .json), or a folder of files of one kind.

    Columns: `prompt` (or `turns` / `conversation_a`, whose first user turn is taken, as RouteLLM does), `model_a`,
    `model_b`, `winner`: a, b or tie; model_a, model_b, tie or tie (bothbad), as the arena writes them; or 1, 0.5, 0.
    Optional `dataset` (default: the file's stem). Raises RoutingError for a missing or unreadable file, missing
    columns, no rows, an unknown winner, or a model against itself.
    """
    from routing.preference_readers import read_path  # the readers build Preferences, so they import this module

    return read_path(path, filesystem)


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
    names = ("prompts", "model_a", "model_b", "datasets")
    texts: dict[str, Any] = {name: [text for table in tables for text in getattr(table, name)] for name in names}
    return Preferences(winner=np.concatenate([table.winner for table in tables]), **texts)


def as_preferences(data: TrainingData, *, margin: float = 0.0) -> Preferences:
    """Battles as they are; outcomes as golden labels: all pairs of models known for a row, the better one wins.

    A difference of at most `margin` is a tie (0: exactly equal; a judge's scores of 1-10 scaled to 0..1 differ by
    1/9). Model a is the earlier column. Order: by row, then by pair.
    """
    if isinstance(data, Preferences):
        return data
    m = len(data.models)
    first, second = np.triu_indices(m, 1)
    quality = data.quality.astype(np.float64)
    gap = quality[:, first] - quality[:, second]
    rows, pairs = np.nonzero(~np.isnan(gap))
    gaps = gap[rows, pairs]
    # Float32 columns differ in the last bit where a file wrote the same decimal in two ways.
    winner = np.where(np.abs(gaps) <= margin + 1e-6, 0.5, np.where(gaps > 0, 1.0, 0.0))
    return Preferences(
        prompts=[data.prompts[row] for row in rows],
        model_a=[data.models[j] for j in first[pairs]],
        model_b=[data.models[j] for j in second[pairs]],
        winner=winner,
        datasets=[data.datasets[row] for row in rows],
    )


def as_outcomes(data: TrainingData, models: Sequence[str] | None = None) -> Outcomes:
    """Outcomes as they are; a battle as a row that knows its two sides: quality 1 and 0, or 0.5 each after a tie.

    `models`: the columns, in order; by default all of the table, weakest first by Bradley-Terry strength. Group
    battles into classes first (`routing.tiers.Tiers.classes`) to get the two columns weak and strong. Outcomes are
    narrowed to `models` where given. Raises RoutingError for a battle of a model not among `models`.
    """
    if isinstance(data, Outcomes):
        return data if models is None else data.with_models(models)
    if models is None:
        from routing.tiers import weakest_first  # tiers are made of preferences, so they import this module

        models = weakest_first(data)
    a, b = data.sides(models)
    rows = np.arange(len(data))
    quality = np.full((len(data), len(models)), np.nan, np.float32)
    quality[rows, a], quality[rows, b] = data.winner, 1 - data.winner
    ids = [f"battle-{row}" for row in rows]
    return Outcomes(ids, data.prompts, data.datasets, tuple(models), quality)


Table = TypeVar("Table", Outcomes, Preferences)


def mix(tables: Sequence[Table], weights: Sequence[float], seed: int = 0) -> Table:
    """Join training sets of one kind, each row of table t `weights[t]` times, shuffled.

    2 means twice, 0.5 a random half, 1.5 every row once and a random half of them again: weights for routers that know
    none. RouteLLM joins arena and judged battles with weight 1. O(n). Raises RoutingError for a weight that is
    negative, or where nothing is left.
    """
    if len(tables) != len(weights) or not tables:
        raise RoutingError(f"mix: {len(tables)} training sets and {len(weights)} weights; give one weight for each")
    if not all(np.isfinite(weight) and weight >= 0 for weight in weights):
        raise RoutingError(f"mix: weights are {list(weights)}; they must not be negative")
    rng = np.random.default_rng(seed)
    parts: list[Table] = []
    for table, weight in zip(tables, weights, strict=True):
        whole, rest = int(weight), round((weight - int(weight)) * len(table))
        rows = [np.tile(np.arange(len(table)), whole), rng.permutation(len(table))[:rest]]
        parts.append(table.select(np.concatenate(rows)))
    joined: Any = outcome_tables.concat(parts) if isinstance(parts[0], Outcomes) else concat(parts)
    if not len(joined):
        raise RoutingError("mix: no rows are left; raise the weights")
    result: Table = joined.select(rng.permutation(len(joined)))
    return result


def relabelled(preferences: Preferences, names: dict[str, str]) -> Preferences:
    """Models renamed by `names` (those not in it dropped with their battles); battles inside one name are dropped."""
    sides = list(zip(preferences.model_a, preferences.model_b, strict=True))
    keep = np.array([a in names and b in names and names[a] != names[b] for a, b in sides], np.bool_)
    kept = preferences.select(keep)
    return replace(kept, model_a=[names[a] for a in kept.model_a], model_b=[names[b] for b in kept.model_b])
