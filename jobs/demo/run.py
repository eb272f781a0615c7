"""`headgate demo`: the whole job on prompts and models that ship with it. No network, no key, no GPU.

The small model answers in a vLLM engine inside the job; the larger one stands behind a real OpenAI-compatible server (vLLM's own)
in the role of the API, with example prices. Without vLLM both run on plain transformers.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from pydantic import JsonValue

from jobs.demo.tasks import write_prompts
from jobs.errors import LaneDown
from jobs.route.cluster import ray_running
from jobs.route.pipeline import run_job
from jobs.route.start import Job
from jobs.spec.loader import parse_spec

ASSETS = Path(__file__).parent
PROMPTS, SEED = 2400, 7
SAMPLE_ROWS = 600
READY_S = 600.0
JOB_TEXT = """\
# The demo's job file. Change the policy and run `headgate run {folder}/job.yaml`: what is answered is not asked again.
"""


def demo_job(folder: Path, strong: Mapping[str, JsonValue], weak_engine: str) -> dict[str, JsonValue]:
    """The demo's job as a mapping."""
    weak: dict[str, JsonValue] = {
        "engine": weak_engine,
        "source": str(ASSETS / "models/weak"),
        "price": {"per_million": {"input": 0.6, "output": 0.6}},
    }
    return {
        "input": {"path": str(folder / "prompts"), "id": "id", "prompt": "prompt", "keep": ["category"]},
        "output": str(folder / "run"),
        "router": str(ASSETS / "router"),
        "models": {"weak": weak, "strong": {**strong, "price": {"per_million": {"input": 10.0, "output": 30.0}}}},
        "weak": "weak",
        "strong": "strong",
        "sampling": {"temperature": 0, "max_tokens": 24},
        "policy": {"strong_share": 0.3},
        "max_usd": 5.0,
        "sample": {"rows": SAMPLE_ROWS},
        "quality": {"gold": {"column": "answer", "match": "exact"}},
    }


def run_demo(
    where: str, live: bool | None = None, change: Mapping[str, JsonValue] | None = None
) -> tuple[int, dict[str, Any]]:
    """Make the prompts, start the strong model's server, run the job. Returns (exit code, report).

    change: top-level fields of the job file to put in place of the demo's own.
    """
    folder = Path(where).absolute()
    if not (folder / "prompts").exists():
        write_prompts(folder / "prompts", PROMPTS, SEED)
    print(f"headgate demo: {PROMPTS:,} prompts, two small models, one router; all in {folder}", file=sys.stderr)
    source = str(ASSETS / "models/strong")
    if importlib.util.find_spec("vllm") is None:
        return _run(folder, {"engine": "transformers", "source": source}, "transformers", live, change)
    api: dict[str, JsonValue] = {
        "engine": "openai",
        "model": "strong",
        "tokenizer": source,
        "limits": {"in_flight": 64},
    }
    if is_complete(folder / "run"):
        print(f"headgate demo: {folder / 'run'} is complete, nothing is asked; delete it to run again", file=sys.stderr)
        return _run(folder, api | {"base_url": "http://127.0.0.1:1/v1"}, "vllm", live, change)
    log = folder / "strong-server.log"
    with strong_server(source, log) as (server, port), ray_running():  # Ray starts while the server loads
        _wait_ready(server, port, log)
        return _run(folder, api | {"base_url": f"http://127.0.0.1:{port}/v1"}, "vllm", live, change)


def is_complete(run: Path) -> bool:
    """A run that has an answer for every row."""
    report = run / "report.json"
    return report.exists() and bool(json.loads(report.read_text())["complete"])


def _run(
    folder: Path,
    strong: Mapping[str, JsonValue],
    weak_engine: str,
    live: bool | None,
    change: Mapping[str, JsonValue] | None,
) -> tuple[int, dict[str, Any]]:
    """Write the job file and run it."""
    data = demo_job(folder, strong, weak_engine) | dict(change or {})
    text = JOB_TEXT.format(folder=folder.name) + yaml.safe_dump(data, sort_keys=False)
    (folder / "job.yaml").write_text(text)
    return run_job(Job(parse_spec(data), live=live))


@contextmanager
def strong_server(source: str, log: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """vLLM's OpenAI-compatible server on a free port of this machine, for the length of the demo: (process, port)."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    # fmt: off
    command = [
        sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", source, "--served-model-name", "strong",
        "--host", "127.0.0.1", "--port", str(port), "--dtype", "float32", "--enforce-eager", "--max-num-seqs", "64",
        "--max-model-len", "256", "--disable-log-stats",
    ]
    # fmt: on
    settings = {
        "OMP_NUM_THREADS": "1",
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
    }
    with log.open("wb") as out:
        server = subprocess.Popen(command, env=os.environ | settings, stdout=out, stderr=out, start_new_session=True)
    try:
        yield server, port
    finally:
        os.killpg(server.pid, signal.SIGTERM)  # its engine and workers too, also while it is still starting
        try:
            server.wait(15)
        except subprocess.TimeoutExpired:
            os.killpg(server.pid, signal.SIGKILL)
            server.wait()


def _wait_ready(server: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Wait for /health with a line that moves. Raises LaneDown where the server ends or takes too long."""
    started = time.monotonic()
    moving = sys.stderr.isatty()
    while time.monotonic() - started < READY_S:
        seconds = time.monotonic() - started
        if moving or int(seconds) % 10 == 0:
            print(
                f"headgate demo: starting the strong model's server, {seconds:.0f} s",
                end="\r" if moving else "\n",
                file=sys.stderr,
            )
        if server.poll() is not None:
            raise LaneDown(f"the strong model's server ended at once (exit {server.returncode}); see {log}")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=1):
                if moving:
                    print(" " * 79, end="\r", file=sys.stderr)
                return
        except (urllib.error.URLError, OSError):
            time.sleep(1.0)
    raise LaneDown(f"the strong model's server was not ready within {READY_S:.0f} s; see {log}")
