"""The journal keeps what it was given: through kills at any point, torn records, refused stores, repeated answers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.errors import StoreError
from jobs.journal import writer as writer_module
from jobs.journal.local_log import encode, local_dir
from jobs.journal.reader import Journal
from jobs.journal.recovery import recover_orphans
from jobs.journal.rows import ANSWER_SCHEMA, RANKS, Answer, answers_table, clean
from jobs.journal.settling import one_per_key
from jobs.journal.writer import JournalWriter
from jobs.storage.store import Store


def answer(key: int, **more: object) -> Answer:
    values = {"bucket": key % 3, "kind": "answered", "answer_key": b"k" * 16, "generated_text": f"text {key}"}
    return Answer(row_key=key, **{**values, **more})  # type: ignore[arg-type]


@pytest.fixture
def places(tmp_path: Path) -> tuple[str, str]:
    return str(tmp_path / "run"), str(tmp_path / "local")


def logs(folder: str) -> list[str]:
    return sorted(name for name in os.listdir(folder) if name.endswith(".log"))


def test_answers_come_back_as_given(places: tuple[str, str]) -> None:
    given = answer(
        -5,
        prompt_tokens=7,
        completion_tokens=3,
        cached_tokens=2,
        token_source="provider",
        cost_usd=0.1,
        latency_s=0.5,
        gpu_s=None,
        error="",
        settled_at=12.5,
    )
    with JournalWriter(*places[:1], "gpt-4o", places[1], "s1") as writer:
        writer.append(given)
        writer.append(answer(2, generated_text="\ud800 é"))
    table = Journal(Store(places[0])).read("gpt-4o")
    assert table.schema.equals(ANSWER_SCHEMA)
    row = next(row for row in table.to_pylist() if row["row_key"] == -5)
    assert Answer(**row) == given
    assert [row["generated_text"] for row in table.to_pylist() if row["row_key"] == 2] == ["? é"]
    assert logs(places[1]) == []


def test_segments_name_their_buckets(places: tuple[str, str]) -> None:
    with JournalWriter(places[0], "m", places[1], "s1") as writer:
        for key in (10, 11, 12):
            writer.append(answer(key, bucket=key))
        writer.flush()
        writer.append(answer(40, bucket=40))
    reader = Journal(Store(places[0]))
    assert len(reader.segments("m")) == 2
    assert len(reader.segments("m", [11])) == 1
    assert len(reader.segments("m", [11, 40])) == 2
    assert reader.segments("m", [13, 39]) == []
    assert reader.read("m", 11, ["row_key"]).to_pylist() == [{"row_key": 11}]
    path = Path(places[0]) / reader.segments("m", [11])[0]
    assert pq.read_schema(path).metadata[b"buckets"] == b"10,11,12"
    assert pq.read_metadata(path).row_group(0).column(1).statistics.max == 12


def test_a_commit_comes_by_time_and_by_rows(places: tuple[str, str]) -> None:
    with JournalWriter(places[0], "m", places[1], "s1", flush_s=0.2, flush_rows=50) as writer:
        number = writer.append(answer(1))
        assert not writer.wait(number, 0.01)
        assert writer.wait(number, 5)
        started = time.monotonic()
        for key in range(50):
            number = writer.append(answer(key))
        assert writer.wait(number, 5)
        assert time.monotonic() - started < 5
    assert Journal(Store(places[0])).settled("m").tolist() == list(range(50))


def test_threads_append_at_once(places: tuple[str, str]) -> None:
    with JournalWriter(places[0], "m", places[1], "s1", flush_s=0.05, flush_rows=97) as writer:
        threads = [
            threading.Thread(target=lambda start=start: [writer.append(answer(start + i)) for i in range(500)])
            for start in range(0, 4000, 500)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    table = Journal(Store(places[0])).read("m", columns=["row_key", "attempts"])
    assert sorted(table["row_key"].to_pylist()) == list(range(4000))
    assert set(table["attempts"].to_pylist()) == {1}


def test_kinds_decide_and_no_dollar_vanishes(places: tuple[str, str]) -> None:
    with JournalWriter(places[0], "m", places[1], "s1") as writer:
        writer.append(answer(1, kind="failed", lost_usd=0.5, attempts=8, error="cut"))
        writer.append(answer(2, kind="failed", lost_usd=0.25, attempts=2))
        writer.append(answer(3, kind="rejected", error="400"))
    with JournalWriter(places[0], "m", places[1], "s2") as writer:
        writer.append(answer(1, cost_usd=1.0, settled_at=100.0, purpose="shadow"))
        writer.append(answer(1, cost_usd=2.0, settled_at=50.0, generated_text="first"))
        writer.append(answer(3, kind="failed"))
    reader = Journal(Store(places[0]))
    assert reader.settled("m").tolist() == [1, 3]
    assert reader.failed("m").tolist() == [2]
    rows = {row["row_key"]: row for row in reader.read("m").to_pylist()}
    assert rows[1]["generated_text"] == "first"
    assert (rows[1]["cost_usd"], rows[1]["lost_usd"], rows[1]["attempts"]) == (2.0, 1.5, 10)
    assert rows[3]["kind"] == "rejected"
    spent = reader.spent("m")
    assert (spent.cost_usd, spent.lost_usd) == (2.0, 1.75)
    assert spent.by_purpose == {"answer": 3.75}
    assert spent.by_session == {"s1": 0.75, "s2": 3.0}


def test_an_empty_journal_reads_as_empty(places: tuple[str, str]) -> None:
    reader = Journal(Store(places[0]))
    assert reader.settled("m").dtype == np.int64
    assert len(reader.failed("m")) == 0
    assert reader.read("m", 3).num_rows == 0
    assert reader.spent("m").cost_usd == 0


CHILD = """
import sys
from jobs.journal.rows import Answer
from jobs.journal.writer import JournalWriter
store, folder, rows = sys.argv[1], sys.argv[2], int(sys.argv[3])
writer = JournalWriter(store, "m", folder, "dead", flush_s=0.02, flush_rows=40)
print(writer.unique, flush=True)
for key in range(rows):
    text = "x" * (key % 700)
    writer.append(Answer(key, key % 2, "answered", b"a" * 16, generated_text=text, cost_usd=1.0))
    sys.stdout.write(f"{key}\\n")
    sys.stdout.flush()
"""


def start_child(places: tuple[str, str], rows: int = 1_000_000) -> subprocess.Popen[str]:
    return subprocess.Popen([sys.executable, "-c", CHILD, *places, str(rows)], stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("after_rows", [0, 1, 39, 200, 1777])
def test_all_rows_of_a_killed_process_are_recovered_once(places: tuple[str, str], after_rows: int) -> None:
    child = start_child(places)
    assert child.stdout is not None
    unique = child.stdout.readline().strip()
    seen = 0
    while seen <= after_rows:
        seen = int(child.stdout.readline()) + 1
    assert recover_orphans(*places[:1], "m", places[1], session="new").alive == (child.pid,)
    os.kill(child.pid, signal.SIGKILL)  # not waited for yet: a zombie holds no lock
    recovered = recover_orphans(places[0], "m", places[1], wait_s=10, session="new", writer=unique)
    rest = child.stdout.read().split("\n")
    child.wait()
    appended = max([seen, *(int(line) + 1 for line in rest[:-1] if line)])
    table = Journal(Store(places[0])).read("m")
    keys = table["row_key"].to_pylist()
    assert len(keys) == len(set(keys))
    assert set(range(appended)) <= set(keys)  # one row more may have been settled and not yet printed
    assert len(keys) <= appended + 1
    assert set(table["lost_usd"].to_pylist()) == {0.0}, "a row was committed twice"
    assert recovered.alive == ()
    assert logs(places[1]) == []


def test_a_crash_between_commit_and_removal_repeats_nothing(places: tuple[str, str], tmp_path: Path) -> None:
    child = start_child(places, rows=30)
    assert child.wait(60) == 0  # ended without close: its log is an orphan
    (name,) = logs(places[1]) or [""]
    saved = (Path(places[1]) / name).read_bytes() if name else b""
    assert recover_orphans(places[0], None, places[1]).rows in (0, 30)
    if name:
        (Path(places[1]) / name).write_bytes(saved)
        assert recover_orphans(places[0], None, places[1]).rows == 0
    spent = Journal(Store(places[0])).spent("m")
    assert (spent.cost_usd, spent.lost_usd) == (30.0, 0.0)
    assert spent.by_session == {"dead": 30.0}


def test_recoverers_at_once_do_each_log_once(places: tuple[str, str]) -> None:
    children = [start_child(places, rows=20) for _ in range(3)]
    assert [child.wait(60) for child in children] == [0, 0, 0]
    done: list[int] = []
    threads = [
        threading.Thread(target=lambda: done.append(recover_orphans(places[0], "m", places[1]).rows)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    reader = Journal(Store(places[0]))
    assert sum((reader.spent("m").by_session or {}).values()) == 60.0


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    texts=st.lists(st.text(max_size=40), min_size=1, max_size=8),
    cut=st.integers(min_value=0, max_value=400),
    flip=st.booleans(),
)
def test_a_torn_log_gives_all_whole_records(texts: list[str], cut: int, flip: bool) -> None:
    """Random crash points: whatever byte the log ends at, all records before it are there, unchanged."""
    records = [encode(clean(answer(i, generated_text=text), 1.0)) for i, text in enumerate(texts)]
    data = b"".join(records)
    cut = min(cut, len(records[-1]))
    torn = data[: len(data) - cut]
    if flip and cut == 0:
        torn = torn[:-1] + bytes([torn[-1] ^ 1])
    whole = len(texts) - (1 if cut or flip else 0)
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as quick:
        quick.setattr("jobs.storage.store._sync", lambda path: None)
        path = Path(folder) / "m--s--000000000000--000001--1-1.log"
        path.write_bytes(torn)
        assert recover_orphans(f"{folder}/run", "m", folder).rows == whole
        table = Journal(Store(f"{folder}/run")).read("m")
        expected = {i: text.encode("utf-8", "replace").decode() for i, text in enumerate(texts[:whole])}
        assert dict(zip(table["row_key"].to_pylist(), table["generated_text"].to_pylist(), strict=True)) == expected


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.tuples(
            st.integers(0, 5),
            st.sampled_from(["answered", "rejected", "failed"]),
            st.floats(0, 10),
            st.floats(0, 10),
            st.integers(1, 9),
            st.floats(1, 1e6),
        ),
        max_size=30,
    )
)
def test_merging_keeps_every_dollar(rows: list[tuple[int, str, float, float, int, float]]) -> None:
    given = [
        answer(key, kind=kind, cost_usd=cost, lost_usd=lost, attempts=attempts, settled_at=at)
        for key, kind, cost, lost, attempts, at in rows
    ]
    merged = one_per_key(answers_table(given)).to_pylist()
    assert [row["row_key"] for row in merged] == sorted({row.row_key for row in given})
    assert sum(row["cost_usd"] + row["lost_usd"] for row in merged) == pytest.approx(
        sum(row.cost_usd + row.lost_usd for row in given)
    )
    assert sum(row["attempts"] for row in merged) == sum(row.attempts for row in given)
    for row in merged:
        ranks = [RANKS[other.kind] for other in given if other.row_key == row["row_key"]]
        assert RANKS[row["kind"]] == min(ranks)


def test_a_refused_store_stops_the_writer_and_keeps_the_log(
    places: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "_COMMIT_ATTEMPTS", 2)
    Path(places[0]).parent.mkdir(parents=True, exist_ok=True)
    Path(places[0]).write_text("a file where the folder should be")
    writer = JournalWriter(places[0], "m", places[1], "s1", flush_s=0.05)
    number = writer.append(answer(1, cost_usd=1.0))
    with pytest.raises(StoreError, match="run"):
        writer.wait(number, 10)
    with pytest.raises(StoreError):
        writer.append(answer(2, cost_usd=1.0))
    with pytest.raises(StoreError):
        writer.close()
    Path(places[0]).unlink()
    assert recover_orphans(places[0], "m", places[1]).rows == 2
    assert Journal(Store(places[0])).settled("m").tolist() == [1, 2]


def test_where_no_log_can_be_opened_the_store_has_the_rows_at_once(places: tuple[str, str]) -> None:
    """A log is opened anew after every commit: by then there may be no descriptor left, no inode, no folder."""
    with JournalWriter(places[0], "m", places[1], "s1", flush_s=60.0) as writer:
        writer.append(answer(1, cost_usd=1.0))
        writer.flush()
        os.rmdir(places[1])
        number = writer.append(answer(2, cost_usd=2.0))
        assert writer.wait(number, 10), "not after flush_s: it is nowhere else"
        os.mkdir(places[1])
        writer.append(answer(3, cost_usd=4.0))
        assert len(logs(places[1])) == 1
    spent = Journal(Store(places[0])).spent("m")
    assert (spent.cost_usd, spent.lost_usd) == (7.0, 0.0)
    assert logs(places[1]) == []


def test_a_process_that_cannot_see_itself_loses_no_row(
    places: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise psutil.AccessDenied

    monkeypatch.setattr("jobs.journal.local_log.psutil.Process", refuse)
    with JournalWriter(places[0], "m", places[1], "s1", flush_s=60.0) as writer:
        assert writer.wait(writer.append(answer(1)), 10)
    assert Journal(Store(places[0])).settled("m").tolist() == [1]


def test_only_where_the_store_refuses_too_is_the_row_refused(
    places: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "_COMMIT_ATTEMPTS", 2)
    Path(places[0]).write_text("a file where the folder should be")
    writer = JournalWriter(places[0], "m", places[1], "s1", flush_s=60.0)
    os.rmdir(places[1])
    with pytest.raises(StoreError, match="run"):
        writer.wait(writer.append(answer(1, cost_usd=1.0)), 10)
    with pytest.raises(StoreError):
        writer.append(answer(2))
    with pytest.raises(StoreError):
        writer.close()


def test_the_local_folder_is_private_and_stable() -> None:
    folder = local_dir("s3://bucket/run/")
    assert folder == local_dir("s3://bucket/run")
    assert folder != local_dir("s3://bucket/run2")
    assert os.stat(folder).st_mode & 0o777 == 0o700
