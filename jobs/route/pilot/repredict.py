"""Predictions made anew, part by part, by a head that a stage has fitted: what the pilot and the cascade share.

    scored/part-* → `PartHead.predict` → <folder>/part-*.parquet: row_key, predicted

A part that is predicted twice (a retried task) is the same file with the same content. Legend: n rows of a part, m models.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import ray
from numpy.typing import NDArray

from jobs.route.score.entries import Part
from jobs.route.score.scored import over_parts, predicted_column
from jobs.storage.store import Store


class PartHead(Protocol):
    """A fitted head with all that it needs beside the rows; picklable."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Of scored/, that `predict` reads."""
        ...

    def predict(self, store: Store, file: str, bucket: int, table: pa.Table) -> NDArray[np.float32]:
        """(n, m) predictions for the rows of one part. file: the part's name without its folder. table: its `columns`."""
        ...


def repredict(store: Store, parts: Sequence[Part], head: PartHead, folder: str) -> None:
    """Write the head's predictions for every row under `folder`."""
    over_parts(parts, Repredict, store.uri, [ray.put(head)], folder)


class Repredict:
    """Actor: the head over one part after the other."""

    def __init__(self, output: str, head: list[ray.ObjectRef[PartHead]], folder: str) -> None:
        self.store, self.folder = Store(output), folder
        self.head: PartHead = ray.get(head[0])

    def __call__(self, batch: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        name = str(batch["name"][0])
        file = name.rsplit("/", 1)[-1]
        table = self.store.read_table(name, columns=["row_key", *self.head.columns])
        predicted = self.head.predict(self.store, file, int(batch["bucket"][0]), table)
        columns = {"row_key": table["row_key"], "predicted": predicted_column(predicted)}
        self.store.write_table(f"{self.folder}/{file}", pa.table(columns))
        return {"name": batch["name"]}
