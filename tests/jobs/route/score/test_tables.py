"""Tables whose folders hold removed rows: none of those rows is ever a row of the input, from whichever path it is looked for."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.errors import InputError
from jobs.route.score.fields.columns import columns_of
from jobs.route.score.files import list_files
from jobs.route.score.records import read_records
from jobs.spec.sections import InputSpec

delta = pytest.importorskip("deltalake")


def rows(path: object) -> list[dict]:
    spec = InputSpec(path=str(path))
    return [record.columns for file in list_files(spec) for record in read_records(file, spec, None)]


def refusal(path: object) -> str:
    with pytest.raises(InputError) as caught:
        rows(path)
    assert str(caught.value).startswith("input.path: ") and "\n" not in str(caught.value)
    return str(caught.value)


def delta_table(uri: str, **options) -> None:
    """Three versions: rows of two partitions, one row removed, a row and a column added."""
    more = {"storage_options": options} if options else {}
    first = pa.table({"q": ["a", "b", "c"], "kind": ["x y", "x y", None]})
    delta.write_deltalake(uri, first, partition_by=["kind"], **more)
    delta.DeltaTable(uri, **more).delete("q = 'a'")
    second = pa.table({"q": ["d"], "kind": ["50%/ü"], "n": [7]})
    delta.write_deltalake(uri, second, mode="append", schema_mode="merge", **more)


LIVE = [("b", "x y"), ("c", None), ("d", "50%/ü")]


def test_the_live_rows_of_a_delta_table_are_read(tmp_path):
    folder = tmp_path / "a b" / "table"
    delta_table(str(folder))
    assert len(list(folder.rglob("*.parquet"))) == 4, "the removed row's file is still there"
    assert sorted((row["q"], row["kind"]) for row in rows(folder)) == LIVE
    assert sorted((row["q"], row["kind"]) for row in rows(f"{folder}/")) == LIVE
    spec = InputSpec(path=str(folder))
    assert {"q", "kind", "n"} <= set(columns_of(list_files(spec), spec))
    assert all(file.size and file.modified_ns for file in list_files(spec))


def test_a_delta_table_on_s3_is_read(s3_moto):
    for name, value in s3_moto.environment.items():
        assert name.startswith("AWS_") and value
    delta_table(s3_moto.uri("t/table"), AWS_ALLOW_HTTP="true", AWS_S3_ALLOW_UNSAFE_RENAME="true")
    assert sorted((row["q"], row["kind"]) for row in rows(s3_moto.uri("t/table"))) == LIVE
    assert "Delta" in refusal(s3_moto.uri("t/table/*/*.parquet"))


@pytest.mark.parametrize(
    "inside", ["*.parquet", "**", "kind=x%20y", "kind=*/", "**/*.parquet", "_delta_log/*.json", ".."]
)
def test_a_part_of_a_delta_table_is_refused(tmp_path, inside):
    delta_table(str(tmp_path / "in/table"))
    assert "Delta table" in refusal(tmp_path / "in/table" / inside)


def test_a_file_of_a_delta_table_is_refused(tmp_path):
    delta_table(str(tmp_path / "table"))
    for file in (tmp_path / "table").rglob("*.parquet"):
        assert "Delta table" in refusal(file)


def test_without_the_package_the_line_names_it(tmp_path, monkeypatch):
    delta_table(str(tmp_path / "table"))
    monkeypatch.setitem(__import__("sys").modules, "deltalake", None)
    assert 'pip install "headgate[delta]"' in refusal(tmp_path / "table")


def edit_log(table: Path, change) -> None:
    """`change` each action of the table's first version."""
    log = table / "_delta_log" / f"{0:020d}.json"
    actions = [json.loads(line) for line in log.read_text().splitlines()]
    for action in actions:
        change(action)
    log.write_text("\n".join(map(json.dumps, actions)))


def with_features(action: dict, *features: str) -> None:
    if "protocol" in action:
        both = {"readerFeatures": [*features], "writerFeatures": [*features]}
        action["protocol"] = {"minReaderVersion": 3, "minWriterVersion": 7, **both}


def deletion_vectors(action: dict) -> None:
    with_features(action, "deletionVectors")
    if "add" in action:
        place = {"storageType": "u", "pathOrInlineDv": "vBn[lx{q8@P<9BNH/isA", "offset": 1}
        action["add"]["deletionVector"] = place | {"sizeInBytes": 36, "cardinality": 2}


def renamed_columns(action: dict) -> None:
    with_features(action, "columnMapping")
    if "metaData" in action:
        action["metaData"]["configuration"] = {"delta.columnMapping.mode": "name"}
        schema = json.loads(action["metaData"]["schemaString"])
        schema["fields"][0]["metadata"] = {"delta.columnMapping.id": 1, "delta.columnMapping.physicalName": "col-1"}
        action["metaData"]["schemaString"] = json.dumps(schema)


def unknown_feature(action: dict) -> None:
    with_features(action, "readBackwards")


def elsewhere_partitioned(action: dict) -> None:
    if "metaData" in action:
        action["metaData"]["partitionColumns"] = ["q"]
    if "add" in action:
        action["add"]["partitionValues"] = {"q": "a"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (deletion_vectors, "deletion vectors"),
        (renamed_columns, "renamed columns"),
        (unknown_feature, "not readable as a Delta table"),
        (elsewhere_partitioned, "partition column 'q'"),
    ],
)
def test_a_delta_table_that_is_more_than_files_is_refused(tmp_path, change, says):
    delta.write_deltalake(str(tmp_path / "table"), pa.table({"q": ["a", "b"]}))
    edit_log(tmp_path / "table", change)
    assert says in refusal(tmp_path / "table")


def test_a_damaged_or_empty_delta_table_is_one_line(tmp_path):
    delta.write_deltalake(str(tmp_path / "table"), pa.table({"q": ["a"]}))
    delta.DeltaTable(str(tmp_path / "table")).delete()
    assert "holds no rows" in refusal(tmp_path / "table")
    for log in ("{broken", '{"add": {"path": "x.parquet"}}\n'):
        (tmp_path / "table/_delta_log" / f"{0:020d}.json").write_text(log)
        said = refusal(tmp_path / "table")
        assert "not readable as a Delta table" in said and "of their own" in said


@pytest.mark.parametrize(
    ("log", "kind"),
    [
        ("metadata/00001-8a.metadata.json", "Iceberg"),
        ("metadata/v2.metadata.json", "Iceberg"),
        ("metadata/snap-1-1.avro", "Iceberg"),
        ("metadata/version-hint.text", "Iceberg"),
        (".hoodie/hoodie.properties", "Hudi"),
        ("_spark_metadata/0", "Spark stream"),
        ("_versions/1.manifest", "Lance"),
        ("snapshot/snapshot-1", "Paimon"),
    ],
)
@pytest.mark.parametrize("path", ["", "data", "data/*.parquet", "**/*.parquet", "data/rows.parquet", "data/day=1/"])
def test_other_tables_are_refused_from_every_path(tmp_path, log, kind, path):
    for name in ("data/rows.parquet", "data/day=1/rows.parquet"):
        (tmp_path / "t" / name).parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"prompt": ["removed"]}), tmp_path / "t" / name)
    (tmp_path / "t" / log).parent.mkdir()
    (tmp_path / "t" / log).write_text("{}")
    said = refusal(tmp_path / "t" / path)
    assert kind in said and "of their own" in said


def test_tables_on_s3_are_refused(s3_moto):
    client = s3_moto.client()
    for name in ("t/metadata/v1.metadata.json", "t/data/x.jsonl", "u/.hoodie/hoodie.properties", "u/p=1/x.jsonl"):
        client.put_object(Bucket=s3_moto.name, Key=name, Body=b'{"prompt": "p"}\n')
    for path in ("t", "t/data", "t/data/x.jsonl", "t/**/*.jsonl"):
        assert "Iceberg" in refusal(s3_moto.uri(path))
    for path in ("u", "u/p=1/x.jsonl", "u/*/*.jsonl", "u/p=*/"):
        assert "Hudi" in refusal(s3_moto.uri(path))


def test_a_saved_data_set_is_not_read_as_its_json_files(tmp_path):
    for name in ("state.json", "dataset_info.json", "data-00000-of-00001.arrow"):
        (tmp_path / name).write_text("{}")
    assert "save_to_disk" in refusal(tmp_path)
    assert "save_to_disk" in refusal(tmp_path / "*.json")


def test_folders_that_only_look_like_logs_are_none(tmp_path):
    for name in ("metadata/x.jsonl", "snapshot/snapshot-2024.jsonl", "state.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text('{"prompt": "p"}\n')
    assert len(rows(tmp_path)) == 3


def test_a_table_beside_what_is_read_does_not_matter(tmp_path):
    delta_table(str(tmp_path / "table"))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/x.jsonl").write_text('{"prompt": "p"}\n')
    assert len(rows(tmp_path / "mine")) == len(rows(tmp_path / "*/*.jsonl")) == 1
