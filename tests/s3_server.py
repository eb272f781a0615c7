"""S3 over real HTTP on loopback: moto_server (2 s, most tests) and Ceph's gateway (4 s, what a real store says).

A test that takes `s3_moto` or `s3_ceph` has an empty bucket of its own, and its environment (AWS_ENDPOINT_URL, keys,
region) leads there, for this process and for every program it starts. Ray workers keep the environment Ray was started
with: a test that runs Ray in its own process takes `own_ray` *after* the bucket.
"""

from __future__ import annotations

import secrets
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from ceph import CephGateway, missing_binaries
from ports import free_port

__all__ = ["S3Bucket", "ceph_gateway", "moto_endpoint", "s3_ceph", "s3_moto"]
MOTO_START_TIMEOUT_S = 60


@dataclass(frozen=True, slots=True)
class S3Bucket:
    """One empty bucket on a server of this test session."""

    endpoint: str
    access_key: str
    secret_key: str
    name: str

    @property
    def environment(self) -> dict[str, str]:
        """What a process needs to reach it. Without the last two, SDKs send chunked uploads: Ceph 16 answers 411."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_REGION": "us-east-1",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        }

    def uri(self, path: str = "") -> str:
        return f"s3://{self.name}/{path}".rstrip("/")

    def client(self) -> Any:
        """A boto3 client of its own, to look at the bucket from outside the code under test."""
        import boto3

        session = boto3.session.Session(self.access_key, self.secret_key, region_name="us-east-1")
        return session.client("s3", endpoint_url=self.endpoint)

    def keys(self) -> list[str]:
        """Every key in the bucket, sorted."""
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=self.name)
        return sorted(item["Key"] for page in pages for item in page.get("Contents", []))


@pytest.fixture(scope="session")
def moto_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a moto_server process that lives as long as the test session."""
    port, log = free_port(), tmp_path_factory.mktemp("moto") / "moto.log"
    with log.open("wb") as output:
        command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
        server = subprocess.Popen(command, stdout=output, stderr=output, stdin=subprocess.DEVNULL)
    try:
        _wait_until_up(f"http://127.0.0.1:{port}", server, log)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()  # it holds nothing worth saving
        server.wait()


def _wait_until_up(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + MOTO_START_TIMEOUT_S
    while server.poll() is None and time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(url, timeout=5):
                return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"moto_server did not start: {log.read_text()[-500:]}")


@pytest.fixture
def s3_moto(moto_endpoint: str, monkeypatch: pytest.MonkeyPatch) -> S3Bucket:
    """An empty bucket on moto_server; the environment leads to it. It accepts any key and any secret."""
    return _bucket(
        S3Bucket(moto_endpoint, "testing", secrets.token_hex(20), f"bucket-{secrets.token_hex(6)}"), monkeypatch
    )


@pytest.fixture(scope="session")
def ceph_gateway() -> Iterator[CephGateway]:
    """A Ceph gateway that lives as long as the test session; skips, and says so, where Ceph is not installed."""
    if missing := missing_binaries():
        hint = "apt-get install --no-install-recommends radosgw ceph-mon ceph-osd"
        pytest.skip(f"Ceph is not installed ({', '.join(missing)} missing): {hint}")
    with CephGateway() as gateway:
        yield gateway


@pytest.fixture
def s3_ceph(ceph_gateway: CephGateway, monkeypatch: pytest.MonkeyPatch) -> S3Bucket:
    """An empty bucket on Ceph; the environment leads to it. Secrets are checked."""
    gateway = ceph_gateway
    return _bucket(
        S3Bucket(gateway.endpoint, gateway.access_key, gateway.secret_key, f"bucket-{secrets.token_hex(6)}"),
        monkeypatch,
    )


def _bucket(bucket: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> S3Bucket:
    for name, value in bucket.environment.items():
        monkeypatch.setenv(name, value)
    bucket.client().create_bucket(Bucket=bucket.name)
    return bucket
