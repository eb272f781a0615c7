"""What a run remembers of the provider batches it made, on its store: enough to settle their rows without the input.

    ledger/batch-<nonce>/grant-000000.json   before all else: dollars and nonce (jobs.money.reservations)
    batches/model=ALIAS/batch-<nonce>.parquet  the file's rows, before the upload
    batches/model=ALIAS/batch-<nonce>.json     the provider's ids, once it has told them
    ledger/batch-<nonce>/close.json          all rows are in the journal

A driver that dies between any two of these leaves a batch that the next start can tell apart: without rows nothing was
uploaded; without ids the batch is looked for by its nonce; with them it is polled; with all its rows in the journal only
its dollars have to be booked (`close_settled`); closed, it is done with. 40 bytes a row.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from jobs.journal.reader import Journal
from jobs.lanes.base import RowHead
from jobs.lanes.openai.booking import Bounds
from jobs.money.reservations import unfinished, unfinished_by_model, write_close
from jobs.storage.manifest import read_json
from jobs.storage.store import Store

ROWS_SCHEMA = pa.schema(
    [
        pa.field("row_key", pa.int64(), nullable=False),
        pa.field("bucket", pa.int32(), nullable=False),
        pa.field("sample", pa.bool_(), nullable=False),
        pa.field("answer_key", pa.binary(16), nullable=False),
        pa.field("bound", pa.int64(), nullable=False),
        pa.field("max_tokens", pa.int64(), nullable=False),
        pa.field("attempts", pa.int32(), nullable=False),
    ]
)


@dataclass(frozen=True, slots=True)
class FileRow:
    """One request of a batch's file: a row of ROWS_SCHEMA."""

    head: RowHead
    """The decimal text of its row_key is the request's custom_id."""
    bound: int
    """Most prompt tokens."""
    max_tokens: int
    """Most completion tokens."""
    attempts: int = 1
    """This one included; of those that no journal row tells yet."""

    @property
    def bounds(self) -> Bounds:
        return Bounds(self.bound, self.max_tokens)


class Manifest:
    """The batches of one model in one run."""

    def __init__(self, store: Store, alias: str) -> None:
        self._store, self._folder = store, f"batches/model={alias}"

    def write_rows(self, name: str, rows: Sequence[FileRow]) -> None:
        """Before the upload."""
        columns = {each.name: [getattr(row.head, each.name) for row in rows] for each in fields(RowHead)}
        columns |= {name: [getattr(row, name) for row in rows] for name in ("bound", "max_tokens", "attempts")}
        self._store.write_table(f"{self._folder}/{name}.parquet", pa.table(columns, schema=ROWS_SCHEMA))

    def rows(self, name: str) -> list[FileRow]:
        """The rows of a batch's file; none where it came to no upload."""
        table = self._table(name, ROWS_SCHEMA.names)
        columns = [table[column].to_pylist() for column in ROWS_SCHEMA.names]
        return [FileRow(RowHead(*values[:4]), *values[4:]) for values in zip(*columns, strict=True)]

    def keys(self, name: str) -> tuple[NDArray[np.int64], int]:
        """Of the same rows: their sorted keys, and the most prompt tokens that they have together."""
        table = self._table(name, ["row_key", "bound"])
        return np.sort(table["row_key"].to_numpy()), int(table["bound"].to_numpy().sum())

    def _table(self, name: str, columns: list[str]) -> pa.Table:
        path = f"{self._folder}/{name}.parquet"
        if not self._store.exists(path):
            return ROWS_SCHEMA.empty_table().select(columns)
        return self._store.read_table(path, columns=columns)

    def record(self, name: str, batch_id: str) -> None:
        """The provider has created the batch."""
        self._store.create(f"{self._folder}/{name}.json", json.dumps({"batch_id": batch_id}).encode())

    def recorded(self, name: str) -> str:
        """The provider's id of the batch; "" where it was not told."""
        found = read_json(self._store, f"{self._folder}/{name}.json")
        return "" if found is None else str(found["batch_id"])


def journaled(store: Store, alias: str, name: str) -> NDArray[np.int64]:
    """Keys of a batch's rows that are in the journal, whatever they came to."""
    found = Journal(store).by_kind(alias, session=name)
    return np.concatenate([found.answered, found.rejected, found.failed])


def close_settled(store: Store) -> None:
    """Close the batches whose rows are all in the journal: whoever settled them died just before. When a start begins.

    Asks no provider: the model may have no rows left to ask, or not be in the job any more. Raises StoreError.
    """
    for alias, names in unfinished_by_model(store).items():
        for name in names:
            keys, _ = Manifest(store, alias).keys(name)
            if len(keys) and np.isin(keys, journaled(store, alias, name)).all():
                paid_usd = Journal(store).spent(alias, session=name).by_session.get(name, 0.0)
                write_close(store, alias, name, paid_usd)


def stopped_line(store: Store) -> str:
    """What a run that was stopped says: batches go on at the provider, and how to come back to them."""
    n = len(unfinished(store))
    if not n:
        return "stopped; what was answered is kept, run the same command to go on"
    what = "1 batch runs on" if n == 1 else f"{n} batches run on"
    return f"stopped; what was answered is kept; {what} at the provider: the same command re-attaches"
