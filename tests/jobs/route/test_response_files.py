"""Buckets share files of responses/ by how long answers are, and the first word on it stands."""

from pathlib import Path

from jobs.journal.rows import Answer, answers_table
from jobs.journal.segments import segment_name
from jobs.route.account import response_files as module
from jobs.route.account.response_files import response_files
from jobs.route.score.entries import Part
from jobs.storage.store import Store

PARTS = [Part(bucket=i, name=f"scored/part-{i:010d}.parquet", rows=50_000) for i in range(200)]


def test_a_large_set_comes_as_few_large_files_and_stays_so(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "run"))
    rows = [Answer(i, 0, "answered", i.to_bytes(16), generated_text=str(7919**30 * (i + 1) ** 9)) for i in range(2000)]
    store.write_table(segment_name("m", "s--00000000000a--000000", [0]), answers_table(rows))
    row_bytes = (Path(store.root) / store.list("answers/model=m")[0]).stat().st_size / 2000
    files = response_files(store, ("m",), PARTS)
    assert [index for file in files for index in file] == list(range(200)), "every part once, in order"
    sizes = [len(file) * 50_000 * row_bytes for file in files[:-1]]
    assert all(64e6 < size < 512e6 for size in sizes)
    store.write_table(segment_name("m", "s--00000000000a--000001", [0]), answers_table(rows[:1500] * 4))
    assert response_files(store, ("m",), PARTS) == files, "whatever the journal says later"


def test_without_answers_a_length_is_assumed_and_a_small_set_is_one_file(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "run"))
    assert response_files(store, ("m",), PARTS[:2]) == [range(2)]


def test_a_run_accounted_bucket_by_bucket_stays_so(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "run"))
    store.write("responses/part-00000.parquet", b"")
    assert response_files(store, ("m",), PARTS[:3]) == [range(1), range(1, 2), range(2, 3)]
    assert module.ENTRY in store.list()
