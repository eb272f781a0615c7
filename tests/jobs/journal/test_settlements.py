"""Reading a merged journal: one settlement per key, and a file that is missing is an error, never less money."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from jobs.errors import StoreError
from jobs.journal.compaction import compact_journal
from jobs.journal.reader import Journal
from jobs.storage.store import Store
from tests.jobs.journal.test_compaction import fill, some_segments


def test_a_missing_segment_is_an_error_and_not_less_money(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "run"))
    fill(store, "m", some_segments())
    compact_journal(store, ["m"], 0)
    store.delete(store.list("answers/model=m")[0])
    with pytest.raises(StoreError, match="not found"):
        Journal(store).spent("m")


def test_settlements_are_one_per_key_in_three_columns(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "run"))
    fill(store, "m", some_segments(20))
    table = Journal(store).read("m").sort_by("row_key")
    found = Journal(store).settlements("m")
    assert found.row_key.tolist() == table["row_key"].to_pylist()
    assert found.cost_usd.tolist() == table["cost_usd"].to_pylist()
    assert found.lost_usd.tolist() == table["lost_usd"].to_pylist()
    assert [("answered", "rejected", "failed")[rank] for rank in found.rank] == table["kind"].to_pylist()
    few = np.array(sorted(table["row_key"].to_pylist()[::3]))
    assert Journal(store).read("m", keys=few)["row_key"].sort().to_pylist() == few.tolist()
