"""What `headgate status` says of a run in its journal, and what it holds in memory to say it."""

from __future__ import annotations

import json
import time
import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from jobs.journal.compaction import compact_journal
from jobs.journal.rows import ANSWER_SCHEMA, Answer, answers_table
from jobs.journal.segments import segment_name
from jobs.route.status import recent_times, run_status
from jobs.storage.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """A run of one model that has no plan yet."""
    store = Store(str(tmp_path / "out"))
    identity = {"format": 1, "created": "2026-11-21T00:00:00Z", "input": [], "fingerprints": {}, "models": ["m"]}
    store.create("_headgate/run.json", json.dumps(identity).encode())
    return store


def segment(store: Store, writer: str, number: int, rows: list[Answer]) -> None:
    store.write_table(segment_name("m", f"s--{writer * 12}--{number:06d}", [0]), answers_table(rows))


def test_rows_dollars_and_the_rate_of_the_last_minute(store: Store) -> None:
    now = time.time()
    for number in range(4):  # the newest two have rows of the last minute
        times = now - 20 * (3 - number) - 30
        rows = [
            Answer(10 * number + i, 0, "answered", bytes(16), "x", cost_usd=0.5, settled_at=times) for i in range(10)
        ]
        segment(store, "a", number, rows)
    segment(store, "b", 0, [Answer(100, 0, "failed", bytes(16), lost_usd=0.25, settled_at=now - 10)])
    segment(store, "b", 1, [Answer(100, 0, "rejected", bytes(16), lost_usd=0.25, settled_at=now - 5)])
    found = run_status(store.uri).models["m"]
    assert (found.answered, found.rejected, found.failed) == (40, 1, 0)
    assert (found.spent_usd, found.lost_usd) == (20.0, 0.5)
    assert found.rows_per_s == pytest.approx(22 / 50, rel=0.05)


def test_the_json_keeps_its_keys(store: Store) -> None:
    found = run_status(store.uri).to_json()
    assert list(found) == [
        "output", "stage", "created", "held_by", "plan", "rows", "models", "planned_usd", "cap_usd", "spent_usd",
        "lost_usd", "eta_s", "open",
    ]  # fmt: skip
    assert list(found["models"]["m"]) == [
        "planned", "answered", "rejected", "failed", "spent_usd", "lost_usd", "rows_per_s",
    ]  # fmt: skip


def test_only_the_newest_segments_of_each_writer_are_looked_at(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for writer in "ab":
        for number in range(5):
            segment(store, writer, number, [Answer(number, 0, "answered", bytes(16), settled_at=float(number))])
    names, read = store.list("answers"), []
    batches = store.batches
    monkeypatch.setattr(store, "batches", lambda name, *more: read.append(name) or batches(name, *more))
    assert sorted(recent_times(store, names, 2.5)) == [3.0, 3.0, 4.0, 4.0]
    assert len(read) == 6
    compact_journal(Store(store.uri), ["m"], 0)
    assert len(recent_times(store, names, 2.5)) == 0, "merged meanwhile, which a start of the run does"


def test_a_long_journal_is_counted_in_little_memory(store: Store) -> None:
    n = 200_000
    columns = {
        "row_key": np.arange(n), "bucket": np.zeros(n, np.int32), "cost_usd": np.full(n, 0.5),
        "lost_usd": np.zeros(n), "settled_at": np.ones(n), "latency_s": np.zeros(n, np.float32),
        "attempts": np.ones(n, np.int32), "answer_key": pa.array([bytes(16)]).take(pa.array(np.zeros(n, int))),
    }  # fmt: skip
    texts = {"kind": "answered", "purpose": "answer", "finish_reason": "stop", "token_source": "", "error": ""}
    columns |= {name: pa.array([text]).take(pa.array(np.zeros(n, int))) for name, text in texts.items()}
    arrays = [
        pa.array(columns[each.name]).cast(each.type) if each.name in columns else pa.nulls(n, each.type)
        for each in ANSWER_SCHEMA
    ]
    store.write_table(
        segment_name("m", f"s--{'a' * 12}--000000", [0]), pa.Table.from_arrays(arrays, schema=ANSWER_SCHEMA)
    )
    run_status(store.uri)  # what is imported and cached
    tracemalloc.start()
    try:
        found = run_status(store.uri).models["m"]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (found.answered, found.spent_usd) == (n, 0.5 * n)
    assert peak < 80 * n
