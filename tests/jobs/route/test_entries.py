"""Manifest entries as records: the same JSON comes out as was read, of earlier versions too, because plans are known by it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from jobs.errors import StoreError
from jobs.route.plan.entries import CascadeEntry, PilotEntry
from jobs.route.score.entries import Part, ScoreEntry
from jobs.storage.manifest import Entry, Identity, Run, load_run, read_identity
from jobs.storage.store import Store

PART = {
    "bucket": 4096, "name": "scored/part-0000004096.parquet", "rows": 9, "input_errors": 2, "predicted_rows": 7,
    "prompt_bytes": 1234,
}  # fmt: skip
SCORE = {"parts": [PART], "frame": {"prefix_chars": 60, "suffix_chars": 0}, "session": "20261121T000000-abcdef"}
IDENTITY = {
    "format": 1, "created": "2026-11-21T00:00:00Z", "input": [{"uri": "/in/a.jsonl", "size": 10, "modified_ns": 5}],
    "fingerprints": {"input": "a", "prompts": "b", "router": "c", "answers": "d"}, "models": ["weak", "strong"],
}  # fmt: skip
FIRST_PILOT = {
    "rows": 300, "folds": {"fit": 180, "select": 0, "report": 120}, "folder": "pilot/pilot-0123456789ab",
    "head": "ridge", "scores": {"ridge": 0.1, "none": 0.2}, "fit_rows": 180,
}  # fmt: skip
"""As written before a pilot chose the order of the cut."""
RANK = {"rank_by": "gain", "area": {"gain": 0.5, "gain_per_dollar": 0.4}, "lead": 0.1, "error": 0.02}
PILOT = FIRST_PILOT | {
    "rank_by": {"budget_usd": RANK, "strong_share": RANK},
    "judge": {
        "model": "strong", "mode": "rating", "rows": 300, "verdicts": 630, "failed": 1,
        "self_agreement": {"n": 30, "failed": 0, "raw": 0.9, "kappa": 0.8, "first_share": None},
    },
}  # fmt: skip
NO_HEAD = {"rows": 3, "folds": {"fit": 3}, "folder": "pilot/x", "head": "none", "why": "too few rows to fit on"}
CASCADE = {
    "used": True, "fit_rows": 180, "signals": ["response"], "straight_rows": 0, "band_rows": 0, "samples": 0,
    "error": {"mean": 0.25, "before": 0.2, "after": 0.1},
}  # fmt: skip


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        (ScoreEntry, SCORE),
        (PilotEntry, FIRST_PILOT),
        (PilotEntry, PILOT),
        (PilotEntry, NO_HEAD),
        (CascadeEntry, CASCADE),
        (CascadeEntry, {"used": False, "why": "the pilot has 9 rows to fit on; a cascade takes 50"}),
        (Identity, IDENTITY),
    ],
)
def test_what_is_read_is_written_again_as_it_was(kind: type[Entry], data: dict[str, Any]) -> None:
    entry = kind.from_json(data)
    assert json.loads(json.dumps(entry.to_json())) == data
    assert kind.from_json(entry.to_json()) == entry


def test_keys_that_an_earlier_version_did_not_write_are_not_missed() -> None:
    part = Part.from_json({"bucket": 0, "name": "scored/part-0.parquet", "rows": 3})
    assert ScoreEntry.from_json({"parts": [{"bucket": 0, "name": "scored/part-0.parquet", "rows": 3}]}).parts == (part,)
    assert (part.input_errors, part.predicted_rows, part.prompt_bytes) == (0, 0, 0)
    pilot = PilotEntry.from_json(FIRST_PILOT)
    assert pilot.rank_by is None and pilot.judge is None and "rank_by" not in pilot.to_json()
    cascade = CascadeEntry.from_json({"used": True, "fit_rows": 5})
    assert cascade.fit_rows == 5 and cascade.error is None and cascade.to_json() == {"used": True, "fit_rows": 5}
    assert Identity.from_json({}) == Identity(0, "", (), {}, ())


def test_the_pilots_predictions_are_read_where_it_fitted_a_head() -> None:
    assert PilotEntry.from_json(PILOT | {"folder": "pilot/x"}).predictions == "pilot/x/predicted"
    assert PilotEntry.from_json(NO_HEAD).predictions == ""


def test_the_entry_that_was_written_first_stands(tmp_path: Path) -> None:
    run = Run(Store(str(tmp_path)), Identity.from_json(IDENTITY))
    assert run.entry("score", ScoreEntry) is None
    first = run.finish("score", ScoreEntry.from_json(SCORE))
    second = ScoreEntry((), 0, 0, "another session")
    assert run.finish("score", second) == first == run.entry("score", ScoreEntry) != second
    assert json.loads((tmp_path / "_headgate/score.json").read_text()) == SCORE


@pytest.mark.parametrize("wrong", [{"input": [1]}, {"input": 5}, {"input": [{"uri": "x"}]}, {"models": None}])
def test_an_identity_of_another_shape_is_damaged(tmp_path: Path, wrong: dict[str, Any]) -> None:
    store = Store(str(tmp_path))
    assert read_identity(store) is None
    store.write("_headgate/run.json", json.dumps(IDENTITY | wrong).encode())
    with pytest.raises(StoreError, match=r"run\.json: damaged"):
        load_run(str(tmp_path))
