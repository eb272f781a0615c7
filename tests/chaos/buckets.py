"""S3 over HTTP for the chaos runs: moto's server as a process, and a bucket on it, seen directly and through a proxy."""

from __future__ import annotations

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.ports import free_port

MOTO_START_LIMIT_S = 120


@dataclass(frozen=True, slots=True)
class Bucket:
    """One bucket. The job reaches it at `endpoint` (the proxy), the checks at `direct`."""

    name: str
    endpoint: str
    direct: str

    @property
    def environment(self) -> dict[str, str]:
        """What the job's processes need. The last two keep uploads plain: chunked ones are another test's matter."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint,
            "AWS_ACCESS_KEY_ID": "testing",
            "AWS_SECRET_ACCESS_KEY": "testing",
            "AWS_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            "AWS_REQUEST_CHECKSUM_CALCULATION": "when_required",
            "AWS_RESPONSE_CHECKSUM_VALIDATION": "when_required",
        }

    def uri(self, path: str) -> str:
        return f"s3://{self.name}/{path}"

    def client(self) -> Any:
        import boto3

        session = boto3.session.Session("testing", "testing", region_name="us-east-1")
        return session.client("s3", endpoint_url=self.direct)

    def create(self) -> None:
        self.client().create_bucket(Bucket=self.name)

    def keys(self) -> list[str]:
        pages = self.client().get_paginator("list_objects_v2").paginate(Bucket=self.name)
        return sorted(item["Key"] for page in pages for item in page.get("Contents", []))

    def read(self, key: str) -> bytes:
        body: bytes = self.client().get_object(Bucket=self.name, Key=key)["Body"].read()
        return body


@contextmanager
def moto_server(log: Path) -> Iterator[str]:
    """URL of a moto server process; it ends with the context."""
    port = free_port()
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with log.open("w") as out:
        server = subprocess.Popen(command, stdout=out, stderr=out, stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + MOTO_START_LIMIT_S
        while not _is_up(f"http://127.0.0.1:{port}"):
            if server.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"moto did not start: {log.read_text()[-500:]}")
            time.sleep(0.1)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.kill()  # it holds nothing worth saving
        server.wait()


def _is_up(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False
