"""JSON: a row an object, whether on lines, in a list, or over many lines; what `json` takes in silence is said."""

import bz2
import gzip
import json
import math

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jobs.errors import InputError
from jobs.route.score.fields.columns import columns_of
from jobs.route.score.files import list_files
from jobs.route.score.formats import json_values, text
from jobs.route.score.records import read_records
from jobs.spec.sections import InputSpec

QUICK = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
ROWS = [{"prompt": f"zwölf {i}\n\u2028", "n": i, "more": [{"k": None}, 2**60 + 1, 0.1]} for i in range(5)]


def read(path, content: str | bytes, **spec) -> list:
    path = path if path.suffix else path / "x.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
    spec = InputSpec(path=str(path), **spec)
    return [record for file in list_files(spec) for record in read_records(file, spec, None)]


def errors(path, content: str | bytes) -> list[str]:
    return [record.error for record in read(path, content)]


def refused(path, content: str | bytes, **spec) -> str:
    with pytest.raises(InputError) as caught:
        read(path, content, **spec)
    assert str(caught.value).startswith("input.path: ") and "\n" not in str(caught.value)
    return str(caught.value)


def lines(rows: list) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


SHAPES = {
    "lines": lines(ROWS),
    "lines without the last end": lines(ROWS).rstrip(),
    "lines of Windows": lines(ROWS).replace("\n", "\r\n"),
    "lines of an old Mac": lines(ROWS).replace("\n", "\r"),
    "blank lines": "\n \n" + lines(ROWS).replace("\n", "\n\n\t\n"),
    "no ends at all": lines(ROWS).replace("\n", ""),
    "record separators": "\x1e" + lines(ROWS).replace("\n", "\n\x1e").removesuffix("\x1e"),
    "a list": json.dumps(ROWS),
    "an indented list": json.dumps(ROWS, indent=2),
    "a list of lines": "[" + lines(ROWS).strip().replace("\n", ",\n") + "]",
    "a list of lines between brackets": "[\n" + lines(ROWS).strip().replace("\n", ",\n") + "\n]\n",
    "a list after blanks": " \n\n" + json.dumps(ROWS) + "\n\n",
    "indented objects": "\n".join(json.dumps(row, indent=4) for row in ROWS),
    "marks between files": "\ufeff" + lines(ROWS).replace("\n", "\n\ufeff").removesuffix("\ufeff"),
}


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".ndjson"])
@pytest.mark.parametrize("shape", SHAPES)
def test_rows_are_the_same_in_every_shape(tmp_path, shape, suffix):
    content = SHAPES[shape]
    assert [record.columns for record in read(tmp_path / f"x{suffix}", content)] == ROWS
    if not content.startswith("\ufeff"):
        marked = ("\ufeff" + content).encode()
        assert [record.columns for record in read(tmp_path / f"x{suffix}", marked)] == ROWS
        assert [record.columns for record in read(tmp_path / f"x{suffix}", content.encode("utf-16"))] == ROWS


@pytest.mark.parametrize("pack", [gzip.compress, bz2.compress, lambda b: pa.compress(b, codec="zstd", asbytes=True)])
@pytest.mark.parametrize("shape", ["lines", "an indented list"])
def test_packed_files_are_told_by_their_content(tmp_path, pack, shape):
    content = SHAPES[shape].encode()
    cut = len(content) // 2
    for name in ("x.jsonl", "x.jsonl.gz", "x.json.zst"):
        assert [record.columns for record in read(tmp_path / name, pack(content))] == ROWS
        assert [record.columns for record in read(tmp_path / name, pack(content[:cut]) + pack(content[cut:]))] == ROWS
    assert "Truncated" in refused(tmp_path / "x.jsonl.gz", pack(content)[:-5])


def test_long_lists_are_read_piece_by_piece(tmp_path, monkeypatch):
    monkeypatch.setattr(json_values, "BUFFER_BYTES", 16)
    monkeypatch.setattr(text, "BUFFER_BYTES", 16)
    for content in (json.dumps(ROWS), json.dumps(ROWS, indent=3), "[1234567, 123456789012345678901]"):
        path = tmp_path / "x.json"
        assert len(read(path, content)) == len(json.loads(content))
    monkeypatch.setattr(json_values, "MOST_CHARS", 100)
    assert "element 2" in refused(tmp_path, '[{"a": 1}, {"b": "' + "x" * 500 + '"}]')


def test_an_object_around_the_rows_is_refused_with_the_way_out(tmp_path):
    for key in ("data", "rows", "test"):
        for indent in (None, 1):
            content = json.dumps({"version": "1.1", key: ROWS}, indent=indent)
            assert f"jq -c '.{key}[]'" in refused(tmp_path, content)
            assert f"jq -c '.{key}[]'" in refused(tmp_path / "x.jsonl", content, prompt="prompt")
    assert "orient='records'" in refused(tmp_path, '{"prompt": {"0": "a", "1": "b"}, "n": {"0": 1, "1": 2}}')
    assert "jq" in refused(tmp_path, '{"columns": ["a"], "index": [0, 1], "data": [["x"], ["y"]]}')


def test_one_row_is_a_row_whatever_it_holds(tmp_path):
    for row in (
        {"messages": [{"role": "user", "content": "x"}], "data": [{"a": 1}]},
        {"prompt": "x", "results": [{"a": 1}]},
        {"title": "x", "sections": [{"a": 1}]},
        {"data": "text"},
    ):
        assert [record.columns for record in read(tmp_path, json.dumps(row))] == [row]
    assert len(read(tmp_path, '{"q": "x", "data": [{"a": 1}]}', prompt="q")) == 1
    assert len(read(tmp_path, '{"data": [{"a": 1}]}\n{"data": [{"a": 2}]}\n')) == 2


def test_a_bad_line_costs_itself(tmp_path):
    content = (
        b'{"a": 1}\n{"a": 1},\n{"a": 1, "a": 2}\n{"m": [{"a": 1, "b": 2, "a": 1}]}\n'
        b'[1, 2]\n"text"\n3\nnull\n{"a": 1e400}\n{"a": "\xff"}\n'
        b'{"a": "\x00"}\n\x00\x00\x00\n{"a": tru\n{"a": 1} {"a"\n' + b"[" * 100_000 + b'\n{"a": "cut'
    )
    found = errors(tmp_path, content)
    says = ["", "ends in a comma", "'a' twice", "'a' twice", *["not a JSON object"] * 4, "too large", "not UTF-8"]
    says += [*["not valid JSON"] * 6]
    assert len(found) == len(says)
    assert all(says in error and bool(says) == bool(error) for says, error in zip(says, found, strict=True)), found


def test_numbers_keep_their_value(tmp_path):
    record, other = read(tmp_path, '{"a": 1152921504606846977, "b": 1e3, "c": -0.0}\n{"a": NaN, "b": -Infinity}\n')
    assert record.columns == {"a": 2**60 + 1, "b": 1000.0, "c": -0.0}
    assert math.isnan(other.columns["a"]) and other.columns["b"] == -math.inf
    assert read(tmp_path, '{"a": 123456789012345678901234567890}')[0].columns["a"] == 123456789012345678901234567890


def test_a_bad_element_of_a_list_costs_itself_or_ends_the_job(tmp_path):
    found = errors(tmp_path, b'[{"a": 1}, [2], {"a": 1, "a": 2}, {"a": "\xff"}, null, {"a": 1}]')
    assert [bool(error) for error in found] == [False, True, True, True, True, False]
    assert "element 3" in found[2] and "twice" in found[2] and "UTF-8" in found[3]
    for content, says in (
        ('[{"a": 1}, {"a": 2', "element 2"),
        ('[{"a": 1} {"a": 2}]', "element 2 is not valid JSON (no comma"), ('[{"a": 1},]', "element 2"),
        ('[{"a": 1}', "the file is cut"), ('[{"a": 1}] and', "follows the end"), ('[{"a": 1},\n{"a": 2}', "the file is cut"),
        ("[" * 100_000, "nested too deeply"), ("[{'a': 1}]", "element 1"), ("[\n", "the file is cut"),
    ):  # fmt: skip
        assert says in refused(tmp_path, content)


def test_lists_on_lines_are_no_rows(tmp_path):
    assert errors(tmp_path, '[1, 2]\n{"a": 3}\n') == ["the line is not a JSON object", ""]
    (tmp_path / "x.jsonl").write_text('[{"a": 1}]\n[{"a": 2}]\n')
    spec = InputSpec(path=str(tmp_path / "x.jsonl"))
    with pytest.raises(InputError, match=r"none of the first 2 lines can be read \(the line is not a JSON object\)"):
        columns_of(list_files(spec), spec)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"PAR1 and so on", "Parquet"), (b"PK\x03\x04", "zip"), (b"\xfd7zXZ\x00", "xz"), (b"\x04\x22\x4d\x18", "lz4"),
        (b"\xff\x06\x00\x00sNaPpY", "snappy"), (b"ARROW1", "Arrow"), (b"ORC", "ORC"), (b"Obj\x01", "Avro"),
        (b"<!DOCTYPE html>", "web page"),
        (b"<?xml version", "XML"), (b"version https://git-lfs.github.com/spec/v1\n", "Git LFS"), (b"SQLite format 3\x00", "SQLite"),
        ('{"a": "b"}'.encode("utf-16-le"), "UTF-16"), ('{"a": "b"}'.encode("utf-16-be"), "UTF-16"),
        ('{"a": 1}'.encode("utf-32"), "UTF-32"),
        (b"x" * 257 + b"ustar" + b"x" * 250, "tar"), (gzip.compress(b"x" * 257 + b"ustar" + b"x" * 250, mtime=0), "tar"),
        (gzip.compress(b"PAR1", mtime=0), "Parquet"),
    ],
)  # fmt: skip
def test_what_is_no_text_is_named(tmp_path, content, says):
    for name in ("x.jsonl", "x.json", "x.csv"):
        assert says in refused(tmp_path / name, content)


@QUICK
@given(
    rows=st.lists(
        st.dictionaries(
            st.text(max_size=4),
            st.recursive(
                st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
                lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
                max_leaves=5,
            ),
            min_size=1,
            max_size=3,
        ),
        min_size=2,
        max_size=5,
    ),
    indent=st.sampled_from([None, 0, 2]),
    escaped=st.booleans(),
)
def test_what_json_writes_is_read_back_equal(tmp_path, rows, indent, escaped):
    def dump(value, indent=indent) -> str:
        return json.dumps(value, indent=indent, ensure_ascii=escaped)

    infinite = "Infinity" in dump(rows)
    for content in (dump(rows), "\n".join(map(dump, rows)), "\n".join(dump(row, None) for row in rows)):
        records = read(tmp_path, content)
        assert [record.columns for record in records] == rows
        assert infinite or not any(record.error for record in records)
