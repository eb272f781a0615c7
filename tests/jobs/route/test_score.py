"""Scoring: keys that are unique and repeatable, every row in scored/ once and in order, the router asked once per row."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from jobs.errors import InputError
from jobs.route.score import stage as score
from jobs.route.score.files import list_files, make_splits
from jobs.route.score.stage import ROW_BITS, plan_score, read_split, run_score
from jobs.spec.loader import parse_spec
from jobs.storage.keys import digest16, row_keys
from jobs.storage.store import Store

MODELS = {"a": {"engine": "vllm", "source": "s"}, "b": {"engine": "openai"}}


def job(path, output, **more):
    data = {
        "input": {"path": str(path), "prompt": "q", "id": "id", "keep": ["n"]},
        "output": str(output),
        "router": "random",
    }
    return parse_spec({**data, "models": MODELS, "weak": "a", "strong": "b", "policy": {"strong_share": 0.5}, **more})


@given(hnp.arrays(np.int64, st.integers(1, 200), elements=st.integers(0, 2**62), unique=True))
def test_row_keys_are_unique_because_positions_are(position):
    assert len(np.unique(row_keys(position))) == len(position)


def test_row_keys_of_neighbours_are_spread_evenly():
    keys = row_keys(np.arange(100_000) | (3 << ROW_BITS))
    share = np.bincount((keys.view(np.uint64) >> np.uint64(60)).astype(int), minlength=16) / len(keys)
    assert np.abs(share - 1 / 16).max() < 0.005


def test_digests_do_not_run_into_each_other():
    assert digest16("ab", "c") != digest16("a", "bc")
    assert digest16("\ud800") == digest16("\ud800")


def test_every_row_is_scored_once_in_order_and_a_shard_is_a_file(tmp_path, ray_local, monkeypatch):
    monkeypatch.setattr(score, "SHARD_ROWS", 40)
    (tmp_path / "in").mkdir()
    for file in range(3):
        rows = [{"id": file * 100 + i, "q": None if i == 5 else f"what is {i}", "n": i / 2} for i in range(100)]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"in/{file}.parquet")
    spec = job(tmp_path / "in", tmp_path / "out")
    plan = plan_score(spec, list_files(spec.input))
    # SHARD_ROWS is read in the workers: cut the shards here, as one task would, to see their borders.
    shards = list(read_split(0, [0, 1, 2], plan))
    assert [len(s) for s in shards] == [40] * 7 + [20] and len({s["bucket"][0].as_py() for s in shards}) == 8
    parts = run_score(plan, spec.output)
    store = Store(spec.output)
    table = pa.concat_tables([store.read_table(part.name) for part in parts])
    assert table["id"].to_pylist() == list(range(300)) and table["id"].type == pa.int64()
    assert len(set(table["row_key"].to_pylist())) == 300
    assert [bool(e) for e in table["input_error"].to_pylist()] == [i % 100 == 5 for i in range(300)]
    assert sum(part.predicted_rows for part in parts) == 297, "the router saw each good row once"
    predicted = np.array(table["predicted"].to_pylist(), float)
    assert np.isnan(predicted[5]).all() and np.isfinite(np.delete(predicted, [5, 105, 205], axis=0)).all()
    assert json.loads(table["messages"][7].as_py()) == [{"role": "user", "content": "what is 7"}]
    assert table["keep"][7].as_py() == {"k0": 3.5}
    # Equal prompts have equal content keys wherever they stand.
    assert table["content_key"][0] == table["content_key"][100] != table["content_key"][1]


def test_scoring_twice_writes_the_same_files(tmp_path, ray_local):
    (tmp_path / "x.jsonl").write_text(
        "".join(json.dumps({"id": str(i), "q": f"p{i}", "n": 1}) + "\n" for i in range(50))
    )
    tables = []
    for name in ("one", "two"):
        spec = job(tmp_path / "x.jsonl", tmp_path / name)
        parts = run_score(plan_score(spec, list_files(spec.input)), spec.output)
        tables.append(Store(spec.output).read_table(parts[0].name))
    assert tables[0].equals(tables[1])


def test_a_set_without_a_row_is_refused(tmp_path, ray_local):
    (tmp_path / "x.csv").write_text("id,q,n\n")
    spec = job(tmp_path / "x.csv", tmp_path / "out")
    with pytest.raises(InputError, match="no rows"):
        run_score(plan_score(spec, list_files(spec.input)), spec.output)


def test_many_small_files_make_few_shards(tmp_path):
    """1,000 files of 100 rows are two shards, not a thousand: a shard spans files, and so a file of responses/ does."""
    (tmp_path / "in").mkdir()
    for file in range(1000):
        (tmp_path / f"in/{file:04d}.jsonl").write_text(
            "".join(f'{{"id": {i}, "q": "p", "n": 1}}\n' for i in range(100))
        )
    files = list_files(job(tmp_path / "in", tmp_path / "out").input)
    splits = make_splits(files)
    assert [len(files) for files in splits] == [1000]
    plan = plan_score(job(tmp_path / "in", tmp_path / "out"), files)
    shards = list(read_split(0, splits[0][:15], plan))
    assert [len(shard) for shard in shards] == [1500]
    row = shards[0]["row"].to_numpy()
    assert (row >> ROW_BITS).tolist() == [i // 100 for i in range(1500)] and (row % 2**ROW_BITS).max() == 99
