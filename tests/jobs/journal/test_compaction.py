"""A merged journal is the same journal: whatever step a merge dies at, whoever reads meanwhile, row by row and dollar by dollar."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.errors import StoreError
from jobs.journal import compaction
from jobs.journal.compaction import compact_journal
from jobs.journal.local_log import encode
from jobs.journal.reader import Journal
from jobs.journal.recovery import recover_orphans
from jobs.journal.rows import Answer, answers_table
from jobs.journal.segments import segment_name
from jobs.storage.store import Store

WRITERS = ("00000000000a", "00000000000b")


@pytest.fixture(autouse=True)
def quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Thousands of small files are written here, and nobody pulls the plug."""
    monkeypatch.setattr("jobs.storage.store._sync", lambda path: None)


class Killed(BaseException):
    """The process ends here."""


class MortalStore(Store):
    """A store whose process dies before its n-th change of the store, or just after it."""

    def __init__(self, uri: str, steps: int = 10**9, after: bool = False) -> None:
        super().__init__(uri)
        self.steps, self.after, self.done = steps, after, 0
        self._lock = threading.Lock()

    def _step(self, change: Any) -> Any:
        with self._lock:
            dies = self.done >= self.steps
            self.done += 1
            result = change() if not dies or (self.after and self.done == self.steps + 1) else None
        if dies:
            raise Killed
        return result

    def write_table(self, name: str, table: Any, **options: Any) -> None:
        self._step(lambda: Store.write_table(self, name, table, **options))

    def create(self, name: str, data: bytes) -> bool:
        return bool(self._step(lambda: Store.create(self, name, data)))

    def delete(self, name: str) -> None:
        self._step(lambda: Store.delete(self, name))


def answer(key: int, bucket: int, kind: str, number: int, **more: Any) -> Answer:
    values: dict[str, Any] = {
        "cost_usd": 0.25 * (key % 4),
        "lost_usd": 0.125 * (number % 3),
        "attempts": number % 3 + 1,
    }
    values |= {
        "generated_text": f"{key} at {number}",
        "settled_at": 1.0 + number,
        "error": "é" if kind == "failed" else "",
    }
    return Answer(key, bucket, kind, bytes(16), **{**values, **more})  # type: ignore[arg-type]


def fill(store: Store, alias: str, segments: list[tuple[str, list[Answer]]]) -> None:
    for number, (session, rows) in enumerate(segments):
        name = segment_name(alias, f"{session}--{WRITERS[number % 2]}--{number:06d}", [row.bucket for row in rows])
        store.write_table(name, answers_table(rows))


def some_segments(n: int = 9, rows: int = 5) -> list[tuple[str, list[Answer]]]:
    """Two sessions; keys that failed in one segment and are answered in a later one; segments of one and of many buckets."""
    kinds = ("answered", "failed", "answered", "rejected")
    made = []
    for number in range(n):
        keys = [(number * rows + i) % (n * rows * 2 // 3) for i in range(rows)]
        made.append((
            f"s{number % 2}",
            [answer(key, key // 7, kinds[(key + number) % 4], number * rows + i) for i, key in enumerate(keys)],
        ))  # fmt: skip
    return made


def told(store: Store, alias: str = "m") -> dict[str, Any]:
    """All that a reader can ask."""
    journal = Journal(store)
    table = journal.read(alias)
    spent, kinds = journal.spent(alias), journal.by_kind(alias)
    return {
        "rows": table.to_pylist(),
        "by_bucket": [journal.read(alias, bucket).to_pylist() for bucket in sorted(set(table["bucket"].to_pylist()))],
        "spent": spent,
        "kinds": [kinds.answered.tolist(), kinds.rejected.tolist(), kinds.failed.tolist()],
        "of_s1": journal.settled(alias, session="s1").tolist(),
    }


def test_a_merged_journal_reads_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "MERGED_BYTES", 2000)
    store = Store(str(tmp_path / "run"))
    fill(store, "m", some_segments())
    before = told(store)
    assert compact_journal(store, ["m"], most_segments=9) == {}, "not more than that: left as it is"
    done = compact_journal(store, ["m", "nobody"], most_segments=8)
    assert list(done) == ["m"] and (done["m"].segments, done["m"].rows) == (9, 45) and 2 < done["m"].files < 9
    assert told(store) == before
    names = store.list("answers/model=m")
    assert len(names) == done["m"].files and all("/big-0001-" in name for name in names)
    assert set(Journal(store).segments("m", [0])) < set(names), "the ranges of buckets are in the names"
    assert compact_journal(store, ["m"], most_segments=0) == {}, "what is merged is not merged again"


def test_a_second_merge_takes_what_came_since(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "run"))
    made = some_segments(12)
    fill(store, "m", made[:6])
    compact_journal(store, ["m"], 0)
    for number, (session, rows) in enumerate(made[6:]):
        name = segment_name("m", f"{session}--00000000000c--{number:06d}", [row.bucket for row in rows])
        store.write_table(name, answers_table(rows))
    before = told(store)
    assert compact_journal(store, ["m"], 0)["m"].segments == 6
    assert told(store) == before
    fresh = Store(str(tmp_path / "unmerged"))
    fill(fresh, "m", made)
    assert told(fresh) == before
    assert {name.rsplit("/", 1)[-1] for name in store.list("merges/model=m")} == {"0001.json", "0002.json"}


@pytest.mark.parametrize("after", [False, True])
def test_whatever_step_a_merge_dies_at_the_journal_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, after: bool
) -> None:
    """Killed before (after) every write, create and delete; read then; merged by the next start; read again."""
    monkeypatch.setattr(compaction, "MERGED_BYTES", 2000)
    counting = MortalStore(str(tmp_path / "whole"))
    fill(Store(counting.uri), "m", some_segments(6))
    expected = told(counting)
    compact_journal(counting, ["m"], 0)
    assert counting.done > 8, "files, a manifest, and six deletions"
    for step in range(counting.done):
        uri = str(tmp_path / f"dies-{step}")
        fill(Store(uri), "m", some_segments(6))
        with pytest.raises(Killed):
            compact_journal(MortalStore(uri, step, after), ["m"], 0)
        assert told(Store(uri)) == expected, f"after a death at step {step}"
        compact_journal(Store(uri), ["m"], 0)
        assert told(Store(uri)) == expected, f"merged again after a death at step {step}"
        names = Store(uri).list("answers/model=m")
        assert set(names) == set(Journal(Store(uri)).segments("m")), f"litter of the death at step {step}"


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    rows=st.lists(
        st.tuples(
            st.integers(0, 20),
            st.integers(0, 5),
            st.sampled_from(["answered", "rejected", "failed"]),
            st.integers(0, 2),
        ),
        min_size=1,
        max_size=30,
    ),
    step=st.integers(0, 40),
    after=st.booleans(),
    limit=st.integers(1, 4000),
)
def test_any_journal_and_any_death(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[int, int, str, int]], step: int, after: bool, limit: int
) -> None:
    store = Store(str(tmp_path_factory.mktemp("run")))
    by_segment: dict[tuple[int, int], list[Answer]] = {}
    for number, (key, segment, kind, session) in enumerate(rows):
        by_segment.setdefault((session, segment), []).append(answer(key, key // 4, kind, number))
    fill(store, "m", [(f"s{session}", rows) for (session, _), rows in by_segment.items()])
    expected = told(store)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(compaction, "MERGED_BYTES", limit)
        try:
            compact_journal(MortalStore(store.uri, step, after), ["m"], 0)
        except Killed:
            assert told(store) == expected
            compact_journal(store, ["m"], 0)
    assert told(store) == expected


def test_of_two_merges_at_once_one_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The slow one finds the number taken when it comes to its manifest, and leaves nothing behind."""
    store = Store(str(tmp_path / "run"))
    fill(store, "m", some_segments())
    expected = told(store)

    class Overtaken(Store):
        def create(self, name: str, data: bytes) -> bool:
            compact_journal(store, ["m"], 0)
            return super().create(name, data)

    assert compact_journal(Overtaken(store.uri), ["m"], 0) == {}
    assert told(store) == expected
    assert set(store.list("answers/model=m")) == set(Journal(store).segments("m"))


@pytest.mark.parametrize("look", range(1, 6))
def test_a_merge_that_lands_between_two_looks_of_another_counts_alone(tmp_path: Path, look: int) -> None:
    """The one that lands dies before it has deleted its sources."""
    uri = str(tmp_path / "run")
    fill(Store(uri), "m", some_segments())
    expected = told(Store(uri))

    class Dying(Store):
        def delete(self, name: str) -> None:
            raise Killed

    class Looking(Store):
        looks = 0

        def list(self, prefix: str = "", recursive: bool = True) -> Sequence[str]:
            names = super().list(prefix, recursive)
            Looking.looks += 1
            if Looking.looks == look:
                with contextlib.suppress(Killed):
                    compact_journal(Dying(uri), ["m"], 0)
            return names

    compact_journal(Looking(uri), ["m"], 0)
    assert Looking.looks >= look
    assert told(Store(uri)) == expected


@pytest.mark.parametrize("landed", [True, False])
def test_a_manifest_of_which_nobody_knows_whether_it_landed_costs_no_answer(tmp_path: Path, landed: bool) -> None:
    """S3 told of conflicts and no winner; the manifest that was refused may stand all the same, or come to nothing."""
    uri = str(tmp_path / "run")
    fill(Store(uri), "m", some_segments())
    expected = told(Store(uri))

    class Unsure(Store):
        def create(self, name: str, data: bytes) -> bool:
            if landed:
                super().create(name, data)
            return False

    assert compact_journal(Unsure(uri), ["m"], 0) == {}
    assert told(Store(uri)) == expected
    compact_journal(Store(uri), ["m"], 0)
    assert told(Store(uri)) == expected
    assert set(Store(uri).list("answers/model=m")) == set(Journal(Store(uri)).segments("m"))


@pytest.mark.parametrize("data", [b"", b"[]", b'{"new": 1}'])
def test_a_damaged_manifest_is_named(tmp_path: Path, data: bytes) -> None:
    store = Store(str(tmp_path / "run"))
    fill(store, "m", some_segments())
    compact_journal(store, ["m"], 0)
    store.write("merges/model=m/0001.json", data)
    with pytest.raises(StoreError, match=r"merges/model=m/0001\.json: damaged"):
        Journal(store).settled("m")


def test_a_reader_meanwhile_sees_every_row_once(tmp_path: Path) -> None:
    """It has listed the segments and reads them while they are merged and deleted: it looks again."""
    uri = str(tmp_path / "run")
    fill(Store(uri), "m", some_segments())
    expected = told(Store(uri))

    class Late(Store):
        merged = False

        def batches(self, name: str, *more: Any) -> Any:
            if not Late.merged:
                Late.merged = True
                compact_journal(Store(uri), ["m"], 0)
            return super().batches(name, *more)

    for ask in ("read", "spent", "settled"):
        Late.merged = False
        for name in Store(uri).list():
            Store(uri).delete(name)
        fill(Store(uri), "m", some_segments())
        answer = getattr(Journal(Late(uri)), ask)("m")
        assert Late.merged
        if ask == "read":
            assert answer.to_pylist() == expected["rows"]
        elif ask == "spent":
            assert answer == expected["spent"]
        else:
            assert answer.tolist() == sorted(expected["kinds"][0] + expected["kinds"][1])


def test_a_log_found_after_its_segment_was_merged_is_not_committed_again(tmp_path: Path) -> None:
    """A node that died between commit and removal of its log may come back after a merge elsewhere."""
    store, folder = Store(str(tmp_path / "run")), tmp_path / "local"
    made = some_segments()
    fill(store, "m", made)
    expected = told(store)
    compact_journal(store, ["m"], 0)
    folder.mkdir()
    rows = b"".join(encode(row) for row in made[0][1])
    (folder / f"m--s0--{WRITERS[0]}--000000--1-1.log").write_bytes(rows)
    assert recover_orphans(store.uri, "m", str(folder)).rows == 0
    assert told(store) == expected


def test_writers_go_on_while_segments_are_merged(tmp_path: Path) -> None:
    uri = str(tmp_path / "run")
    made = some_segments(10)
    fill(Store(uri), "m", made[:8])

    class Written(Store):
        def create(self, name: str, data: bytes) -> bool:
            fill(Store(uri), "m", made)  # the first eight stand there already, under the same names
            return super().create(name, data)

    assert compact_journal(Written(uri), ["m"], 0)["m"].segments == 8
    fresh = Store(str(tmp_path / "unmerged"))
    fill(fresh, "m", made)
    assert told(Store(uri)) == told(fresh)
