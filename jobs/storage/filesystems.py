"""Which file system a URI means, and what its errors mean to the person who has to mend them."""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from jobs.errors import StoreError, plain

S3_CONNECT_TIMEOUT_S, S3_REQUEST_TIMEOUT_S, S3_ATTEMPTS = 5, 20, 7
"""A job asks storage thousands of times: of one request in five turned away (503 SlowDown), 7 attempts leave one in 80,000.
Where the connection is refused, they are over after half a minute."""
GCS_RETRIES = timedelta(seconds=60)
"""Its own limit is a quarter of an hour, without a word."""
_GOOGLE = "GOOGLE_APPLICATION_CREDENTIALS"
CREDENTIALS = {"s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY", "gs": _GOOGLE, "gcs": _GOOGLE}
"""Scheme of a bucket → where its credentials are read from, the only place."""
PAGE_TOO_LONG = "Failed to flush response stream"
PAGE_WAITS_S = (0.1, 0.2, 0.5, 1.0, 2.0, 4.0)
_OF_A_DISK = re.compile(r"local file|\[errno \d+\]", re.IGNORECASE)
T = TypeVar("T")


def filesystem_of(uri: str) -> tuple[pafs.FileSystem, str]:
    """URI or local path → (file system, path in it). Raises StoreError for an unknown scheme, or credentials in the URI."""
    scheme, _, rest = uri.partition("://") if "://" in uri else ("", "", uri)
    if scheme in ("", "file"):
        path = uri.removeprefix("file://")
        return pafs.LocalFileSystem(), os.path.abspath(os.path.expanduser(path))
    bucket = rest.partition("/")[0]
    if scheme not in CREDENTIALS:  # not the rest: a presigned URL holds a signature
        host = re.match(r"[\w.-]*", bucket.rpartition("@")[2])
        raise StoreError(
            f"{scheme}://{host[0] if host else ''}: unknown storage {scheme}://; use s3://, gs:// or a local path"
        )
    if "@" in bucket or ":" in bucket:  # the URI is stored and shown: not even the error may repeat it
        raise StoreError(f"{scheme}:// URI: credentials do not belong in it; set {CREDENTIALS[scheme]}")
    if scheme == "s3":
        if not bucket:
            raise StoreError(f"{uri}: names no bucket; write it as s3://bucket/prefix")
        endpoint = s3_endpoint()
        parts = urlsplit(endpoint)
        options: dict[str, Any] = {
            "connect_timeout": S3_CONNECT_TIMEOUT_S,
            "request_timeout": S3_REQUEST_TIMEOUT_S,
            "retry_strategy": pafs.AwsStandardS3RetryStrategy(max_attempts=S3_ATTEMPTS),
        }
        if endpoint:
            options |= {"endpoint_override": parts.netloc, "scheme": parts.scheme}
        region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
        if region or endpoint:
            options["region"] = region or "us-east-1"
        return pafs.S3FileSystem(**options), rest.rstrip("/")
    return pafs.GcsFileSystem(retry_time_limit=GCS_RETRIES), rest.rstrip("/")


def is_file_name(name: str) -> bool:
    """Whether a folder can hold a file of this name: an object's key may be `a/../b`, and its copy would land somewhere else."""
    return "\0" not in name and {"", ".", ".."}.isdisjoint(name.split("/"))


def is_here(uri: str) -> bool:
    """Whether it is a path of this machine."""
    return "://" not in uri or uri.startswith("file://")


def s3_endpoint() -> str:
    """The endpoint the environment names, "" for Amazon's own. Raises StoreError where it is no URL."""
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        if endpoint := os.environ.get(name, ""):
            parts = urlsplit(endpoint)
            if parts.scheme not in ("http", "https") or not parts.netloc:
                raise StoreError(f"{name}: {endpoint!r} is no URL; write it as https://host:port")
            return endpoint
    return ""


def patiently(read: Callable[[], T]) -> T:
    """`read`, again where S3 turned it away with a page of error that is longer than what was asked for.

    pyarrow's client repeats requests by itself, but not these (a 503 for a file of 200 bytes): their page does not fit its buffer,
    and that is the error it tells.
    """
    for wait_s in PAGE_WAITS_S:
        try:
            return read()
        except OSError as error:
            if PAGE_TOO_LONG not in str(error):
                raise
        time.sleep(wait_s)
    return read()


@contextmanager
def storage_errors(uri: str, doing: str) -> Iterator[None]:
    """Turn the file system's errors into one line that names the place and the likely fix.

    To be put around what touches this very place and no other: whatever fails inside is blamed on it. A disk of this machine that a
    bucket is copied to or from is named as what it is, and a table that cannot be written as Parquet is no fault of the storage.
    """
    try:
        yield
    except MemoryError:
        raise
    except FileNotFoundError:
        raise StoreError(f"{uri}: not found ({doing})") from None
    except PermissionError:
        raise StoreError(f"{uri}: permission denied ({doing})") from None
    except UnicodeDecodeError:  # pyarrow's, of a damaged Parquet file
        raise StoreError(f"{uri}: damaged: it holds names that are not UTF-8 ({doing})") from None
    except (OSError, pa.ArrowException) as error:
        if not isinstance(error, OSError) and doing.startswith("writing"):
            raise
        meaning = meaning_of(plain(str(error), 1000))
        if not is_here(uri) and _OF_A_DISK.search(str(error)):
            here = f"{tempfile.gettempdir()} on this machine"
            raise StoreError(f"{here}: {meaning} ({doing}: {uri}); free some, or set TMPDIR to another disk") from None
        raise StoreError(f"{uri}: {meaning} ({doing})") from None


def meaning_of(text: str) -> str:
    """What an S3 (or other) error means to the person who has to mend it."""
    known = {
        "NO_SUCH_BUCKET": "no such bucket",
        "NoSuchBucket": "no such bucket",
        "bucket does not exist": "no such bucket",
        "ACCESS_DENIED": "access denied; check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket's policy",
        "HTTP status 403": "access denied; check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the bucket's policy",
        "SignatureDoesNotMatch": "the secret key is wrong (signature does not match); check AWS_SECRET_ACCESS_KEY",
        "SIGNATURE_DOES_NOT_MATCH": "the secret key is wrong (signature does not match); check AWS_SECRET_ACCESS_KEY",
        "INVALID_ACCESS_KEY_ID": "the access key is unknown; check AWS_ACCESS_KEY_ID",
        "NO_CREDENTIALS": "no credentials; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
        "OAuth2 access token": f"no credentials; set {_GOOGLE}",
        "NETWORK_CONNECTION": "cannot be reached; check AWS_ENDPOINT_URL and the network",
        "Unable to parse ExceptionName: InvalidAccessKeyId": "the access key is unknown; check AWS_ACCESS_KEY_ID",
        "No space left on device": "no space left on the device",
        "Read-only file system": "read-only file system",
        "Not a directory": "a file stands where a folder is needed",
        "File exists": "a file stands where a folder is needed",
        "Is a directory": "a folder stands where a file is needed",
        "Parquet magic bytes not found": "no Parquet file, or one cut short; copy it again, or name it by its own kind",
        "Parquet file size is": "no Parquet file, or one cut short; copy it again, or name it by its own kind",
    }
    return next((meaning for mark, meaning in known.items() if mark in text), plain(text, 160))
