"""Object storage as the job sees it: a prefix to read, write, list, and create in exactly once.

One class over pyarrow's file systems, so local folders, s3:// and gs:// are the same code. What pyarrow lacks is the
conditional write that manifests and leases rest on: it is `If-None-Match: *` through boto3 on S3, a hard link locally.
Credentials come from the environment of whichever process opens the store and are never part of its state: a `Store` is
pickled as its URI.
"""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import tempfile
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pyarrow.parquet as pq
from numpy.typing import NDArray

from jobs.errors import StoreError
from jobs.storage.filesystems import (
    S3_ATTEMPTS,
    S3_CONNECT_TIMEOUT_S,
    S3_REQUEST_TIMEOUT_S,
    filesystem_of,
    is_file_name,
    meaning_of,
    patiently,
    s3_endpoint,
    storage_errors,
)
from jobs.storage.pieces import OfTheBorrower, PieceWriter

BOTO_MARKS = {"Credentials": "NO_CREDENTIALS", "Connect": "NETWORK_CONNECTION", "Timeout": "NETWORK_CONNECTION"}
"""What a class of boto's errors has in its name → what `meaning_of` knows it by."""
WHOLE_BYTES = 2**20
"""`Store.batches` fetches a file of this size or less in one piece."""
BATCH_ROWS = 2**14
"""At a kilobyte a row and 16 threads, 256 MB."""


def _groups_with(parquet: pq.ParquetFile, column: str, values: NDArray[np.int64]) -> list[int]:
    """Row groups that may hold one of the sorted `values`, by the column's statistics."""
    place = parquet.schema_arrow.get_field_index(column)
    found = []
    for number in range(parquet.num_row_groups):
        known = parquet.metadata.row_group(number).column(place).statistics
        first = np.searchsorted(values, known.min) if known is not None and known.has_min_max else 0
        if known is None or not known.has_min_max or (first < len(values) and values[first] <= known.max):
            found.append(number)
    return found


def _sync(path: str) -> None:
    """Wait until a local file's bytes, or a folder's names, are on the disk."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):  # mounted object stores and the like cannot
            raise
    finally:
        os.close(fd)


class Store:
    """A prefix on some storage. Names are relative to it, with forward slashes."""

    def __init__(self, uri: str) -> None:
        self.fs, self.root = filesystem_of(uri)
        self.uri = uri.rstrip("/") if "://" in uri else self.root
        self._bucket_seen = False

    def __reduce__(self) -> tuple[type[Store], tuple[str]]:
        return Store, (self.uri,)

    @property
    def is_local(self) -> bool:
        return isinstance(self.fs, pafs.LocalFileSystem)

    @cached_property
    def _s3(self) -> Any:
        from boto3.session import Session
        from botocore.config import Config

        config = Config(
            connect_timeout=S3_CONNECT_TIMEOUT_S,
            read_timeout=S3_REQUEST_TIMEOUT_S,
            retries={"max_attempts": S3_ATTEMPTS, "mode": "standard"},
            s3={"addressing_style": "path"} if s3_endpoint() else None,
        )
        # A session of its own: boto3's default one keeps the first credentials it saw, and threads may not share it.
        return Session().client("s3", config=config, region_name=self.fs.region or None)

    def path(self, name: str = "") -> str:
        """Path of `name` inside the file system."""
        return f"{self.root}/{name}" if name else self.root

    def url(self, name: str = "") -> str:
        """URI of `name`, to show to people."""
        return f"{self.uri}/{name}" if name else self.uri

    def exists(self, name: str) -> bool:
        with storage_errors(self.url(name), "looking it up"):
            return bool(self.fs.get_file_info(self.path(name)).type != pafs.FileType.NotFound)

    def list(self, prefix: str = "", recursive: bool = True) -> Sequence[str]:
        """Names of the files under the folder `prefix`, sorted; none where it is not there. Temporary ones left out.

        Raises StoreError for a key such as `a/../b`, which no folder can hold: a copy of it would land somewhere else.
        To leave it out would hide that somebody has put it there.
        """
        with storage_errors(self.url(prefix), "listing it"):
            selector = pafs.FileSelector(self.path(prefix), recursive=recursive, allow_not_found=True)
            infos = self.fs.get_file_info(selector)
            if not infos:
                self._require_bucket()
        names = [info.path[len(self.root) + 1 :] for info in infos if info.type == pafs.FileType.File]
        for name in names:
            if not is_file_name(name):
                raise StoreError(
                    f"{self.url(prefix)}: the key {name!r} is no file name; delete it, it is no part of a run"
                )
        return sorted(name for name in names if not name.rsplit("/", 1)[-1].startswith(".tmp-"))

    def read(self, name: str) -> bytes:
        def fetch() -> bytes:
            with self.fs.open_input_stream(self.path(name)) as stream:
                return bytes(stream.read())

        with self._reading(name):
            return patiently(fetch)

    @contextlib.contextmanager
    def _reading(self, name: str) -> Iterator[None]:
        """Errors of reading `name`; the bucket is asked for only where the file is missing."""
        with storage_errors(self.url(name), "reading it"):
            try:
                yield
            except FileNotFoundError:
                self._require_bucket()
                raise

    def _require_bucket(self) -> None:
        """Raise OSError where the bucket itself is missing: S3 lists it as empty, and says "not found" of its files."""
        if isinstance(self.fs, pafs.S3FileSystem) and not self._bucket_seen:
            bucket = self.root.partition("/")[0]
            if self.fs.get_file_info(bucket).type == pafs.FileType.NotFound:
                raise OSError("NoSuchBucket")
            self._bucket_seen = True

    def write(self, name: str, data: bytes) -> None:
        """Write or replace `name` whole: a reader sees the old or the new content, never a part."""
        with (
            storage_errors(self.url(name), "writing it"),
            self._replacing(name) as path,
            self.fs.open_output_stream(path) as out,
        ):
            out.write(data)

    def write_table(self, name: str, table: pa.Table, **options: Any) -> None:
        """Write or replace a Parquet file whole."""
        with storage_errors(self.url(name), "writing it"), self._replacing(name) as path:
            pq.write_table(table, path, filesystem=self.fs, compression="zstd", **options)

    def read_table(self, name: str, columns: Sequence[str] | None = None, filters: Any = None) -> pa.Table:
        def fetch() -> pa.Table:
            return pq.read_table(
                self.path(name),
                filesystem=self.fs,
                columns=None if columns is None else [*columns],
                filters=filters,
                partitioning=None,
            )

        with self._reading(name):
            return patiently(fetch)

    def batches(
        self, name: str, columns: Sequence[str], where: tuple[str, NDArray[np.int64]] | None = None
    ) -> Iterator[pa.RecordBatch]:
        """The rows of a Parquet file, at most BATCH_ROWS at a time: one pass over files of any size in little memory.

        Columns that the file does not have are left out.

        where: (integer column, sorted values): only rows with one of them. Row groups whose statistics rule that out are
        not read. A small file is fetched whole: on object stores its footer and columns would be a request each.
        """
        with self._reading(name), self.fs.open_input_file(self.path(name)) as source:
            small = source.size() <= WHOLE_BYTES
            whole = patiently(lambda: source.read_at(source.size(), 0)) if small else b""
            parquet = pq.ParquetFile(pa.BufferReader(whole) if small else source)
            groups = None if where is None else _groups_with(parquet, *where)
            wanted = [*columns, *([where[0]] if where and where[0] not in columns else [])]
            for batch in parquet.iter_batches(BATCH_ROWS, groups, wanted, use_threads=False):
                if where is not None:
                    batch = batch.filter(pc.is_in(batch[where[0]], pa.array(where[1], batch[where[0]].type)))
                yield batch.select([column for column in columns if column in batch.schema.names])

    def footer(self, name: str) -> tuple[pq.FileMetaData, int]:
        """What a Parquet file says of itself, and its bytes."""

        def fetch() -> tuple[pq.FileMetaData, int]:
            with self.fs.open_input_file(self.path(name)) as source:
                return pq.read_metadata(source), source.size()

        with self._reading(name):
            return patiently(fetch)

    @contextlib.contextmanager
    def table_writer(self, name: str, schema: pa.Schema) -> Iterator[PieceWriter]:
        """Write or replace a Parquet file whole, piece by piece; where a piece fails, nothing of it is seen.

        On object stores it is spooled on the local disk: an upload that is given up would leave the pieces as a file.
        """
        try:
            with storage_errors(self.url(name), "writing it"):
                if self.is_local:
                    with self._replacing(name) as path, pq.ParquetWriter(path, schema, compression="zstd") as writer:
                        yield from PieceWriter(writer, self.url(name)).lent()
                    return
                with tempfile.NamedTemporaryFile(prefix="headgate-") as spool:
                    with pq.ParquetWriter(spool.name, schema, compression="zstd") as writer:
                        yield from PieceWriter(writer, self.url(name)).lent()
                    pafs.copy_files(spool.name, self.path(name), pafs.LocalFileSystem(), self.fs)
        except OfTheBorrower as passed:
            raise passed.error from passed.error.__cause__

    @contextlib.contextmanager
    def _replacing(self, name: str) -> Iterator[str]:
        """The path to write to. Object stores replace whole by themselves; locally it is a temporary file, renamed.

        On the disk before it has its name, and its name before anybody goes on: a power cut leaves no file of no bytes.
        """
        path = self.path(name)
        if not self.is_local:
            yield path
            return
        folder, _, base = path.rpartition("/")
        os.makedirs(folder, exist_ok=True)
        temporary = f"{folder}/.tmp-{base}-{secrets.token_hex(4)}"
        try:
            yield temporary
            _sync(temporary)
            os.replace(temporary, path)
            _sync(folder)
        finally:
            Path(temporary).unlink(missing_ok=True)

    def create(self, name: str, data: bytes) -> bool:
        """Create `name` unless it is there. True for the one who wins, False for all others; atomic but on GCS.

        On S3 whoever brings the very bytes that stand wins too: content that is to have one creator has to name it.
        """
        if isinstance(self.fs, pafs.S3FileSystem):
            return self._create_s3(name, data)
        if not self.is_local:  # GCS through pyarrow has no precondition: the gap is the time between these two lines
            if self.exists(name):
                return False
            self.write(name, data)
            return True
        path = self.path(name)
        with storage_errors(self.url(name), "creating it"):
            os.makedirs(os.path.dirname(path), exist_ok=True)
            temporary = f"{os.path.dirname(path)}/.tmp-{secrets.token_hex(6)}"
            try:
                with open(temporary, "wb") as out:
                    out.write(data)
                    out.flush()
                    os.fsync(out.fileno())
                os.link(temporary, path)
            except FileExistsError:
                return False
            finally:
                Path(temporary).unlink(missing_ok=True)
        return True

    def _create_s3(self, name: str, data: bytes) -> bool:
        from botocore.exceptions import BotoCoreError, ClientError

        bucket, _, key = self.path(name).partition("/")
        for _ in range(5):
            try:
                self._s3.put_object(Bucket=bucket, Key=key, Body=data, IfNoneMatch="*")
                return True
            except ClientError as error:
                code = error.response.get("Error", {}).get("Code", "")
                if code in ("PreconditionFailed", "412"):
                    break
                if code in ("ConditionalRequestConflict", "409"):  # two creators at once: ask again who won
                    time.sleep(0.2)
                    continue
                raise StoreError(f"{self.url(name)}: {meaning_of(code + ' ' + str(error))} (creating it)") from None
            except BotoCoreError as error:
                mark = next((mark for kind, mark in BOTO_MARKS.items() if kind in type(error).__name__), "")
                raise StoreError(f"{self.url(name)}: {meaning_of(f'{mark} {error}')} (creating it)") from None
        # The client sends again what got no reply, and conflicts do not tell who won: what stands may be what it just made.
        return self.exists(name) and self.read(name) == data

    def delete(self, name: str) -> None:
        """Remove a file if it is there."""
        with storage_errors(self.url(name), "deleting it"):
            try:
                self.fs.delete_file(self.path(name))
            except FileNotFoundError:
                return

    def remove_empty_folders(self, itself: bool) -> None:
        """Remove the folders below the prefix, and with `itself` its own, that hold nothing but files cut short.

        On the local disk: elsewhere there are none.
        """
        for folder, _, names in os.walk(self.root, topdown=False) if self.is_local else ():
            for name in names:
                if name.startswith(".tmp-"):
                    Path(folder, name).unlink(missing_ok=True)
            if itself or folder != self.root:
                with contextlib.suppress(OSError):
                    os.rmdir(folder)
