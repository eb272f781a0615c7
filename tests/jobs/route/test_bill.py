"""bill.json: the record writes the keys that programs read, reads them back, and reads bills of earlier versions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from jobs.errors import StoreError
from jobs.route.plan.bill import Bill, Hours, Recut
from jobs.route.plan.costing import BesideUsd
from jobs.route.plan.entries import CascadeEntry, PilotEntry
from jobs.route.plan.plan import latest_plan, write_plan
from jobs.storage.store import Store
from tests.jobs.route.test_plan import ESTIMATES, FITS, cut, job, measured, rows

KEYS = {
    "notes",
    "rows", "input_errors", "duplicates", "by_model", "planned_usd", "range_usd", "bound_usd", "cap_usd", "all_strong_usd",
    "all_weak_usd", "strong_share", "predicted_quality", "weak", "strong", "models", "policy", "cut_score", "sample", "judge_usd",
    "cascade_usd",
    "moved_usd", "assumptions", "prices", "curve", "promise", "pilot", "cascade", "fingerprint", "job", "checks", "request",
    "hours", "places", "number", "made_at",
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


def test_dollars_beside_the_cut_are_added_as_in_earlier_bills() -> None:
    total = BesideUsd(sample=0.2, judge=0.3, cascade=0.0).on_top_of(0.1)
    assert total == 0.1 + 0.2 + 0.3 and total != 0.1 + (0.2 + 0.3), "to the last bit"


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    bill = promised()
    assert Bill.from_json(json.loads(json.dumps(bill.to_json()))) == bill
    store = Store(str(tmp_path))
    assignments, _ = cut(job(), rows(), ESTIMATES, FITS)
    written = write_plan(store, 7, assignments, bill)
    assert latest_plan(store) == (7, written.bill) and written.bill.number == 7 and written.bill.made_at > 1e9


def first_versions() -> dict[str, Any]:
    """The bill.json of a run from before there were pilots, judges, cascades, recuts and half-price rates."""
    price = {
        "input_usd_per_million": 1.0, "output_usd_per_million": 2.0, "cached_input_usd_per_million": None,
        "gpu_hour_usd": None, "long_prompt_tokens": None, "long_prompt": None, "source": "job file",
    }  # fmt: skip
    part = {"rows": 5, "requests": 4, "usd": 1.0, "usd_low": 0.9, "usd_high": 1.5, "usd_bound": 3.0}
    return {
        "rows": 10, "input_errors": 0, "duplicates": 2, "by_model": {"a": part, "b": part}, "planned_usd": 2.0,
        "range_usd": [1.8, 3.0], "bound_usd": 6.0, "cap_usd": None, "all_strong_usd": 2.0, "all_weak_usd": 2.0,
        "strong_share": 0.5, "predicted_quality": 0.7, "weak": "a", "strong": "b", "models": ["a", "b"],
        "policy": {"kind": "strong_share", "value": 0.5, "rank_by": "score"}, "cut_score": 0.4,
        "sample": {"rows": 0, "usd": 0.0}, "assumptions": ["a: assumed"], "prices": {"a": price, "b": price},
        "curve": [{"share": 0.0, "usd": 1.0, "quality": 0.5}], "fingerprint": "f", "job": {"router": "random"},
        "checks": {"a": "ok"}, "request": {"model": "b"}, "hours": {"total": 1.0, "assumed": True}, "number": 1,
        "made_at": 5.0,
    }  # fmt: skip


def test_a_bill_of_the_first_version_is_read(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write("plan/0001/bill.json", json.dumps(first_versions()).encode())
    number, bill = latest_plan(store)
    assert bill is not None and number == bill.number == 1 and bill.fingerprint == "f"
    assert bill.planned_usd == 2.0 and bill.judge_usd == bill.cascade_usd == 0.0
    said = bill.to_json()
    assert said["by_model"]["a"].pop("usd_by_rate") == said["by_model"]["b"].pop("usd_by_rate") == {}
    assert {name: said[name] for name in first_versions()} == first_versions(), "not one figure is another"


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
