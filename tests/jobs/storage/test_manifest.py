"""The run's own JSON: what is missing is none, what is damaged is named with what to do."""

from __future__ import annotations

from pathlib import Path

import pytest

from jobs.errors import StoreError
from jobs.storage.manifest import load_run, read_json
from jobs.storage.store import Store


@pytest.mark.parametrize("content", [b"", b'{"format": 1', b"[1]", b"\xff\xfe", b"[" * 200_000, b"null"])
def test_damaged_json_of_a_run_is_one_line(tmp_path: Path, content: bytes) -> None:
    store = Store(str(tmp_path))
    assert read_json(store, "_headgate/run.json") is None
    store.write("_headgate/run.json", content)
    with pytest.raises(StoreError) as error:
        load_run(str(tmp_path))
    assert str(error.value) == (
        f"{tmp_path}/_headgate/run.json: damaged; put a copy of it back, or choose another output prefix"
    )
