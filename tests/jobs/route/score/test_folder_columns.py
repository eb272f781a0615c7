"""Folders that are columns: `category=math/` is a column of the rows below it, as text, null and percent signs understood."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.errors import InputError, SpecError
from jobs.route.score.files import list_files
from jobs.route.score.listing.partitions import folder_columns
from jobs.route.score.stage import plan_score, read_split
from jobs.spec.loader import parse_spec

MODELS = {"a": {"engine": "vllm", "source": "s"}, "b": {"engine": "openai"}}


def scored(path, said=None, **more) -> list[dict]:
    """Rows as the score stage writes them, up to the router."""
    data = {"input": {"path": str(path), **more.pop("input")}, "output": "o", "router": "random", "models": MODELS}
    spec = parse_spec({**data, "weak": "a", "strong": "b", "policy": {"strong_share": 0.5}, **more})
    files = list_files(spec.input)
    plan = plan_score(spec, files, (said if said is not None else []).append)
    return [row for table in read_split(0, range(len(files)), plan) for row in table.to_pylist()]


@pytest.mark.parametrize(
    ("uri", "columns"),
    [
        ("/d/category=math/x.jsonl", {"category": "math"}),
        ("s3://b/year=2024/month=01/x.parquet", {"year": "2024", "month": "01"}),
        ("/d/c=a%2Fb%20c%25/x.csv", {"c": "a/b c%"}),
        ("/d/c=50%/x.csv", {"c": "50%"}),
        ("/d/c=%FF/x.csv", {"c": "%FF"}),
        ("/d/c=a+b/x.csv", {"c": "a+b"}),
        ("/d/c=__HIVE_DEFAULT_PARTITION__/x.csv", {"c": None}),
        ("/d/c=/x.csv", {"c": ""}),
        ("/d/c=k=v/x.csv", {"c": "k=v"}),
        ("/d/gr%C3%B6%C3%9Fe=gro%C3%9F/x.csv", {"größe": "groß"}),
        ("/d/c=1/c=2/x.csv", {"c": "2"}),
        ("/d/=1/plain/x=1.jsonl", {}),
    ],
)
def test_the_names_of_folders_are_columns(uri, columns):
    assert folder_columns(uri) == columns


@pytest.mark.parametrize("kind", ["jsonl", "csv", "parquet"])
def test_a_folder_column_is_a_column_like_others(tmp_path, kind):
    """Kept, in a template, as an id or gold; of every kind of file."""
    for folder in ("category=math/level=01", "category=a%20b/level=02", "category=__HIVE_DEFAULT_PARTITION__/level=03"):
        (tmp_path / folder).mkdir(parents=True)
        table = pa.table({"q": [f"what is {folder[-1]}?"]})
        if kind == "parquet":
            pq.write_table(table, tmp_path / folder / "x.parquet")
        else:
            line = json.dumps(table.to_pylist()[0]) if kind == "jsonl" else "q\n" + table["q"][0].as_py()
            (tmp_path / folder / f"x.{kind}").write_text(line + "\n")
    rows = scored(
        tmp_path, template="{{ level }}: {{ q }}", input={"keep": ["category", "level"], "id": "level"},
        quality={"gold": {"column": "category", "match": "exact"}},
    )  # fmt: skip
    rows.sort(key=lambda row: row["id"])
    assert [(row["id"], row["keep"]["k0"], row["gold"], row["input_error"]) for row in rows] == [
        ("01", "math", "math", ""), ("02", "a b", "a b", ""), ("03", None, None, ""),
    ]  # fmt: skip
    assert json.loads(rows[0]["messages"])[0]["content"] == "01: what is 1?"


def test_a_column_of_the_file_is_the_one_that_is_read_and_said_to_be(tmp_path):
    (tmp_path / "category=math").mkdir()
    (tmp_path / "category=math/x.jsonl").write_text('{"q": "p", "category": "algebra"}\n{"q": "p2"}\n')
    said: list[str] = []
    rows = scored(tmp_path, said, input={"prompt": "q", "keep": ["category"]})
    assert [row["keep"]["k0"] for row in rows] == ["algebra", "math"]
    assert len(said) == 1 and "'category'" in said[0]
    said.clear()
    scored(tmp_path, said, input={"prompt": "q"})
    assert not said, "of a column that nobody asks for there is nothing to say"


def test_a_column_that_is_neither_is_missing(tmp_path):
    (tmp_path / "category=math").mkdir()
    (tmp_path / "category=math/x.jsonl").write_text('{"q": "p"}\n')
    with pytest.raises(SpecError, match=r"no column 'kind' \(it has: .*category"):
        scored(tmp_path, input={"prompt": "q", "keep": ["kind"]})


def test_folder_columns_on_s3(s3_moto):
    s3_moto.client().put_object(Bucket=s3_moto.name, Key="d/c=a%2Fb/x.jsonl", Body=b'{"q": "p"}\n')
    assert scored(s3_moto.uri("d"), input={"prompt": "q", "keep": ["c"]})[0]["keep"]["k0"] == "a/b"
    assert scored(s3_moto.uri("d/c=*/*.jsonl"), input={"prompt": "q", "keep": ["c"]})[0]["keep"]["k0"] == "a/b"


def test_rows_without_an_id_are_told_apart_by_their_folder_where_their_file_s_name_does_not(tmp_path):
    for folder in ("c=1", "c=2"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.jsonl").write_text('{"q": "p"}\n{"q": "p2"}\n')
    (tmp_path / "c=2/y.jsonl").write_text('{"q": "p"}\n')
    ids = [row["id"] for row in scored(tmp_path, input={"prompt": "q"})]
    assert ids == ["c=1/x.jsonl:0", "c=1/x.jsonl:1", "c=2/x.jsonl:0", "c=2/x.jsonl:1", "y.jsonl:0"]


@pytest.mark.parametrize("needed", ["q", "r"])
def test_two_columns_of_one_name_are_refused(tmp_path, needed):
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"]), pa.array(["c"])], names=["q", "q", "r"])
    pq.write_table(table, tmp_path / "x.parquet")
    with pytest.raises(InputError, match=r"x\.parquet has two columns 'q'"):
        scored(tmp_path, input={"prompt": needed})
