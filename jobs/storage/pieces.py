"""A Parquet file that is written piece by piece: the file's errors are told from those of whoever makes the pieces."""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa
import pyarrow.parquet as pq

from jobs.storage.filesystems import storage_errors


class OfTheBorrower(Exception):
    """An error of whoever writes the pieces, on its way past what would blame it on the file."""

    def __init__(self, error: Exception) -> None:
        super().__init__(str(error))
        self.error = error


class PieceWriter:
    """Takes the pieces of a Parquet file."""

    def __init__(self, writer: pq.ParquetWriter, url: str) -> None:
        self._writer, self._url = writer, url

    def write_table(self, table: pa.Table) -> None:
        with storage_errors(self._url, "writing it"):
            self._writer.write_table(table)

    def lent(self) -> Iterator[PieceWriter]:
        """Itself, once."""
        try:
            yield self
        except Exception as error:  # noqa: BLE001 - raised again as it is
            raise OfTheBorrower(error) from None
