"""Finding rows by key, and the column of predictions there and back."""

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.route.score import scored
from jobs.route.score.entries import Part
from jobs.route.score.scored import matrix_of, predicted_column, read_scored, scored_rows
from jobs.storage.keys import find_keys, is_among, positions
from jobs.storage.store import Store

KEYS = st.lists(st.integers(-(2**63), 2**63 - 1), unique=True, max_size=40)


@settings(max_examples=60, deadline=None)
@given(KEYS, KEYS)
def test_find_keys_is_a_dict_of_places(keys, others):
    array, wanted = np.array(keys, np.int64), np.array(keys[::2] + others, np.int64)
    place = {key: at for at, key in enumerate(keys)}
    expected = [place.get(key, -1) for key in wanted.tolist()]
    assert find_keys(array, wanted).tolist() == expected
    assert find_keys(array, wanted, np.argsort(array)).tolist() == expected
    assert is_among(wanted, np.sort(array)).tolist() == [at >= 0 for at in expected]


@pytest.mark.parametrize("missing", [-5, 15, 99])
def test_positions_refuse_a_key_that_is_not_there(missing):
    keys = np.array([30, 10, 20])
    assert positions(keys, np.array([10, 20, 30, 10])).tolist() == [1, 2, 0, 1]
    assert positions(keys, keys[:0]).tolist() == positions(keys[:0], keys[:0]).tolist() == []
    with pytest.raises(KeyError, match=f"row_key {missing} "):
        positions(keys, np.array([10, missing]))
    with pytest.raises(KeyError):
        positions(keys[:0], np.array([missing]))


@pytest.mark.parametrize("n", [0, 5])
def test_predictions_come_back_as_they_were(n):
    matrix = np.random.default_rng(0).random((n, 3)).astype(np.float32)
    matrix[: n // 2] = np.nan
    column = predicted_column(matrix)
    assert column.type == pa.list_(pa.float32(), 3)
    np.testing.assert_array_equal(matrix_of(column), matrix)
    cut = pa.chunked_array([column[: n // 2], column[n // 2 :]], column.type)
    np.testing.assert_array_equal(matrix_of(cut), matrix)
    np.testing.assert_array_equal(matrix_of(column.slice(n // 3)), matrix[n // 3 :])


def test_a_small_table_is_read_here_as_tasks_would_read_it(ray_local, tmp_path, monkeypatch):
    store, parts = Store(str(tmp_path)), []
    for number in range(3):
        keys = np.random.default_rng(number).permutation(40) + 100 * number
        name = f"scored/part-{number}.parquet"
        store.write_table(name, pa.table({"row_key": keys, "messages": [f"m{key}" for key in keys]}))
        parts.append(Part(bucket=number, name=name, rows=40, prompt_bytes=80))
    keys, shadow = np.arange(5, 230, 3), np.arange(0, 300, 7)
    order = np.random.default_rng(9).permutation(len(keys))
    for options in ({"keys": keys}, {"keys": keys, "shadow": shadow, "order": order}):
        found = {}
        for limit in (0, 1_000):
            monkeypatch.setattr(scored, "HERE_ROWS", limit)
            blocks = scored_rows(store, parts, ["messages", "row_key"], **options, rows_per_block=7)
            tables = list(blocks.iter_batches(batch_size=None, batch_format="pyarrow"))
            assert max(len(table) for table in tables) == 7
            found[limit] = pa.concat_tables(tables).to_pydict()
        if "order" not in options:  # one part after the other, however tasks end
            found = {limit: pd.DataFrame(rows).sort_values("row_key").to_dict("list") for limit, rows in found.items()}
        assert found[0] == found[1_000]
        assert len(read_scored(store, parts, ["messages"], keys)) == len(found[0]["messages"])
