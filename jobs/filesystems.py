"""Which file system a URI means, and what its errors mean to the person who has to mend them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.fs as pafs

from jobs.errors import StoreError

S3_CONNECT_TIMEOUT_S, S3_REQUEST_TIMEOUT_S, S3_ATTEMPTS = 5, 20, 7
"""A job asks storage thousands of times: of one request in five turned away (503 SlowDown), 7 attempts leave one in 80,000.
Where the connection is refused, they are over after half a minute."""


def filesystem_of(uri: str) -> tuple[pafs.FileSystem, str]:
    """URI or local path → (file system, path in it). Raises StoreError for an unknown scheme."""
    scheme = urlsplit(uri).scheme if "://" in uri else ""
    if scheme in ("", "file"):
        path = uri.removeprefix("file://")
        return pafs.LocalFileSystem(), os.path.abspath(os.path.expanduser(path))
    if scheme == "s3":
        bucket = uri.removeprefix("s3://").partition("/")[0]
        if "@" in bucket:  # the URI is stored and shown: not even the error may repeat it
            raise StoreError(
                "s3:// URI: credentials do not belong in it; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
            )
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
        return pafs.S3FileSystem(**options), uri.removeprefix("s3://").rstrip("/")
    if scheme in ("gs", "gcs"):
        return pafs.GcsFileSystem(), uri.split("://", 1)[1].rstrip("/")
    raise StoreError(f"{uri}: unknown storage {scheme}://; use s3://, gs:// or a local path")


def s3_endpoint() -> str:
    """The endpoint the environment names, "" for Amazon's own. Raises StoreError where it is no URL."""
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        if endpoint := os.environ.get(name, ""):
            parts = urlsplit(endpoint)
            if parts.scheme not in ("http", "https") or not parts.netloc:
                raise StoreError(f"{name}: {endpoint!r} is no URL; write it as https://host:port")
            return endpoint
    return ""


@contextmanager
def storage_errors(uri: str, doing: str) -> Iterator[None]:
    """Turn the file system's errors into one line that names the place and the likely fix."""
    try:
        yield
    except FileNotFoundError:
        raise StoreError(f"{uri}: not found ({doing})") from None
    except PermissionError:
        raise StoreError(f"{uri}: permission denied ({doing})") from None
    except UnicodeDecodeError:  # pyarrow's, of a damaged Parquet file
        raise StoreError(f"{uri}: damaged: it holds names that are not UTF-8 ({doing})") from None
    except (OSError, pa.ArrowException) as error:
        raise StoreError(f"{uri}: {meaning_of(str(error))} ({doing})") from None


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
        "NETWORK_CONNECTION": "cannot be reached; check AWS_ENDPOINT_URL and the network",
        "Unable to parse ExceptionName: InvalidAccessKeyId": "the access key is unknown; check AWS_ACCESS_KEY_ID",
        "No space left on device": "no space left on the device",
        "Read-only file system": "read-only file system",
        "Not a directory": "a file stands where a folder is needed",
        "File exists": "a file stands where a folder is needed",
        "Is a directory": "a folder stands where a file is needed",
    }
    return next((meaning for mark, meaning in known.items() if mark in text), " ".join(text.split())[:160])
