"""Files without a row among others are passed over with a word, wherever they stand; a set without a row is refused."""

import bz2
import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.errors import InputError
from jobs.route.score.files import list_files
from jobs.route.score.stage import plan_score, read_split
from jobs.spec.loader import parse_spec

MODELS = {"a": {"engine": "vllm", "source": "s"}, "b": {"engine": "openai"}}


def no_rows(suffix: str) -> dict[str, bytes]:
    """Name → content without a row, of one kind of file."""
    if suffix == "parquet":
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"q": pa.array([], pa.string()), "n": pa.array([], pa.int64())}), sink)
        return {"nothing": b"", "no rows": sink.getvalue().to_pybytes()}
    blank = {
        "nothing": b"",
        "blank": b"\n\n  \n",
        "mark": b"\xef\xbb\xbf",
        "end": b"\r\n",
        "packed": gzip.compress(b""),
    }
    blank |= {"bz2": bz2.compress(b"\n"), "utf16": "\n".encode("utf-16")}
    return blank | (
        {"header": b"n,q\n", "hint": b"sep=,\n"} if suffix == "csv" else {"list": b"[]", "lists": b" [\n]\n"}
    )


def row(suffix: str, n: int) -> bytes:
    if suffix == "parquet":
        sink = pa.BufferOutputStream()
        pq.write_table(pa.table({"n": [n], "q": [f"what is {n}"]}), sink)
        return bytes(sink.getvalue().to_pybytes())
    return f"n,q\n{n},what is {n}\n".encode() if suffix == "csv" else json.dumps({"n": n, "q": f"what is {n}"}).encode()


def scored(path, said: list[str]) -> list[dict]:
    data = {
        "input": {"path": str(path), "prompt": "q", "keep": ["n"]},
        "output": "o",
        "router": "random",
        "models": MODELS,
    }
    spec = parse_spec({**data, "weak": "a", "strong": "b", "policy": {"strong_share": 0.5}})
    files = list_files(spec.input, said.append)
    plan = plan_score(spec, files, said.append)
    return [row for table in read_split(0, range(len(files)), plan) for row in table.to_pylist()]


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet"])
@pytest.mark.parametrize("place", ["first", "last", "between"])
def test_files_without_rows_are_passed_over_and_named(tmp_path, suffix, place):
    empty = no_rows(suffix)
    for i, content in enumerate(empty.values()):
        (tmp_path / f"{ {'first': 'a', 'last': 'z', 'between': 'm'}[place] }{i}.{suffix}").write_bytes(content)
    for n, name in enumerate(("g", "t")):
        (tmp_path / f"{name}.{suffix}").write_bytes(row(suffix, n))
    said: list[str] = []
    rows = scored(tmp_path, said)
    assert [(each["messages"] != "", each["input_error"]) for each in rows] == [(True, ""), (True, "")]
    assert [str(each["keep"]["k0"]) for each in rows] == ["0", "1"]
    assert len(said) == 1 and f"{len(empty)} of {len(empty) + 2} files hold no rows" in said[0]


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "parquet"])
def test_a_set_without_a_row_is_refused_in_a_line(tmp_path, suffix):
    for i, content in enumerate(no_rows(suffix).values()):
        (tmp_path / f"{i}.{suffix}").write_bytes(content)
        with pytest.raises(InputError, match=r"input\.path: .*(holds no rows|is empty)"):
            scored(tmp_path / f"{i}.{suffix}", [])
    with pytest.raises(InputError, match=r"input\.path: .*holds no rows"):
        scored(tmp_path, [])


def test_a_broken_file_is_not_taken_for_an_empty_one(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"n": 1, "q": "p"}\n')
    (tmp_path / "b.jsonl").write_text("{broken\n")
    (tmp_path / "c.jsonl.gz").write_bytes(gzip.compress(b'{"n": 1, "q": "p"}\n')[:-4])
    said: list[str] = []
    with pytest.raises(InputError, match="Truncated"):
        scored(tmp_path, said)
    (tmp_path / "c.jsonl.gz").unlink()
    assert [bool(each["input_error"]) for each in scored(tmp_path, said)] == [False, True] and not said


def test_a_first_file_that_cannot_be_read_hides_no_columns(tmp_path):
    (tmp_path / "a.jsonl").write_text("{broken\n")
    (tmp_path / "b.jsonl").write_text('{"n": 1, "q": "p"}\n')
    assert [bool(each["input_error"]) for each in scored(tmp_path, [])] == [True, False]
