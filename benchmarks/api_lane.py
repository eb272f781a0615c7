"""How many requests the API lane keeps in flight, how many a second it carries, and how closely it uses a rate limit.

    python -m benchmarks.api_lane [--rows 8000] [--in-flight 256] [--latency-s 1] [--replicas 1] [--cap-usd N]
                                  [--requests-per-minute N]

A replay server in a process of its own answers after `--latency-s`; its counts of what is in flight, sampled 20 times a
second while at least two rounds of requests are still to come, are what is reported. Server, lane, Ray and sampling
share this machine: where they use up its cores (below about 0.1 s of latency on two cores), the figure is the
machine's. One JSON object on standard output.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import ray

from jobs.journal.reader import Journal
from jobs.lanes.base import LaneContext
from jobs.lanes.openai.lane import OpenAILane
from jobs.money.client import GovernorClient
from jobs.spec.models import ModelSpec
from jobs.storage.store import Store
from routing.data.outcomes import Outcomes, write_outcomes
from routing.pricing import Price
from tests.replay_server import Replay, process_replay

PROMPT_BYTES = 400


def outcomes(n: int) -> Outcomes:
    """n prompts of 400 bytes with answers of 200."""
    return Outcomes(
        ids=[str(i) for i in range(n)],
        prompts=[prompt(i) for i in range(n)],
        datasets=["made"] * n,
        models=("m",),
        quality=np.ones((n, 1), np.float32),
        responses=np.array([[f"answer {i} ".ljust(200, "y")] for i in range(n)], dtype=object),
        prompt_tokens=np.full((n, 1), 100.0),
        completion_tokens=np.full((n, 1), 50.0),
    )


def prompt(i: int) -> str:
    return f"question {i} ".ljust(PROMPT_BYTES, "x")


def rows(n: int, per_block: int) -> ray.data.Dataset:
    messages = [json.dumps([{"role": "user", "content": prompt(i)}]) for i in range(n)]
    table = pa.table(
        {
            "row_key": np.arange(n),
            "bucket": np.arange(n, dtype=np.int32) // 50_000,
            "messages": messages,
            "body": [""] * n,
            "content_key": pa.array([b"c" * 16] * n, pa.binary(16)),
            "prompt_bytes": np.full(n, PROMPT_BYTES, np.int32),
            "sample": np.zeros(n, bool),
        }
    )
    return ray.data.from_arrow(table).repartition(target_num_rows_per_block=per_block)


def measure(server: Replay, arguments: argparse.Namespace, folder: Path) -> dict[str, Any]:
    limits = {"in_flight": arguments.in_flight, "requests_per_minute": arguments.requests_per_minute}
    spec: dict[str, Any] = {"engine": "openai", "model": "m", "base_url": server.base_url, "limits": limits}
    model = ModelSpec.model_validate(spec | {"replicas": arguments.replicas, "api_key_env": "HEADGATE_BENCHMARK_KEY"})
    run = str(folder / "run")
    governor = GovernorClient.start(run, "b", arguments.cap_usd, {"m": model.limits}, str(folder / "local"))
    context = LaneContext(
        alias="m",
        model=model,
        sampling={"max_tokens": 64},
        response_format=None,
        price=Price(1.0, 4.0),
        output=run,
        session="b",
        local_dir=str(folder / "local"),
        governor=governor,
        num_cpus=0.5,
        rows_per_block=arguments.rows_per_block,
    )
    samples: list[tuple[float, dict[str, Any]]] = []
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.05):
            samples.append((time.monotonic(), server.stats()))

    thread = threading.Thread(target=watch)
    thread.start()
    dataset = rows(arguments.rows, arguments.rows_per_block)
    blocks = list(OpenAILane().answer(dataset, context).iter_rows())
    stop.set()
    thread.join()
    stats = server.stats()
    grants = len(Store(run).list("ledger"))
    governor.close(timeout_s=60)
    left = 2 * arguments.in_flight
    full = [(at, each) for at, each in samples if arguments.in_flight < each["requests"] < arguments.rows - left]
    in_flight = [each["in_flight"] for _, each in full]
    (start, first), (end, last) = full[0], full[-1]
    return {
        "rows": arguments.rows,
        "latency_s": arguments.latency_s,
        "replicas": arguments.replicas,
        "allowed_in_flight": arguments.in_flight,
        "in_flight_mean": round(float(np.mean(in_flight)), 1),
        "in_flight_p5": float(np.percentile(in_flight, 5)),
        "peak_in_flight": stats["peak_in_flight"],
        "requests_per_s": round((last["requests"] - first["requests"]) / (end - start), 1),
        "rate_limit_per_s": arguments.requests_per_minute and arguments.requests_per_minute / 60,
        "refused_429": stats["faults"]["429"],
        "repeated": stats["repeated"],
        "settled": sum(block["settled"] for block in blocks),
        "segments": len(Journal(Store(run)).segments("m")),
        "grants": grants,
        "cores": os.cpu_count(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--rows", type=int, default=8000)
    parser.add_argument("--rows-per-block", type=int, default=512)
    parser.add_argument("--in-flight", type=int, default=256)
    parser.add_argument("--latency-s", type=float, default=1.0)
    parser.add_argument("--replicas", type=int, default=1)
    parser.add_argument("--requests-per-minute", type=int, default=None)
    parser.add_argument("--cap-usd", type=float, default=None)
    arguments = parser.parse_args()
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    options = ["--latency-s", str(arguments.latency_s)]
    if arguments.requests_per_minute:
        options += ["--requests-per-minute", str(arguments.requests_per_minute), "--burst", str(arguments.in_flight)]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_outcomes(outcomes(arguments.rows), folder / "outcomes.parquet")
        ray.init(
            address="local", num_cpus=8, object_store_memory=512 * 2**20, include_dashboard=False, log_to_driver=False
        )
        ray.data.DataContext.get_current().enable_progress_bars = False
        with process_replay(folder / "outcomes.parquet", *options) as server:
            print(json.dumps(measure(server, arguments, folder)))
        ray.shutdown()


if __name__ == "__main__":
    main()
