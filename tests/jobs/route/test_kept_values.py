"""No value of the input is changed in silence on its way to responses/: types widen, or the column is text."""

from __future__ import annotations

import json
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.jobs.route.carried import carried, write_jsonl, write_parquet

KEEP = {"prompt": "q", "id": "id", "keep": ["n"]}
BIG = 2**60 + 1


def rows_of(values: list[Any]) -> list[dict[str, Any]]:
    return [{"id": i, "q": f"what is {i}", "n": value} for i, value in enumerate(values)]


@pytest.mark.parametrize("shard_rows", [None, 1, 3])
@pytest.mark.parametrize(
    ("values", "kind", "said"),
    [
        ([1, 2, 0.87], pa.float64(), [1.0, 2.0, 0.87]),
        ([None, 2, 0.5], pa.float64(), [None, 2.0, 0.5]),
        ([BIG, 0.5], pa.string(), [str(BIG), "0.5"]),
        ([-BIG, None, 7], pa.int64(), [-BIG, None, 7]),
        ([2**64 - 1, 0], pa.uint64(), [2**64 - 1, 0]),
        ([2**64 - 1, -1], pa.string(), [str(2**64 - 1), "-1"]),
        ([2**70, 1], pa.string(), [str(2**70), "1"]),
        ([7, "A7"], pa.string(), ["7", "A7"]),
        ([True, 1], pa.string(), ["true", "1"]),
        ([True, "true", None], pa.string(), ["true", "true", None]),
        ([0.5, True], pa.string(), ["0.5", "true"]),
        ([{"a": 1}, {"a": 1, "b": 2}, [3]], pa.string(), ['{"a": 1}', '{"a": 1, "b": 2}', "[3]"]),
        ([1, {"a": None}], pa.string(), ["1", '{"a": null}']),
        ([None, None], pa.string(), [None, None]),
        (["", " x"], pa.string(), ["", " x"]),
        (["\ud83d!"], pa.string(), ["\\ud83d!"]),
        ([{"a": "\ud83d"}], pa.string(), ['{"a": "\\ud83d"}']),
    ],
)  # fmt: skip
def test_json_values_widen(tmp_path: Path, shard_rows: int | None, values: list[Any], kind: Any, said: Any) -> None:
    write_jsonl(tmp_path / "in/a.jsonl", rows_of(values))
    made = carried(tmp_path, KEEP, shard_rows)
    assert made.keep["n"].type == kind and made.keep["n"].to_pylist() == said
    assert made.errors == [""] * len(values), "no prompt is refused for a kept column"


def test_a_value_after_the_first_thousand_rows_is_what_it_was(tmp_path: Path) -> None:
    values = [0] * 1500 + [0.87, "none", {"a": 1}]
    write_jsonl(tmp_path / "in/a.jsonl", rows_of(values))
    assert carried(tmp_path, KEEP, 400).keep["n"].to_pylist() == ["0"] * 1500 + ["0.87", "none", '{"a": 1}']


STRUCT = pa.array([{"x": 1}])


@pytest.mark.parametrize("shard_rows", [None, 1])
@pytest.mark.parametrize(
    ("first", "then", "kind", "said"),
    [
        (pa.array([1], pa.int64()), pa.array([0.87]), pa.float64(), [1.0, 0.87]),
        (pa.array([0.87]), pa.array([1], pa.int64()), pa.float64(), [0.87, 1.0]),
        (pa.array([BIG]), pa.array([0.5]), pa.string(), [str(BIG), "0.5"]),
        (pa.array([7]), pa.array(["A7"]), pa.string(), ["7", "A7"]),
        (pa.array([7], pa.int8()), pa.array([BIG]), pa.int64(), [7, BIG]),
        (pa.array([7], pa.int32()), pa.array([8], pa.int32()), pa.int32(), [7, 8]),
        (pa.array([2**64 - 1], pa.uint64()), pa.array([8], pa.int32()), pa.uint64(), [2**64 - 1, 8]),
        (pa.array([1.5], pa.float32()), pa.array([0.1]), pa.float64(), [1.5, 0.1]),
        (pa.array([True]), pa.array([1]), pa.string(), ["true", "1"]),
        (pa.nulls(1), pa.array([1]), pa.int64(), [None, 1]),
        (pa.nulls(1), pa.nulls(1), pa.string(), [None, None]),
        (STRUCT, pa.array([{"x": 1, "y": "z"}]), pa.struct([("x", pa.int64()), ("y", pa.string())]),
         [{"x": 1, "y": None}, {"x": 1, "y": "z"}]),
        (STRUCT, pa.array([{"x": "a"}]), pa.string(), ['{"x": 1}', '{"x": "a"}']),
        (STRUCT, pa.array([{"x": 0.5}]), pa.string(), ['{"x": 1}', '{"x": 0.5}']),
        (STRUCT, pa.array(["a"]), pa.string(), ['{"x": 1}', "a"]),
        (pa.array([[1]]), pa.array([[1, 2], ][:1], pa.list_(pa.int64(), 2)), pa.list_(pa.int64()), [[1], [1, 2]]),
        (pa.array([[{"x": 1}]]), pa.array([[{"y": 1}]]), pa.list_(pa.struct([("x", pa.int64()), ("y", pa.int64())])),
         [[{"x": 1, "y": None}], [{"x": None, "y": 1}]]),
        (pa.array([Decimal("1.5")]), pa.array([Decimal("123.25")]), pa.decimal128(5, 2), [Decimal("1.50"), Decimal("123.25")]),
        (pa.array([Decimal("1.50")]), pa.array([7]), pa.string(), ["1.50", "7"]),
        (pa.array([date(2024, 1, 31)]), pa.array(["soon"]), pa.string(), ["2024-01-31", "soon"]),
        (pa.array([0], pa.timestamp("ms")), pa.array([1], pa.timestamp("ns")), pa.timestamp("ns"), None),
        (pa.array([2**54], pa.timestamp("us")), pa.array([1], pa.timestamp("ns")), pa.string(), None),
        (pa.array([0], pa.timestamp("us")), pa.array([0], pa.timestamp("us", "UTC")), pa.string(),
         ["1970-01-01T00:00:00", "1970-01-01T00:00:00+00:00"]),
        (pa.array([b"\xff"]), pa.array(["a"]), pa.string(), ["ff", "a"]),
        (pa.array([b"ab"], pa.binary(2)), pa.array([b"\xff"]), pa.binary(), [b"ab", b"\xff"]),
        (pa.array(["a"]).dictionary_encode(), pa.array(["b"], pa.large_string()), pa.string(), ["a", "b"]),
    ],
)  # fmt: skip
def test_the_types_of_all_parquet_files_count(
    tmp_path: Path, shard_rows: int | None, first: Any, then: Any, kind: Any, said: Any
) -> None:
    write_parquet(tmp_path / "in/a.parquet", n=first, id=["a"])
    write_parquet(tmp_path / "in/b.parquet", n=then, id=["b"])
    made = carried(tmp_path, KEEP, shard_rows)
    assert made.keep["n"].type == kind and made.errors == ["", ""]
    assert said is None or made.keep["n"].to_pylist() == said


def test_a_column_that_a_later_file_lacks_is_null_there(tmp_path: Path) -> None:
    write_parquet(tmp_path / "in/a.parquet", n=[1], id=["a"])
    write_parquet(tmp_path / "in/b.parquet", id=["b"])
    assert carried(tmp_path, KEEP).keep["n"].to_pylist() == [1, None]


@pytest.mark.parametrize("shard_rows", [None, 1])
@pytest.mark.parametrize(
    ("ids", "kind", "said"),
    [
        ([7, 17.9], pa.string(), ["7", "17.9"]),
        ([7, True], pa.string(), ["7", "true"]),
        ([BIG, 0.5], pa.string(), [str(BIG), "0.5"]),
        ([7, "A7"], pa.string(), ["7", "A7"]),
        ([2**64 - 1, 3], pa.uint64(), [2**64 - 1, 3]),
        ([2**80, 3], pa.string(), [str(2**80), "3"]),
        (["007", 7], pa.string(), ["007", "7"]),
        ([[1, "a"], {"k": 1}], pa.string(), ['[1, "a"]', '{"k": 1}']),
        ([5, 6], pa.int64(), [5, 6]),
        ([5.0, 6.0], pa.string(), ["5.0", "6.0"]),
    ],
)  # fmt: skip
def test_ids_are_whole_numbers_or_exact_text(
    tmp_path: Path, shard_rows: int | None, ids: list[Any], kind: Any, said: list[Any]
) -> None:
    write_jsonl(tmp_path / "in/a.jsonl", [{"id": value, "q": f"what is {i}", "n": 1} for i, value in enumerate(ids)])
    made = carried(tmp_path, KEEP, shard_rows)
    assert made.id.type == kind and made.id.to_pylist() == said and made.errors == ["", ""]


def test_ids_of_two_parquet_types_are_text_in_both(tmp_path: Path) -> None:
    write_parquet(tmp_path / "in/a.parquet", id=[7, 8], n=[1, 1])
    write_parquet(tmp_path / "in/b.parquet", id=["A7", "7"], n=[1, 1])
    for shard_rows in (None, 2):
        made = carried(tmp_path, KEEP, shard_rows)
        assert made.id.to_pylist() == ["7", "8", "A7", "7"]
        keys = made.scored["id_key"].to_pylist()
        assert keys[0] == keys[3] and len(set(keys)) == 3, "7 and the text 7 are one id: the later row is a duplicate"


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_a_row_without_id_says_so_and_is_no_rows_duplicate(tmp_path: Path, missing: Any) -> None:
    rows = [{"id": value, "q": "x", "n": 1} for value in (missing, "None", "nan", missing)]
    write_jsonl(tmp_path / "in/a.jsonl", rows)
    made = carried(tmp_path, KEEP)
    assert made.errors == ["id is null", "", "", "id is null"]
    assert len(set(made.scored["id_key"].to_pylist())) == 4


def test_kept_values_of_any_size_do_not_swell_a_shard(tmp_path: Path) -> None:
    write_parquet(tmp_path / "in/a.parquet", n=[b"x" * 2**20] * 100, id=[str(i) for i in range(100)])
    made = carried(tmp_path, KEEP)
    assert made.keep["n"].num_chunks == 3 and made.keep["n"].nbytes > 100 * 2**20


def test_csv_is_text_as_it_stands(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in/a.csv").write_text("id,q,n\n007,x,1.50\n8,y,nan\n9,z,\n")
    made = carried(tmp_path, KEEP)
    assert made.id.to_pylist() == ["007", "8", "9"] and made.keep["n"].to_pylist() == ["1.50", "nan", ""]


def test_a_row_that_cannot_be_asked_keeps_what_it_has(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "in/a.jsonl", [{"id": 1, "q": None, "n": 0.5}, {"id": 2, "q": "x", "n": 1}])
    made = carried(tmp_path, KEEP)
    assert made.errors == ["q is null", ""] and made.keep["n"].to_pylist() == [0.5, 1.0]


def test_a_kept_timestamp_keeps_its_nanoseconds_and_a_far_date_its_year(tmp_path: Path) -> None:
    far = pa.array([3_000_000, 0], pa.int32()).view(pa.date32())
    fine = pa.array([1_234_567_891, None], pa.timestamp("ns", "Europe/Berlin"))
    write_parquet(tmp_path / "in/a.parquet", id=[1, 2], n=far, m=fine)
    made = carried(tmp_path, KEEP | {"keep": ["n", "m"]})
    assert made.keep["n"].to_pylist() == ["10183-09-21", "1970-01-01"], "data frames can read no such date"
    assert made.keep["m"].combine_chunks().equals(fine) and made.errors == ["", ""]


def test_json_text_of_a_struct_is_its_json(tmp_path: Path) -> None:
    when = datetime(2024, 1, 31, 10)
    write_parquet(tmp_path / "in/a.parquet", id=[1], n=pa.array([{"at": when, "d": Decimal("1.50"), "b": b"\xff"}]))
    write_parquet(tmp_path / "in/b.parquet", id=[2], n=["text"])
    told = carried(tmp_path, KEEP).keep["n"].to_pylist()
    assert json.loads(told[0]) == {"at": "2024-01-31T10:00:00", "d": "1.50", "b": "ff"} and told[1] == "text"


@pytest.mark.parametrize("depth", [100, 500, 900])
def test_json_as_deep_as_a_line_may_be_costs_no_other_row(tmp_path: Path, depth: int) -> None:
    deep = "[" * depth + "1" + "]" * depth
    (tmp_path / "in").mkdir()
    lines = ['{"id": 1, "q": "x", "n": 1}', f'{{"id": {deep}, "q": "x", "n": {deep}}}', '{"id": 3, "q": "x", "n": 1}']
    (tmp_path / "in/a.jsonl").write_text("\n".join(lines))
    made = carried(tmp_path, KEEP)
    assert (
        made.errors == ["", "", ""]
        and made.keep["n"].to_pylist() == ["1", deep, "1"]
        and made.id.to_pylist()[1] == deep
    )
    chat = f'{{"messages": [{{"role": "user", "content": [{{"type": "x", "y": {deep}}}]}}]}}'
    (tmp_path / "in/a.jsonl").write_text(f'{{"messages": [{{"role": "user", "content": "a"}}]}}\n{chat}')
    assert carried(tmp_path, {}).errors[0] == ""
    (tmp_path / "in/a.jsonl").write_text("\n".join(lines))
    said = carried(tmp_path, {}, template="{{ n }}").errors
    assert said[0] == said[2] == ""
