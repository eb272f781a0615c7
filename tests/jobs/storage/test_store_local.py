"""The store on a local disk, and what a URI may be.

A file is whole before it has its name, and one place has one name.
"""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow as pa
import pytest
from s3_server import S3Bucket

from jobs.errors import StoreError
from jobs.storage.store import Store
from tests.jobs.storage.test_store import one_line


def test_a_file_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And its name before the writer goes on: else a power cut leaves a file of no bytes, or none where a log is deleted."""
    store, done = Store(str(tmp_path)), []
    fsync, replace = os.fsync, os.replace

    def synced(fd: int) -> None:
        path = Path(os.readlink(f"/proc/self/fd/{fd}"))
        done.append(("sync", "folder" if path.is_dir() else path.read_bytes()[:4]))
        fsync(fd)

    def renamed(source: str, target: str) -> None:
        done.append(("rename", Path(target).name))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "replace", renamed)
    table = pa.table({"a": [1]})
    store.write("a/one", b"body")
    store.write_table("a/two", table)
    with store.table_writer("a/three", table.schema) as writer:
        writer.write_table(table)
    for name, start in (("one", b"body"), ("two", b"PAR1"), ("three", b"PAR1")):
        assert done[:3] == [("sync", start), ("rename", name), ("sync", "folder")]
        del done[:3]


def test_no_temporary_file_is_left_or_listed(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    (tmp_path / ".tmp-of-a-killed-writer").write_text("half")
    store.write("a", b"1")
    store.create("a", b"2")
    assert store.list() == ["a"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".tmp-of-a-killed-writer", "a"]


@pytest.mark.parametrize("uri", ["file://{}", "{}", "{}/"])
def test_local_paths_are_one_place(uri: str, tmp_path: Path) -> None:
    Store(uri.format(tmp_path / "r")).write("a", b"1")
    assert (tmp_path / "r" / "a").read_bytes() == b"1"


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("ftp://host/x", "ftp://host: unknown storage ftp://; use s3://, gs:// or a local path"),
        (
            "https://bucket.s3.amazonaws.com/run?X-Amz-Signature=hunter2",
            "https://bucket.s3.amazonaws.com: unknown storage https://; use s3://, gs:// or a local path",
        ),
        (
            "https://me:hunter2@host?sig=hunter2",
            "https://host: unknown storage https://; use s3://, gs:// or a local path",
        ),
        (
            "gs://k:hunter2@bucket/x",
            "gs:// URI: credentials do not belong in it; set GOOGLE_APPLICATION_CREDENTIALS",
        ),
        (
            "s3://KEY:hun/ter2@bucket/x",
            "s3:// URI: credentials do not belong in it; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        ),
        ("s3://", "s3://: names no bucket; write it as s3://bucket/prefix"),
        (
            "s3://KEY:hunter2@bucket/x",
            "s3:// URI: credentials do not belong in it; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        ),
    ],
)
def test_bad_uris(uri: str, message: str) -> None:
    with pytest.raises(StoreError) as error:
        Store(uri)
    assert one_line(error) == message


@pytest.mark.parametrize("key", ["router/../../evil", "router//evil", "router/./evil"])
def test_a_key_that_no_folder_can_hold_is_refused(key: str, s3_moto: S3Bucket) -> None:
    s3_moto.client().put_object(Bucket=s3_moto.name, Key=key, Body=b"x")
    with pytest.raises(StoreError, match=r"the key '.*evil' is no file name; delete it") as error:
        Store(s3_moto.uri("router")).list()
    one_line(error)


def test_an_endpoint_that_is_no_url(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "127.0.0.1:9000")
    with pytest.raises(
        StoreError, match=r"AWS_ENDPOINT_URL: '127\.0\.0\.1:9000' is no URL; write it as https://host:port"
    ):
        Store("s3://bucket/x")
