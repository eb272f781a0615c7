"""What it takes to come back to a run of ten million settled rows: seconds and memory, before and after its segments are merged.

    python -m benchmarks.journal_scale [--keys 10000000] [--segments 10000] [--text 200] [--by-rank] [--dir DIR]

Writes a journal of one model into a temporary folder, as the lanes of a long run leave it: equal segments, each of one
bucket of 50,000 rows (with `--by-rank` each of all buckets), a hundredth of the rows tried twice, answers of random
words. Then each step of a start runs in a process of its own: `settled` (what is still to ask), `paid` (what the
planner knows of the money), `spent` (what the governor counts), the merge, and the three again. `memory_mb` is the
process's peak, 150 MB of libraries included (a driver
has some 200 MB more of Ray). One JSON object on standard output, the targets beside the figures.
Disk: about 250 bytes a key, at its peak twice that. Start small: --keys 200000 --segments 200.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from jobs.journal.compaction import compact_journal
from jobs.journal.reader import Journal
from jobs.journal.rows import ANSWER_SCHEMA, RANKS
from jobs.journal.segments import segment_name
from jobs.storage.store import Store

MODEL = "m"
TARGETS = {"seconds": 60, "memory_mb": 1000}
"""For `settled` and `paid`: issue "Never paid twice", ten million keys on two cores."""
TEXTS = 20_000
TWICE = 100
"""One row in so many was tried before, and failed."""


def write_journal(store: Store, keys: int, segments: int, text: int, by_rank: bool) -> None:
    """`keys` answers and their failed tries in `segments` files, as `jobs.journal.writer` writes them."""
    from jobs.route.score.stage import SHARD_ROWS  # Ray and the routers: not in the processes that are measured
    from jobs.storage.keys import row_keys

    rng = np.random.default_rng(0)
    words = np.array([f"{word:x}" for word in rng.integers(0, 2**32, 5000)])
    texts = pa.array([" ".join(line) for line in words[rng.integers(0, len(words), (TEXTS, text // 9 + 1))].tolist()])
    positions = np.arange(keys)
    if by_rank:
        rng.shuffle(positions)
    for number, part in enumerate(np.array_split(positions, segments)):
        again = part[::TWICE] if number % 2 else part[:0]
        rows = np.concatenate([part, again])
        kinds = np.array(["answered"] * len(part) + ["failed"] * len(again))
        columns: dict[str, Any] = {
            "row_key": row_keys(rows), "bucket": (rows // SHARD_ROWS).astype(np.int32), "kind": kinds,
            "purpose": np.where(rows % 50, "answer", "shadow"), "answer_key": pa.array([bytes(16)] * len(rows), pa.binary(16)),
            "generated_text": texts.take(pa.array(rng.integers(0, TEXTS, len(rows)))), "finish_reason": ["stop"] * len(rows),
            "token_source": ["provider"] * len(rows), "cost_usd": rng.gamma(2.0, 0.001, len(rows)),
            "lost_usd": np.where(kinds == "failed", 0.001, 0.0), "latency_s": rng.gamma(2.0, 0.5, len(rows)).astype(np.float32),
            "attempts": np.ones(len(rows), np.int32), "error": [""] * len(rows),
            "settled_at": 1.8e9 + number * 2.0 + rng.random(len(rows)), "prompt_tokens": rng.integers(50, 500, len(rows)),
            "completion_tokens": rng.integers(5, 300, len(rows)),
        }  # fmt: skip
        arrays = [pa.array(columns.get(f.name, [None] * len(rows)), f.type) for f in ANSWER_SCHEMA]
        table = pa.Table.from_arrays(arrays, schema=ANSWER_SCHEMA).sort_by(
            [("bucket", "ascending"), ("row_key", "ascending")]
        )
        name = segment_name(
            MODEL, f"s{number * 3 // segments}--{number % 16:012x}--{number:06d}", table["bucket"].to_pylist()
        )
        store.write_table(name, table)


def settled(store: Store) -> dict[str, Any]:
    """`jobs.route.answer.waves.settled_keys` of one model."""
    found = Journal(store).by_kind(MODEL)
    return {"answered": len(found.answered), "rejected": len(found.rejected)}


def paid(store: Store) -> dict[str, Any]:
    """`jobs.route.plan.planner.Planner.paid` of one model, the planner's own columns left out."""
    found = Journal(store).settlements(MODEL)
    return {"answered": int((found.rank == RANKS["answered"]).sum()), "usd": round(float(found.cost_usd.sum()), 6)}


def spent(store: Store) -> dict[str, Any]:
    """`Journal.spent`, what the governor starts with."""
    found = Journal(store).spent(MODEL)
    by_session = {session: round(usd, 6) for session, usd in (found.by_session or {}).items()}
    return {"usd": round(found.cost_usd, 6), "lost_usd": round(found.lost_usd, 6), "by_session": by_session}


def merge(store: Store) -> dict[str, Any]:
    """`jobs.journal.compaction.compact_journal`."""
    done = compact_journal(store, [MODEL], 0)[MODEL]
    sizes = [(Path(store.root) / name).stat().st_size for name in Journal(store).segments(MODEL)]
    return {
        "segments": done.segments,
        "files": done.files,
        "rows": done.rows,
        "mb_each": round(np.mean(sizes) / 1e6, 1),
    }


def one_bucket(store: Store) -> dict[str, Any]:
    """`Journal.read` of one bucket with all its columns: what accounting does per bucket."""
    return {"rows": len(Journal(store).read(MODEL, 1))}


STEPS: dict[str, Callable[[Store], dict[str, Any]]] = {
    "settled": settled, "paid": paid, "spent": spent, "merge": merge, "one_bucket": one_bucket
}  # fmt: skip


def in_own_process(step: str, folder: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "benchmarks.journal_scale", "--step", step, "--dir", folder]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    print(f"{step}: {done.stdout.strip()}", file=sys.stderr, flush=True)
    return found


def measured(step: str, store: Store) -> dict[str, Any]:
    """A step's result, wall and processor seconds, and the peak of this process."""
    started, cpu = time.perf_counter(), time.process_time()
    found = STEPS[step](store)
    return {
        "seconds": round(time.perf_counter() - started, 2),
        "cpu_seconds": round(time.process_time() - cpu, 2),
        "memory_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3),
        **found,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="A journal of many keys: to read it, to merge it.")
    parser.add_argument("--keys", type=int, default=10_000_000)
    parser.add_argument("--segments", type=int, default=10_000)
    parser.add_argument("--text", type=int, default=200, help="bytes of an answer")
    parser.add_argument("--by-rank", action="store_true", help="every segment has rows of all buckets")
    parser.add_argument("--dir", help="where the temporary folder is made")
    parser.add_argument("--step", choices=list(STEPS), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.step:
        print(json.dumps(measured(args.step, Store(args.dir))))
        return
    with tempfile.TemporaryDirectory(dir=args.dir) as folder:
        started = time.perf_counter()
        write_journal(Store(folder), args.keys, args.segments, args.text, args.by_rank)
        size = sum(path.stat().st_size for path in Path(folder).rglob("*.parquet"))
        found: dict[str, Any] = {"keys": args.keys, "journal_mb": round(size / 1e6), "targets": TARGETS}
        print(f"written in {time.perf_counter() - started:.0f} s, {size / 1e6:.0f} MB", file=sys.stderr, flush=True)
        read = ("settled", "paid", "spent", "one_bucket")
        found["before"] = {step: in_own_process(step, folder) for step in read}
        found["merge"] = in_own_process("merge", folder)
        found["after"] = {step: in_own_process(step, folder) for step in read}
        figures = ("answered", "rejected", "usd", "lost_usd", "by_session", "rows")
        same = all(found["before"][s].get(f) == found["after"][s].get(f) for s in read for f in figures)
        found["same"] = same
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
