"""Files whose columns hold anything: every kept value and every id comes out equal to what stood in the file, by JSON equality."""

from __future__ import annotations

import csv
import json
import math
from datetime import date, datetime
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.jobs.route.carried import carried, write_jsonl, write_parquet

FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
KEEP = {"prompt": "q", "id": "id", "keep": ["n"]}
EDGES = st.sampled_from(
    [2**53, 2**53 + 1, -(2**53) - 1, 2**60 + 1, 2**63 - 1, 2**63, -(2**63) - 1, 2**64 - 1, 2**64, 0.5, 1e300, -0.0]
)
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | EDGES
    | st.floats()
    | st.text(max_size=6)
    | st.sampled_from(["7", "true", "null"])
)
JSONISH = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=5,
)
COLUMN = st.lists(JSONISH, min_size=1, max_size=5) | st.lists(SCALARS, min_size=1, max_size=5)
KINDS = {
    pa.int8(): st.integers(-128, 127), pa.uint32(): st.integers(0, 2**32 - 1), pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.uint64(): st.integers(0, 2**64 - 1), pa.float32(): st.floats(width=32), pa.float64(): st.floats(), pa.bool_(): st.booleans(),
    pa.string(): st.text(max_size=5), pa.large_string(): st.text(max_size=5), pa.date32(): st.dates(),
    pa.timestamp("us"): st.datetimes(), pa.timestamp("ms"): st.datetimes().map(lambda at: at.replace(microsecond=0)),
    pa.timestamp("ns"): st.datetimes(datetime(1700, 1, 1), datetime(2200, 1, 1)),
    pa.decimal128(20, 3): st.decimals(-(10**9), 10**9, places=3), pa.decimal128(12, 6): st.decimals(-(10**5), 10**5, places=6),
    pa.list_(pa.int64()): st.lists(st.integers(-9, 9), max_size=2), pa.list_(pa.float64()): st.lists(st.floats(0, 1), max_size=2),
    pa.struct([("a", pa.int64())]): st.fixed_dictionaries({"a": st.integers(-9, 9)}),
    pa.struct([("a", pa.int64()), ("b", pa.string())]): st.fixed_dictionaries({"a": st.integers(-9, 9), "b": st.text(max_size=3)}),
    pa.struct([("a", pa.string())]): st.fixed_dictionaries({"a": st.none() | st.text(max_size=3)}),
}  # fmt: skip
FILES = st.lists(
    st.sampled_from(list(KINDS)).flatmap(
        lambda kind: st.tuples(st.just(kind), st.lists(st.none() | KINDS[kind], min_size=1, max_size=3))
    ),
    min_size=1, max_size=3,
)  # fmt: skip


def same(out: Any, value: Any) -> bool:
    """Equal by JSON: type and value of what is read, or of the text's JSON."""
    if isinstance(value, float) and math.isnan(value):
        return isinstance(out, float) and math.isnan(out)
    if isinstance(value, list) and isinstance(out, list):
        return len(out) == len(value) and all(map(same, out, value))
    if isinstance(value, dict) and isinstance(out, dict):
        return all(same(out.get(key), value.get(key)) for key in {*out, *value})
    return isinstance(out, bool) == isinstance(value, bool) and bool(out == value)


def told(out: Any, value: Any, kind: pa.DataType) -> bool:
    """Whether the row of responses/ says what the file did."""
    if value is None or isinstance(value, str) or not pa.types.is_string(kind):
        return same(out, value)
    if isinstance(value, date | Decimal):
        return (
            isinstance(out, str)
            and (type(value).fromisoformat(out) if isinstance(value, date) else Decimal(out)) == value
        )
    return same(json.loads(out), value)


@FUZZ
@given(files=st.lists(COLUMN, min_size=1, max_size=3), shard_rows=st.integers(1, 6))
@example(files=[[1, 0.87]], shard_rows=1)
@example(files=[[2**60 + 1], [0.5]], shard_rows=5)
@example(files=[[{"a": 1}], [{"a": 1, "b": 2}]], shard_rows=1)
def test_json_lines(tmp_path_factory: pytest.TempPathFactory, files: list[list[Any]], shard_rows: int) -> None:
    folder = tmp_path_factory.mktemp("lines")
    for number, values in enumerate(files):
        rows = [{"id": value, "q": "what", "n": value} for value in values]
        write_jsonl(folder / f"in/{number}.jsonl", rows)
    made = carried(folder, KEEP, shard_rows)
    values = [value for of_file in files for value in of_file]
    for value, kept, identity, error in zip(
        values, made.keep["n"].to_pylist(), made.id.to_pylist(), made.errors, strict=True
    ):
        assert told(kept, value, made.keep["n"].type), (kept, value)
        nothing = value is None or (isinstance(value, float) and math.isnan(value))
        assert error == ("id is null" if nothing else "")
        assert nothing or told(identity, value, made.id.type), (identity, value)


@FUZZ
@given(files=FILES, shard_rows=st.integers(1, 6))
def test_parquet(
    tmp_path_factory: pytest.TempPathFactory, files: list[tuple[pa.DataType, list[Any]]], shard_rows: int
) -> None:
    folder, values = tmp_path_factory.mktemp("tables"), []
    for number, (kind, of_file) in enumerate(files):
        array = pa.array(of_file, kind)
        write_parquet(folder / f"in/{number}.parquet", n=array, id=array)
        values += of_file
    made = carried(folder, KEEP, shard_rows)
    for value, kept, identity, error in zip(
        values, made.keep["n"].to_pylist(), made.id.to_pylist(), made.errors, strict=True
    ):
        assert told(kept, value, made.keep["n"].type), (kept, value)
        nothing = value is None or (isinstance(value, float) and math.isnan(value))
        assert error == ("id is null" if nothing else "")
        assert nothing or told(identity, value, made.id.type), (identity, value)


@FUZZ
@given(
    rows=st.lists(st.tuples(st.text(max_size=4), st.text(max_size=4)), min_size=1, max_size=5),
    shard_rows=st.integers(1, 6),
)
def test_csv(tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], shard_rows: int) -> None:
    folder = tmp_path_factory.mktemp("cells")
    (folder / "in").mkdir()
    with (folder / "in/a.csv").open("w", newline="", encoding="utf-8") as out:
        writer = csv.writer(out, quoting=csv.QUOTE_ALL)
        writer.writerows([("id", "q", "n"), *((identity, "what", n) for identity, n in rows)])
    made = carried(folder, KEEP, shard_rows)
    assert list(zip(made.id.to_pylist(), made.keep["n"].to_pylist(), strict=True)) == rows


@FUZZ
@given(values=COLUMN)
def test_two_ids_are_one_only_where_their_text_is(tmp_path_factory: pytest.TempPathFactory, values: list[Any]) -> None:
    folder = tmp_path_factory.mktemp("ids")
    write_jsonl(folder / "in/a.jsonl", [{"id": value, "q": "what", "n": 1} for value in values])
    made = carried(folder, KEEP)
    pairs = [
        pair
        for pair, error in zip(
            zip(made.id.to_pylist(), made.scored["id_key"].to_pylist(), strict=True), made.errors, strict=True
        )
        if not error
    ]
    assert len({key for _, key in pairs}) == len({str(identity) for identity, _ in pairs}) == len(set(pairs))
