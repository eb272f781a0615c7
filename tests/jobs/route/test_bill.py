"""bill.json: the record writes the keys that programs read, reads them back, and reads bills of earlier versions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from jobs.errors import StoreError
from jobs.route.plan.bill import Bill, Hours, Recut
from jobs.route.plan.entries import CascadeEntry, PilotEntry
from jobs.route.plan.plan import latest_plan, write_plan
from jobs.storage.store import Store
from tests.jobs.route.test_plan import ESTIMATES, FITS, cut, job, measured, rows

KEYS = {
    "rows", "input_errors", "duplicates", "by_model", "planned_usd", "range_usd", "bound_usd", "cap_usd", "all_strong_usd",
    "all_weak_usd", "strong_share", "predicted_quality", "weak", "strong", "models", "policy", "cut_score", "sample", "judge_usd",
    "cascade_usd", "assumptions", "prices", "curve", "promise", "pilot", "cascade", "fingerprint", "job", "checks", "request",
    "hours", "number", "made_at",
}  # fmt: skip
PARTS = {
    "by_model": {"rows", "requests", "usd", "usd_low", "usd_high", "usd_bound", "usd_by_rate"},
    "prices": {
        "input_usd_per_million", "output_usd_per_million", "cached_input_usd_per_million", "gpu_hour_usd",
        "long_prompt_tokens", "long_prompt", "source",
    },
}  # fmt: skip
PROMISE = {
    "n_steps", "strong_share", "cost_usd", "lower", "estimate", "below_all_strong", "point_strong_share", "point_cost_usd",
    "rows_needed", "certainty_usd", "kind", "share", "confidence", "rows", "kept", "best_rows", "one_more_row_pays",
}  # fmt: skip


def promised() -> Bill:
    """A bill with all its parts."""
    spec = job(sample={"rows": 200}, policy={"min_quality": 0.5}, quality={"gold": {"column": "g", "match": "exact"}})
    _, bill = cut(spec, rows(), ESTIMATES, FITS, sample=measured(0.3))
    return replace(
        bill, fingerprint="f", job={"router": "random"}, checks={"a": "ok"}, request={"model": "b"},
        hours=Hours(1.5, True), recuts=(Recut(1.0, 2.0, 3.0, 0.4),), number=3, made_at=5.0,
        pilot=PilotEntry(rows=9, folds={"fit": 9}, folder="pilot/x", head="none", why="too few"),
        cascade=CascadeEntry(used=False, why="too few"),
    )  # fmt: skip


def test_the_keys_that_programs_read() -> None:
    data = json.loads(json.dumps(promised().to_json()))
    assert set(data) == KEYS | {"recuts"} and set(data["promise"]) == PROMISE
    for name, keys in PARTS.items():
        assert set(data[name]) == {"a", "b"} and all(set(part) == keys for part in data[name].values())
    assert set(data["curve"][0]) == {"share", "usd", "quality"} and set(data["policy"]) == {"kind", "value", "rank_by"}
    assert set(data["recuts"][0]) == {"after_usd", "expected_usd", "upper_usd", "strong_share"}
    assert data["pilot"] == {"rows": 9, "folds": {"fit": 9}, "folder": "pilot/x", "head": "none", "why": "too few"}
    _, plain = cut(job(), rows(), ESTIMATES, FITS)
    assert set(plain.to_json()) == KEYS, "a plan that was not cut again says nothing of it"


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    bill = promised()
    assert Bill.from_json(json.loads(json.dumps(bill.to_json()))) == bill
    store = Store(str(tmp_path))
    assignments, _ = cut(job(), rows(), ESTIMATES, FITS)
    written = write_plan(store, 7, assignments, bill)
    assert latest_plan(store) == (7, written.bill) and written.bill.number == 7 and written.bill.made_at > 1e9


def test_a_bill_of_an_earlier_version_has_fewer_keys() -> None:
    data = promised().to_json()
    for key in ("promise", "pilot", "cascade", "recuts", "hours", "checks", "request", "number", "made_at"):
        del data[key]
    for part in data["by_model"].values():
        del part["usd_by_rate"]
    old = Bill.from_json(data)
    assert old.promise is None and old.pilot is None and old.recuts == () and old.hours is None
    assert old.by_model["a"].usd_by_rate == {} and old.planned_usd == promised().planned_usd
    assert Bill.from_json(data | {"of a later one": 1}) == old


@pytest.mark.parametrize("body", [b"{}", b"[]", b"no JSON", b'{"by_model": 5}'])
def test_a_file_that_holds_no_bill_is_named(tmp_path: Path, body: bytes) -> None:
    store = Store(str(tmp_path))
    store.write("plan/0002/bill.json", body)
    with pytest.raises(StoreError, match=r"plan/0002/bill\.json: damaged"):
        latest_plan(store)
