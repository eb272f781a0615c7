"""An error of storage names what was read or written, and nothing else: not the output for the input, not the bucket for a disk."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest

from jobs.errors import InputError, StoreError
from jobs.storage.filesystems import storage_errors
from jobs.storage.pieces import PieceWriter
from jobs.storage.store import Store

TABLE = pa.table({"a": [1, 2]})


def write_a_piece(store: Store, then: Callable[[PieceWriter], None]) -> None:
    with store.table_writer("out.parquet", TABLE.schema) as writer:
        writer.write_table(TABLE)
        then(writer)


@pytest.mark.parametrize(
    "error", [OSError(errno.EIO, "the input's disk"), pa.ArrowInvalid("a journal's"), InputError("input.path: x")]
)
def test_whoever_writes_the_pieces_is_not_blamed_on_the_file(tmp_path: Path, error: Exception) -> None:
    def fail(writer: PieceWriter) -> None:
        raise error

    with pytest.raises(type(error)) as raised:
        write_a_piece(Store(str(tmp_path)), fail)
    assert raised.value is error and list(tmp_path.iterdir()) == [], "nothing of it is seen"


def test_a_piece_that_cannot_be_written_is(tmp_path: Path) -> None:
    def fill(writer: PieceWriter) -> None:
        PieceWriter(_Full(), writer._url).write_table(TABLE)  # type: ignore[arg-type]

    with pytest.raises(StoreError, match=r"out\.parquet: no space left on the device \(writing it\)"):
        write_a_piece(Store(str(tmp_path)), fill)


class _Full:
    def write_table(self, table: pa.Table) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_of_this_machine_is_not_the_bucket() -> None:
    """Copies of a bucket's files, and what is spooled before an upload, lie on it."""
    said = {
        "Error writing bytes to file. Detail: [errno 28] No space left on device": "no space left on the device",
        "Failed to open local file '/tmp/x'. Detail: [errno 30] Read-only file system": "read-only file system",
    }
    for text, meaning in said.items():
        with pytest.raises(StoreError) as raised, storage_errors("s3://models/m", "copying the model"):
            raise OSError(text)
        line = str(raised.value)
        assert line.endswith(
            f"on this machine: {meaning} (copying the model: s3://models/m); free some, or set TMPDIR to another disk"
        )
        with pytest.raises(StoreError, match=r"^/data/m: "), storage_errors("/data/m", "copying the model"):
            raise OSError(text)


def test_what_parquet_cannot_hold_is_no_fault_of_the_storage() -> None:
    with pytest.raises(pa.ArrowNotImplementedError), storage_errors("/out/x", "writing it"):
        raise pa.ArrowNotImplementedError("Unhandled type for Arrow to Parquet schema conversion: uuid")
    with pytest.raises(StoreError, match="/in/x: Not a Parquet file"), storage_errors("/in/x", "reading input"):
        raise pa.ArrowInvalid("Not a\nParquet file")
    with pytest.raises(MemoryError), storage_errors("/in/x", "reading input"):
        raise pa.ArrowMemoryError("malloc of size 1 failed")


def test_credentials_that_are_missing_are_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(StoreError, match=r"s3://b/r/x: no credentials; set AWS_ACCESS_KEY_ID .*\(creating it\)"):
        Store("s3://b/r").create("x", b"1")


def test_a_bucket_without_credentials_says_which_to_set() -> None:
    said = "google::cloud::Status(UNAVAILABLE: Retry policy exhausted: Could not create a OAuth2 access token to authenticate)"
    with (
        pytest.raises(
            StoreError, match=r"gs://b/r: no credentials; set GOOGLE_APPLICATION_CREDENTIALS \(looking it up\)"
        ),
        storage_errors("gs://b/r", "looking it up"),
    ):
        raise OSError(said)
