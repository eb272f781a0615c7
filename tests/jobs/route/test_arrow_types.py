"""Every type that a Parquet file can have: ids are plain text, kept columns pass through, prompts read what is text."""

from __future__ import annotations

import uuid
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from jobs.errors import InputError
from jobs.route.score.formats.arrow_values import python_values
from tests.jobs.route.carried import Carried, carried, write_parquet

UUID = uuid.UUID("bd352aad-beb7-4120-bbfb-e9c0d91424fc")
UUIDS = pa.array([UUID.bytes], pa.uuid())
FAR = pa.array([3_000_000], pa.int32()).view(pa.date32())
WHEN = datetime(2024, 1, 31, 10, 0, 5)
HERE = timezone(timedelta(hours=2))
HASH = bytes(range(200, 220))
MAP = pa.map_(pa.string(), pa.int64())


def one(tmp_path: Path, column: pa.Array, **more: Any) -> Carried:
    """The column as id and as a kept column of two rows, of which one is null."""
    both = pa.concat_arrays([column, pa.nulls(1, column.type)])
    write_parquet(tmp_path / "in/a.parquet", id=both, n=both)
    return carried(tmp_path, {"prompt": "q", "id": "id", "keep": ["n"]} | more)


@pytest.mark.parametrize(
    ("column", "id_text", "kind"),
    [
        (UUIDS, str(UUID), pa.string()),
        (pa.array([UUID.bytes], pa.binary(16)), str(UUID), pa.binary(16)),
        (pa.array([b"A7"], pa.binary(2)), "A7", pa.binary(2)),
        (pa.array([HASH], pa.binary(20)), HASH.hex(), pa.binary(20)),
        (pa.array([b"A7"]), "A7", pa.binary()),
        (pa.array([b"\xff\x00"], pa.large_binary()), "ff00", pa.binary()),
        (pa.array(["A7"], pa.large_string()), "A7", pa.string()),
        (pa.array(["A7"], pa.string_view()), "A7", pa.string()),
        (pa.array(["A7"]).dictionary_encode(), "A7", pa.string()),
        (pa.array([Decimal("1234567890123456789.50")]), "1234567890123456789.50", pa.decimal128(21, 2)),
        (pa.array([Decimal("0.00000000")]), "0.00000000", pa.decimal128(8, 8)),
        (pa.array([Decimal("1.50")], pa.decimal256(60, 2)), "1.50", pa.decimal256(60, 2)),
        (pa.array([date(2024, 1, 31)]), "2024-01-31", pa.date32()),
        (pa.array([date(2024, 1, 31)], pa.date64()), "2024-01-31", pa.date32()),
        (FAR, "10183-09-21", pa.string()),
        (pa.array([time(10, 0, 5)], pa.time32("s")), "10:00:05", pa.time32("ms")),
        (pa.array([5_000_000_001], pa.time64("ns")), "00:00:05.000000001", pa.time64("ns")),
        (pa.array([WHEN]), "2024-01-31T10:00:05", pa.timestamp("us")),
        (pa.array([WHEN], pa.timestamp("ns")), "2024-01-31T10:00:05", pa.timestamp("ns")),
        (pa.array([1], pa.timestamp("ns")), "1970-01-01T00:00:00.000000001", pa.timestamp("ns")),
        (pa.array([WHEN.replace(tzinfo=HERE)], pa.timestamp("us", "+02:00")), "2024-01-31T10:00:05+02:00", None),
        (pa.array([0], pa.timestamp("us", "Mars/Olympus")), "1970-01-01T00:00:00.000000Z", None),
        (pa.array([2**61], pa.timestamp("us")), "75039-04-04T19:00:13.693952", pa.string()),
        (pa.array([timedelta(days=1, seconds=1.5)]), "PT86401.5S", pa.duration("us")),
        (pa.array([-1], pa.duration("ns")), "-PT0.000000001S", pa.duration("ns")),
        (pa.array([2**60], pa.duration("s")), f"PT{2**60}S", pa.duration("s")),
        (pa.array([1.5], pa.float16()), "1.5", pa.float16()),
        (pa.array([True]), "true", pa.bool_()),
        (pa.array([1], pa.bool8()), "true", pa.bool_()),
        (pa.array([[1, 2]], pa.list_view(pa.int64())), "[1, 2]", pa.list_(pa.int64())),
        (pa.array([[1, 2]], pa.large_list(pa.int64())), "[1, 2]", pa.list_(pa.int64())),
        (pa.array([[("a", 1)]], MAP), '{"a": 1}', MAP),
        (pa.array([[("a", 1), ("a", 2)]], MAP), '[["a", 1], ["a", 2]]', MAP),
        (pa.array([{"b": b"\xff", "d": date(2024, 1, 31)}]), '{"b": "ff", "d": "2024-01-31"}', None),
        (pa.StructArray.from_arrays([UUIDS], ["u"]), f'{{"u": "{UUID}"}}', pa.struct([("u", pa.string())])),
        (pa.ExtensionArray.from_storage(pa.json_(), pa.array(['{"a": 1}'])), '{"a": 1}', pa.string()),
        (pa.ExtensionArray.from_storage(pa.opaque(pa.binary(), "x", "y"), pa.array([b"A7"])), "A7", pa.binary()),
    ],
    ids=lambda value: str(value.type) if isinstance(value, pa.Array) else "",
)  # fmt: skip
def test_an_id_is_plain_text_and_a_kept_column_passes(
    tmp_path: Path, column: pa.Array, id_text: str, kind: pa.DataType | None
) -> None:
    made = one(tmp_path, column)
    assert made.id.to_pylist() == [id_text, "a.parquet:1"] and made.errors == ["", "id is null"]
    kept = made.keep["n"].combine_chunks()
    if kind is not None:
        assert kept.type == kind
    assert kept.null_count == 1
    assert python_values(kept) == [str(UUID) if column.type == pa.uuid() else _plain(python_values(column)[0]), None]


def _plain(value: Any) -> Any:
    return {"u": str(UUID)} if value == {"u": UUID} else value


@pytest.mark.parametrize("kind", [pa.int8(), pa.uint16(), pa.int64(), pa.uint64()])
def test_ids_of_every_width_are_whole_numbers(tmp_path: Path, kind: pa.DataType) -> None:
    high = 2 ** (kind.bit_width - pa.types.is_signed_integer(kind)) - 1
    write_parquet(tmp_path / "in/a.parquet", id=pa.array([high, 3], kind))
    made = carried(tmp_path, {"prompt": "q", "id": "id"})
    assert made.id.to_pylist() == [high, 3] and pa.types.is_integer(made.id.type)


def test_kept_columns_that_are_all_null_are_null(tmp_path: Path) -> None:
    write_parquet(tmp_path / "in/a.parquet", id=[1], n=pa.nulls(1))
    assert carried(tmp_path, {"prompt": "q", "id": "id", "keep": ["n"]}).keep["n"].to_pylist() == [None]


@pytest.mark.parametrize(
    "kind", [pa.binary(), pa.large_binary(), pa.binary_view(), pa.string_view(), pa.large_string()]
)
def test_bytes_that_are_utf8_are_text_wherever_text_is_read(tmp_path: Path, kind: pa.DataType) -> None:
    text = pa.array(["zwölf"]).cast(pa.binary()).cast(kind)
    write_parquet(tmp_path / "in/a.parquet", q=text, g=text, id=text)
    spec = {"id": "id", "prompt": "q"}
    made = carried(tmp_path, spec, quality={"gold": {"column": "g"}}, sample={"rows": 1})
    assert made.id.to_pylist() == ["zwölf"] == made.scored["gold"].to_pylist()
    assert made.scored["text"].to_pylist() == ["zwölf"]
    again = carried(tmp_path, {"id": "id"}, template="{{ q|upper }} {{ g[0] }}")
    assert again.scored["text"].to_pylist() == ["ZWÖLF z"]


@pytest.mark.parametrize("binary", [True, False])
def test_bytes_that_are_not_concern_the_row_only_where_it_is_asked_with_them(tmp_path: Path, binary: bool) -> None:
    broken = pa.array([b"\xff", b"ok"])
    broken = broken if binary else broken.view(pa.string())
    write_parquet(tmp_path / "in/a.parquet", id=[1, 2], n=broken, p=broken)
    made = carried(tmp_path, {"prompt": "q", "id": "id", "keep": ["n"]})
    assert made.errors == ["", ""]
    assert made.keep["n"].to_pylist() == ([b"\xff", b"ok"] if binary else ["\\xff", "ok"])
    assert carried(tmp_path, {"prompt": "p"}).errors == ["column 'p' is not UTF-8", ""]
    assert carried(tmp_path, {}, template="{{ p }}").errors == ["template: UndefinedError: p is not UTF-8", ""]
    gold = {"quality": {"gold": {"column": "p"}}, "sample": {"rows": 1}}
    assert carried(tmp_path, {"prompt": "q"}, **gold).errors == ["column 'p' is not UTF-8", ""]


def test_dates_and_decimals_print_in_a_template_as_they_always_did(tmp_path: Path) -> None:
    columns = {"d": [date(2024, 1, 31)], "t": [WHEN], "x": [Decimal("1.50")], "u": UUIDS, "far": FAR}
    write_parquet(tmp_path / "in/a.parquet", **columns)
    made = carried(tmp_path, {}, template="{{ d.year }} {{ d }} {{ t }} {{ x }} {{ u }} {{ far }}")
    assert made.scored["text"].to_pylist() == [f"2024 2024-01-31 2024-01-31 10:00:05 1.50 {UUID} 10183-09-21"]


def test_encoded_and_sliced_arrays_are_what_they_stand_for() -> None:
    assert python_values(pc.run_end_encode(pa.array([1, 1, None]))) == [1, 1, None]
    nested = pa.array([None, [{"b": b"a"}], [], [{"b": None}, None, {"b": b"\xff"}]])
    for start in range(4):
        assert (
            python_values(nested.slice(start)) == [None, [{"b": "a"}], [], [{"b": None}, None, {"b": b"\xff"}]][start:]
        )
    views = pa.array([None, [b"a"], [], [b"b", None]], pa.list_view(pa.binary()))
    assert python_values(views.slice(1)) == [["a"], [], ["b", None]]
    fixed = pa.array([[b"a", b"b"], None, [b"c", b"d"]], pa.list_(pa.binary(), 2))
    assert python_values(fixed) == [["a", "b"], None, ["c", "d"]] and python_values(fixed.slice(1)) == [
        None,
        ["c", "d"],
    ]
    maps = pa.array([[("k", b"a")], None, [], [("k", b"\xff"), ("l", None)]], pa.map_(pa.string(), pa.binary()))
    assert python_values(maps.slice(1)) == [None, [], [("k", b"\xff"), ("l", None)]]
    struct = pa.array([{"b": b"a"}, None, {"b": b"c"}])
    assert python_values(struct.slice(1)) == [None, {"b": "c"}]


def test_columns_with_dots_are_columns_and_two_of_one_name_are_refused(tmp_path: Path) -> None:
    write_parquet(tmp_path / "in/a.parquet", **{"a.b": ["dotted"], "a": [{"b": "nested"}]})
    made = carried(tmp_path, {"keep": ["a.b", "a"]}, template="{{ a.b }}")
    assert made.keep["a.b"].to_pylist() == ["dotted"] and made.keep["a"].to_pylist() == [{"b": "nested"}]
    assert made.scored["text"].to_pylist() == ["nested"]
    twice = pa.Table.from_arrays([pa.array(["x"]), pa.array(["y"])], ["q", "q"])
    pq.write_table(twice, tmp_path / "in/a.parquet")
    with pytest.raises(InputError, match="two columns 'q'"):
        carried(tmp_path, {"prompt": "q"})
