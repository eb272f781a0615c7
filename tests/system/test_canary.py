"""A canary key is planted in the environment; after three runs on a cluster nothing written, logged or asked for holds it.

One run is answered, one has another canary printed by a program, one is refused by a provider that repeats the key in its error, as
some do. Searched are: the job file, the whole output (Parquet decoded, since compression would hide it), Ray's session folder of
every node, local journals and tracebacks, what the terminal showed, and Ray's state API with all its details.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from ray._private.authentication.http_token_authentication import get_auth_headers_if_auth_enabled

from jobs.replay.options import ReplayOptions
from tests.replay_server import small_outcomes, thread_replay

CANARY = "sk-canary-4f1d9c7b2e6a8053"
KEY_ENV = "HEADGATE_CANARY_KEY"
PRINTED = "sk-printed-8c1e5a90d2b7f346"
ROWS = 40
STATE = ("actors", "tasks", "jobs", "nodes", "runtime_envs", "workers", "objects", "placement_groups")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]


class Echo(BaseHTTPRequestHandler):
    """A provider that refuses every row, and repeats the key it was given in every way it can."""

    def do_GET(self) -> None:
        self._reply(200, {"data": [{"id": "org/weak"}, {"id": "strong"}]})

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        given = self.headers["Authorization"]
        error = {"message": f"{given} ({given.removeprefix('Bearer ')}) is not allowed", "type": given, "code": given}
        self._reply(400, {"error": error})

    def _reply(self, status: int, body: dict) -> None:
        raw = json.dumps(body).encode()
        self.send_response(status, self.headers.get("Authorization", ""))
        self.send_header("X-Echo", self.headers.get("Authorization", ""))
        self.send_header("Content-Length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def echo_url():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Echo)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}/v1"
    server.shutdown()
    server.server_close()


@pytest.fixture
def cluster(monkeypatch):
    """A cluster with a dashboard whose every file is below one short path; the key is in its nodes' environment."""
    from ray.cluster_utils import Cluster

    folder = Path(tempfile.mkdtemp(prefix="hc-"))  # Ray's sockets live below it, and their paths may not be long
    (folder / "ray").mkdir()
    monkeypatch.setenv("RAY_raylet_start_wait_time_s", "180")
    for name, value in {KEY_ENV: CANARY, "TMPDIR": str(folder), "RAY_TMPDIR": str(folder)}.items():
        monkeypatch.setenv(name, value)
    made = Cluster(
        initialize_head=True,
        head_node_args={
            "num_cpus": 8, "object_store_memory": 256 * 2**20, "include_dashboard": True,
            "dashboard_port": 0, "temp_dir": str(folder / "ray"),
        },
    )  # fmt: skip
    yield made, folder
    made.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def job(base_url: str, folder: Path, command: list[str] | None = None) -> Path:
    def model(name: str) -> dict:
        price = {"per_million": {"input": 1.0, "output": 2.0}}
        key = {"api_key_command": command} if command else {"api_key_env": KEY_ENV}
        return {"engine": "openai", "model": name, "base_url": base_url, "price": price} | key

    data = {
        "input": {"path": str(folder.parent / "in"), "prompt": "q", "id": "id"}, "output": str(folder / "out"), "router": "random",
        "models": {"weak": model("org/weak"), "strong": model("strong")}, "weak": "weak", "strong": "strong",
        "sampling": {"temperature": 0, "max_tokens": 512}, "policy": {"strong_share": 0.5}, "max_usd": 1,
    }  # fmt: skip
    folder.mkdir()
    (folder / "job.yaml").write_text(yaml.safe_dump(data))
    return folder / "job.yaml"


def run(path: Path, address: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "jobs.route", "--config", str(path), "--json", "--allow-code"]
    done = subprocess.run(
        command, env=os.environ | {"RAY_ADDRESS": address}, capture_output=True, text=True, timeout=600
    )
    (path.parent / "terminal.txt").write_text(done.stdout + done.stderr)
    return done


def places_with(canary: str, folder: Path) -> list[str]:
    """Files below `folder` that hold the canary, Parquet read as values."""
    found = []
    for path in folder.rglob("*"):
        if not path.is_file() or path.is_symlink():
            continue
        text = path.read_bytes()
        if path.suffix == ".parquet":
            text += repr(pd.read_parquet(path).to_dict("list")).encode("utf-8", "replace")
        if canary.encode() in text:
            found.append(str(path.relative_to(folder)))
    return found


def test_the_key_is_nowhere_but_in_the_environment(cluster, echo_url, tmp_path):
    ray_cluster, session = cluster
    (tmp_path / "in").mkdir()
    table = {"id": [f"r{i}" for i in range(ROWS)], "q": [f"question {i}" for i in range(ROWS)]}
    pq.write_table(pa.table(table), tmp_path / "in/rows.parquet")
    with thread_replay([small_outcomes(ROWS)], ReplayOptions(latency_s=0.01, api_key=CANARY)) as server:
        answered = run(job(server.base_url, tmp_path / "good"), ray_cluster.address)
        assert answered.returncode == 0, answered.stderr[-2000:]
        assert server.stats()["answered"] == ROWS, "the key was used"
    half = len(PRINTED) // 2  # the canary stands whole nowhere, in the job file neither
    with thread_replay([small_outcomes(ROWS)], ReplayOptions(latency_s=0.01, api_key=PRINTED)) as server:
        command = ["printf", "%s%s\\n", PRINTED[:half], PRINTED[half:]]
        printed = run(job(server.base_url, tmp_path / "printed", command), ray_cluster.address)
        assert printed.returncode == 0, printed.stderr[-2000:]
        assert server.stats()["answered"] == ROWS
    refused = run(job(echo_url, tmp_path / "bad"), ray_cluster.address)
    assert refused.returncode == 3 and "[key]" in refused.stderr + refused.stdout, refused.stderr[-2000:]
    for canary in (CANARY, PRINTED):
        assert places_with(canary, tmp_path) == []
        assert places_with(canary, session) == []
    asked = 0
    for kind in STATE:
        url = f"http://{ray_cluster.head_node.webui_url}/api/v0/{kind}?detail=true&limit=9999"
        # A Ray that an earlier test started in this process may have switched token authentication on.
        request = urllib.request.Request(url, headers=get_auth_headers_if_auth_enabled({}))
        with urllib.request.urlopen(request, timeout=60) as reply:
            text = reply.read()
        asked += len(text)
        assert CANARY.encode() not in text and PRINTED.encode() not in text, kind
    assert asked > 10_000, "the state API told something"
