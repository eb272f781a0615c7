"""Where rows go that their model refuses: what moves up, what a new cut makes of it, and what the plan says it costs at most."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from test_plan import ESTIMATES, FITS, N, cut, estimate, job, rows

from jobs.journal.rows import Answer
from jobs.journal.writer import JournalWriter
from jobs.route.answer.waves import SettledKeys, rows_to_move
from jobs.route.identity import fingerprints
from jobs.route.plan.context_limits import going_up
from jobs.route.plan.plan import Paid
from jobs.storage.store import Store

TOO_LONG = "context_length_exceeded: HTTP 400: too long"
NONE = np.empty(0, np.int64)


def journal(folder: Path, errors: dict[int, str]) -> Store:
    """A run in which model a has refused these rows."""
    with JournalWriter(str(folder / "run"), "a", str(folder / "local"), "s") as writer:
        for key, error in errors.items():
            writer.append(Answer(key, 0, "rejected" if error else "answered", b"k" * 16, "", error=error))
    return Store(str(folder / "run"))


def test_too_long_prompts_go_up_and_other_refusals_where_the_job_says_so(tmp_path: Path) -> None:
    errors = {
        1: TOO_LONG,
        2: "HTTP 400: bad picture",
        3: "prompt too long: 9 tokens; the model's context is 8",
        4: "HTTP 400: content_filter",
    }
    store, refused = journal(tmp_path, errors | {5: ""}), np.array([1, 2, 3, 4])
    assert going_up(store, job(), "a", refused).tolist() == [1, 3]
    assert going_up(store, job(on_refused="strong"), "a", refused).tolist() == [1, 2, 3, 4]
    assert going_up(store, job(), "a", NONE).tolist() == []


LADDER = {
    "models": {name: {"engine": "openai"} for name in "abc"}, "weak": None, "strong": None, "ladder": ["a", "b", "c"],
}  # fmt: skip


def test_a_row_climbs_as_long_as_each_refusal_says_so() -> None:
    spec = job(**LADDER)
    plan, _ = cut(spec, rows(10, m=3), dict.fromkeys("abc", estimate(1.0)), np.zeros((10, 3), bool))
    plan.model[:] = 0
    keys = np.sort(plan.row_key)
    settled = SettledKeys({"a": keys[4:], "b": NONE, "c": NONE}, {"a": keys[:4], "b": keys[:2], "c": NONE})
    moved = rows_to_move(plan, settled, spec, False, {"a": keys[:3], "b": keys[:1]})
    assert {name: found.tolist() for name, found in moved.items()} == {"a": [], "b": [keys[2]], "c": [keys[0]]}


@pytest.mark.parametrize("moving", [False, True])
def test_a_new_cut_leaves_a_refusal_where_it_is_unless_it_goes_up(moving: bool) -> None:
    whole, _ = cut(job(), rows(), ESTIMATES, FITS)
    refused = np.zeros((N, 2), bool)
    refused[whole.model == 0, 0] = True
    paid = Paid(np.zeros((N, 2), bool), refused, np.zeros((N, 2)), np.zeros(2), 0.0, refused & moving)
    again, bill = cut(job(), rows(), ESTIMATES, FITS, paid=paid)
    if moving:
        assert (again.model[refused[:, 0]] == 1).all()
    else:
        np.testing.assert_array_equal(again.model, whole.model)
        assert bill.planned_usd <= cut(job(), rows(), ESTIMATES, FITS)[1].planned_usd


def test_at_most_counts_what_may_move() -> None:
    """A worst-case call of the strong model for each row of the weak one, with `strong`; of those that may be too long, without."""
    _, plain = cut(job(), rows(), ESTIMATES, FITS)
    plan, strong = cut(job(on_refused="strong"), rows(), ESTIMATES, FITS)
    worst_usd = (400 + 500) * 20.0 / 1e6
    assert plain.moved_usd == 0 and strong.moved_usd == pytest.approx((plan.model == 0).sum() * worst_usd)
    assert strong.bound_usd == pytest.approx(plain.bound_usd + strong.moved_usd)
    assert any("on_refused strong" in line for line in strong.notes)
    maybe = FITS.copy()
    maybe[np.flatnonzero(plan.model == 0)[:10], 0] = True
    _, some = cut(job(), rows(), ESTIMATES, FITS, maybe_too_long=maybe)
    assert some.moved_usd == pytest.approx(10 * worst_usd) and any("too long" in line for line in some.notes)
    assert some.at_most_usd >= some.planned_usd and strong.at_most_usd >= strong.bound_usd


def test_it_is_the_same_job_whatever_becomes_of_refused_rows() -> None:
    assert fingerprints(job(), [], "r") == fingerprints(job(on_refused="strong"), [], "r")
