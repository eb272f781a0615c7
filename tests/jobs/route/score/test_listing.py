"""Which files a path means: real names before patterns, folders as far as the pattern says, and no file twice, here and on S3."""

import json
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import pytest

from jobs.errors import InputError
from jobs.route.score.files import list_files
from jobs.route.score.records import read_records
from jobs.spec.sections import InputSpec


@dataclass
class Place:
    """Somewhere to put files: a folder here, or a bucket."""

    uri: str
    put: Callable[[str, bytes], None]

    def fill(self, *names: str) -> None:
        for name in names:
            self.put(name, json.dumps({"prompt": name}).encode() + b"\n")

    def read(self, *paths: str, **more) -> list[str]:
        """The prompts that these paths lead to; each file of `fill` holds its name."""
        spec = InputSpec(path=[f"{self.uri}/{path}" for path in paths], **more)
        return [record.columns["prompt"] for file in list_files(spec) for record in read_records(file, spec, None)]


@pytest.fixture(params=["local", "s3"])
def place(request, tmp_path) -> Place:
    if request.param == "local":

        def put(name: str, content: bytes) -> None:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name).write_bytes(content)

        return Place(str(tmp_path), put)
    bucket = request.getfixturevalue("s3_moto")
    client = bucket.client()
    return Place(bucket.uri(), lambda name, content: client.put_object(Bucket=bucket.name, Key=name, Body=content))


TREE = ("x.jsonl", "a/x.jsonl", "a/b/x.jsonl", "c/y.json", "c/x.txt")


@pytest.mark.parametrize(
    ("pattern", "found"),
    [
        ("*.jsonl", ["x.jsonl"]),
        ("*/*.jsonl", ["a/x.jsonl"]),
        ("**/*.jsonl", ["a/b/x.jsonl", "a/x.jsonl", "x.jsonl"]),
        ("**.jsonl", ["a/b/x.jsonl", "a/x.jsonl", "x.jsonl"]),
        ("**", ["a/b/x.jsonl", "a/x.jsonl", "c/y.json", "x.jsonl"]),
        ("a/**", ["a/b/x.jsonl", "a/x.jsonl"]),
        ("a/**/x.jsonl", ["a/b/x.jsonl", "a/x.jsonl"]),
        ("**/b/**/x.jsonl", ["a/b/x.jsonl"]),
        ("?/[xy].json*", ["a/x.jsonl", "c/y.json"]),
        ("[!a]/*", ["c/y.json"]),
        ("**/**/y.json", ["c/y.json"]),
        ("*/", ["a/b/x.jsonl", "a/x.jsonl", "c/y.json"]),
        ("*/b", ["a/b/x.jsonl"]),
        ("*", ["x.jsonl"]),
    ],
)
def test_a_pattern_goes_as_far_as_it_says(place, pattern, found):
    place.fill(*TREE)
    assert place.read(pattern) == found


@pytest.mark.parametrize(
    "name", ["[2024]", "a#b", "50%25", "why?", "b+c d", "grüße ☃", "star*", "it's", "a&b=c", "x[", "{a,b}", "e:f", "~t"]
)
def test_a_real_name_is_no_pattern(place, name):
    place.fill(f"{name}/x.jsonl", f"{name}/sub/{name}.jsonl", "2/x.jsonl", "whyn/x.jsonl", "starry/x.jsonl")
    own = sorted([f"{name}/sub/{name}.jsonl", f"{name}/x.jsonl"])
    assert place.read(name) == own
    assert place.read(f"{name}/*.jsonl") == [f"{name}/x.jsonl"]
    assert place.read(f"{name}/**") == own
    assert place.read(f"{name}/sub/{name}.jsonl") == [f"{name}/sub/{name}.jsonl"]
    assert place.read(f"*/sub/{name}.jsonl") == [f"{name}/sub/{name}.jsonl"]


def test_where_both_are_there_the_real_name_is_meant_at_every_step(place):
    place.fill("d/[ab].jsonl", "d/a.jsonl", "e/a.jsonl")
    assert place.read("d/[ab].jsonl") == ["d/[ab].jsonl"]
    assert place.read("*/[ab].jsonl") == ["d/[ab].jsonl", "e/a.jsonl"]


def test_overlapping_paths_are_read_once(place):
    place.fill(*TREE)
    assert place.read("a", "a/x.jsonl", "**/*.jsonl", "a//x.jsonl", "./a/", "a/b/./x.jsonl") == [
        "a/b/x.jsonl", "a/x.jsonl", "x.jsonl",
    ]  # fmt: skip


def test_one_file_has_many_spellings_here(tmp_path, monkeypatch):
    (tmp_path / "a b").mkdir()
    (tmp_path / "a b/x.jsonl").write_text('{"prompt": "p"}\n')
    (tmp_path / "link.jsonl").symlink_to(tmp_path / "a b/x.jsonl")
    (tmp_path / "linked").symlink_to(tmp_path / "a b")
    (tmp_path / "a b/loop").symlink_to(tmp_path / "a b")
    (tmp_path / "gone.jsonl").symlink_to(tmp_path / "nowhere")
    monkeypatch.chdir(tmp_path)
    spellings = [
        "a b/x.jsonl",
        str(tmp_path / "a b/x.jsonl"),
        f"file://{tmp_path}/a b/x.jsonl",
        "./a b/../a b//x.jsonl",
    ]
    spellings += [(tmp_path / "a b/x.jsonl").as_uri(), "link.jsonl", "linked", "linked/", "a b/loop/loop", "."]
    for spelling in spellings:
        assert len(list_files(InputSpec(path=spelling))) == 1, spelling
    assert len(list_files(InputSpec(path=spellings))) == 1


def test_what_programs_write_for_themselves_is_left_out_unless_it_is_named(place):
    place.fill(
        "x.jsonl", "_SUCCESS", ".x.jsonl.crc", "_temporary/y.jsonl", ".ipynb_checkpoints/x.jsonl", "_y=1/x.jsonl"
    )
    assert place.read("") == ["_y=1/x.jsonl", "x.jsonl"]
    assert place.read("**/*.jsonl") == ["_y=1/x.jsonl", "x.jsonl"]
    assert place.read("_temporary/y.jsonl") == ["_temporary/y.jsonl"]
    assert place.read("_temp*/y.jsonl") == place.read("_temporary") == ["_temporary/y.jsonl"]


def test_folders_named_like_a_file_are_read_as_one(place):
    place.fill("day.jsonl/part-0.jsonl", "day.jsonl/_SUCCESS", "other.jsonl", "sub/z.jsonl")
    assert place.read("*.jsonl") == ["day.jsonl/part-0.jsonl", "other.jsonl"]
    said: list[str] = []
    list_files(InputSpec(path=f"{place.uri}/*"), said.append)
    assert len(said) == 1 and "also matches folders" in said[0] and "sub" in said[0]


def said_by(path: Path | str, **more) -> tuple[Iterable[str], str]:
    """(what is said, the error or "")."""
    said: list[str] = []
    error = ""
    try:
        list_files(InputSpec(path=str(path), **more), said.append)
    except InputError as refused:
        error = str(refused)
    assert not error or (error.startswith("input.path: ") and "\n" not in error)
    return said, error


def test_data_that_is_not_read_is_not_passed_over_in_silence(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"prompt": "p"}\n')
    (tmp_path / "README.md").write_text("about")
    assert said_by(tmp_path) == ([], "")
    (tmp_path / "b.orc").write_bytes(b"ORC")
    said, error = said_by(tmp_path)
    assert not error and "b.orc" in said[0]
    (tmp_path / "c.jsonl.xz").write_bytes(b"\xfd7zXZ\x00")
    assert "c.jsonl.xz" in said_by(tmp_path)[1]
    for name in ("d.avro", "d.jsonl.zip", "d.xlsx"):
        (tmp_path / name).write_bytes(b"PK\x03\x04")
        assert name.rsplit(".", 1)[-1] in said_by(tmp_path / name)[1]
    assert "no known suffix" in said_by(tmp_path / "README.md")[1]


def test_upper_case_suffixes_count(tmp_path):
    import gzip

    (tmp_path / "A.JSONL.GZ").write_bytes(gzip.compress(b'{"prompt": "p"}\n'))
    (tmp_path / "B.Json").write_bytes(b'{"prompt": "p"}\n')
    assert len(list_files(InputSpec(path=str(tmp_path)))) == 2


def test_a_format_takes_other_names_but_none_that_says_otherwise(tmp_path):
    for name in ("a.txt", "b", "c.jsonl", "d.parquet"):
        (tmp_path / name).write_text('{"prompt": "p"}\n')
    files = list_files(InputSpec(path=str(tmp_path), format="jsonl"))
    assert [os.path.basename(f.uri) for f in files] == ["a.txt", "b", "c.jsonl"]


@pytest.mark.parametrize("path", ["nothing", "nothing/*.jsonl", "*.parquet", "**/none", "a/[x"])
def test_where_nothing_matches_one_line_says_so(place, path):
    place.fill("a/x.jsonl")
    error = said_by(f"{place.uri}/{path}")[1]
    assert "not found" in error or "no Parquet, JSONL or CSV file" in error


def test_a_pattern_for_buckets_is_refused(s3_moto):
    assert "names no bucket" in said_by("s3://*/x.jsonl")[1]
