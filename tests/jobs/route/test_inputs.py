"""Reading: every row of every format arrives once, in order; a broken row is an error of its own, not of the file."""

import gzip
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.errors import InputError
from jobs.route.score.fields.columns import columns_of
from jobs.route.score.files import list_files, make_splits
from jobs.route.score.records import read_records
from jobs.spec.sections import InputSpec


def read_all(spec: InputSpec) -> list:
    return [record for file in list_files(spec) for record in read_records(file, spec, None)]


def test_the_three_formats_give_the_same_rows(tmp_path):
    rows = [{"id": f"r{i}", "prompt": f'zwölf, "{i}"\nnext line'} for i in range(10)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows) + "\n")
    with gzip.open(tmp_path / "b2.jsonl.gz", "wt") as out:
        out.write("\ufeff" + "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in rows))
    quoted = "".join('{},"{}"\n'.format(r["id"], r["prompt"].replace('"', '""')) for r in rows)
    (tmp_path / "c.csv").write_text("\ufeffid,prompt\n" + quoted)
    for name in ("a.parquet", "b.jsonl", "b2.jsonl.gz", "c.csv"):
        assert [r.columns for r in read_all(InputSpec(path=str(tmp_path / name)))] == rows, name


def test_folder_is_read_by_name_without_hidden_files_and_a_glob_chooses(tmp_path):
    for name in ("b/2.jsonl", "a/1.jsonl", "_headgate/x.jsonl", ".cache/y.jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(json.dumps({"prompt": name}) + "\n")
    (tmp_path / "README.md").write_text("not data")
    assert [r.columns["prompt"] for r in read_all(InputSpec(path=str(tmp_path)))] == ["a/1.jsonl", "b/2.jsonl"]
    assert len(read_all(InputSpec(path=str(tmp_path / "b/*.jsonl")))) == 1
    assert len(read_all(InputSpec(path=[str(tmp_path / "a"), str(tmp_path / "b")]))) == 2


@pytest.mark.parametrize(
    ("content", "suffix", "errors"),
    [
        (b'{"prompt": "ok"}\n{"prompt": "\xff"}\n{broken\n[1]\n{"prompt": "ok"}\n', ".jsonl", [1, 2, 3]),
        (b"id,prompt\n1,ok\n2,\xff\n3\n4,ok\n", ".csv", [1, 2]),
    ],
)
def test_a_bad_row_is_an_error_and_its_neighbours_are_not(tmp_path, content, suffix, errors):
    (tmp_path / f"x{suffix}").write_bytes(content)
    records = read_all(InputSpec(path=str(tmp_path / f"x{suffix}")))
    assert [i for i, r in enumerate(records) if r.error] == errors
    assert any("UTF-8" in r.error for r in records)


def test_parquet_text_that_is_not_utf8_costs_only_its_row(tmp_path):
    broken = pa.array([b"ok", b"\xff\xfe", b"ok"], pa.binary()).view(pa.string())
    pq.write_table(pa.table({"prompt": broken}), tmp_path / "x.parquet")
    values = [r.columns["prompt"] for r in read_all(InputSpec(path=str(tmp_path / "x.parquet")))]
    assert values == ["ok", b"\xff\xfe", "ok"]


def test_a_field_of_a_megabyte_is_read_from_csv(tmp_path):
    (tmp_path / "x.csv").write_text('prompt\n"' + "a" * 2**20 + '"\n')
    assert len(read_all(InputSpec(path=str(tmp_path / "x.csv")))[0].columns["prompt"]) == 2**20


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda p: None, "not found"),
        (lambda p: p.mkdir(), "no Parquet, JSONL or CSV file"),
        (lambda p: p.write_text(""), "no known suffix"),
    ],
)
def test_a_path_without_input_is_one_line_naming_the_field(tmp_path, make, says):
    make(tmp_path / "x")
    with pytest.raises(InputError, match=says) as caught:
        columns_of(list_files(InputSpec(path=str(tmp_path / "x"))), InputSpec(path="x"))
    assert str(caught.value).startswith("input.path") and "\n" not in str(caught.value)


def test_empty_unreadable_and_mixed_input_is_refused(tmp_path):
    (tmp_path / "empty.jsonl").write_text("")
    with pytest.raises(InputError, match="is empty"):
        list_files(InputSpec(path=str(tmp_path / "empty.jsonl")))
    for content in (b"not parquet at all", b"PAR1", b"id,q\n1,a\n"):
        (tmp_path / "x.parquet").write_bytes(content)
        with pytest.raises(InputError, match=r"x\.parquet: no Parquet file, or one cut short"):
            read_all(InputSpec(path=str(tmp_path / "x.parquet")))
    with pytest.raises(InputError, match=r"jsonl and parquet files"):
        list_files(InputSpec(path=str(tmp_path)))


def test_small_files_are_read_together_and_large_ones_alone(tmp_path):
    from jobs.storage.manifest import InputFile

    files = [InputFile(str(i), size, 0) for i, size in enumerate([10, 20, 70 * 2**20, 5, 5])]
    assert make_splits(files) == [[0, 1], [2], [3, 4]]
