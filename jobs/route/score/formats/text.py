"""Text of a file: unpacked by what its first bytes say, decoded by its byte order mark, refused where it is no text at all.

gzip, zstd and bzip2 are known by their content, whatever the name; several members one after another are read, a cut one is an
error. UTF-8, with or without a mark, and UTF-16 with one are read.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.fs as pafs

from jobs.errors import InputError
from jobs.route.score.formats.record import COMPRESSIONS

BUFFER_BYTES = 2**20
PACKED = {b"\x1f\x8b": "gzip", b"\x28\xb5\x2f\xfd": "zstd", b"BZh": "bz2"}
OTHERS = {
    b"PAR1": "Parquet; name it .parquet, or set input.format: parquet",
    b"ARROW1": "an Arrow file; write it as Parquet",
    b"ORC": "ORC; write it as Parquet",
    b"Obj\x01": "Avro; write it as Parquet",
    b"PK\x03\x04": "a zip file (or a spreadsheet); unpack it, or write it as CSV or Parquet",
    b"\xfd7zXZ\x00": "packed with xz; pack it as .gz or .zst",
    b"\x04\x22\x4d\x18": "packed with lz4; pack it as .gz or .zst",
    b"\xff\x06\x00\x00sNaPpY": "packed with snappy; pack it as .gz or .zst",
    b"7z\xbc\xaf\x27\x1c": "a 7z file; unpack it",
    b"SQLite format 3\x00": "an SQLite database; write its rows as Parquet",
    b"version https://git-lfs": "a Git LFS pointer; fetch the file itself (git lfs pull)",
    b"<!DOCTYPE": "a web page: it was not downloaded whole, or from the wrong place",
    b"<!doctype": "a web page: it was not downloaded whole, or from the wrong place",
    b"<html": "a web page: it was not downloaded whole, or from the wrong place",
    b"<?xml": "XML; write it as JSONL, CSV or Parquet",
    b"\xff\xfe\x00\x00": "UTF-32; write it as UTF-8",
    b"\x00\x00\xfe\xff": "UTF-32; write it as UTF-8",
}
"""First bytes → what a file is that is no text."""


@dataclass(frozen=True, slots=True)
class Text:
    """A file as text, at its start."""

    raw: io.BufferedReader
    encoding: str

    def head(self) -> tuple[str, bool]:
        """(the start of the text, whether that is all of it); nothing is consumed."""
        start = self.raw.peek(BUFFER_BYTES)
        return start.decode(self.encoding, "ignore").removeprefix("\ufeff"), len(start) < BUFFER_BYTES - 3

    def lines(self, newline: str) -> io.TextIOWrapper:
        """The text, cut at `newline`. Bytes that are no UTF-8 become lone surrogates; UTF-16 is whole or raises ValueError."""
        errors = "surrogateescape" if self.encoding == "utf-8" else "strict"
        return io.TextIOWrapper(self.raw, self.encoding, errors=errors, newline=newline)


@contextmanager
def open_text(fs: pafs.FileSystem, path: str) -> Iterator[Text]:
    """Raises InputError for a file that holds no text, OSError for one that cannot be read or unpacked."""
    with fs.open_input_file(path) as source:
        start = source.read(64)
        source.seek(0)
        codec = next((name for mark, name in PACKED.items() if start.startswith(mark)), None)
        said = next((name for suffix, name in COMPRESSIONS.items() if path.lower().endswith(suffix)), None)
        if said and not codec and start:
            raise InputError(f"input.path: {path} is not packed with {said}; take that suffix off its name")
        stream = pa.CompressedInputStream(source, codec) if codec else source
        with io.BufferedReader(stream, BUFFER_BYTES) as raw:
            yield Text(raw, _encoding(raw, path))


def _encoding(raw: io.BufferedReader, path: str) -> str:
    """The text's encoding; a mark of UTF-8 is passed over."""
    start = raw.peek(512)[:512]
    for mark, what in OTHERS.items():
        if start.startswith(mark):
            raise InputError(f"input.path: {path} is {what}")
    if start[257:262] == b"ustar":
        raise InputError(f"input.path: {path} is a tar file; unpack it")
    if start.startswith((b"\xff\xfe", b"\xfe\xff")):
        return "utf-16"
    if start.startswith(b"\xef\xbb\xbf"):
        raw.read(3)
    zeros = sorted((start[::2].count(0), start[1::2].count(0)))
    if len(start) >= 8 and zeros[1] > len(start) // 4 > zeros[0]:  # every other byte
        raise InputError(f"input.path: {path} looks like UTF-16 without a byte order mark; write it as UTF-8")
    return "utf-8"


def is_utf8(text: str) -> bool:
    """Whether text of `Text.lines` was UTF-8 in the file."""
    return text.isascii() or not any("\udc80" <= c <= "\udcff" for c in text)
