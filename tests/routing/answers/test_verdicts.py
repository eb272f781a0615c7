"""Verdicts of a judge as battles."""

import math

import pytest

from routing.answers.verdicts import from_verdicts
from routing.errors import RoutingError


def test_swapped_verdicts_cancel_a_liking_for_the_first_place():
    n = 5
    table = from_verdicts(
        [str(i) for i in range(n)],
        ["x"] * n,
        ["y"] * n,
        ["Both name it, but A is complete. [[A]]", "[[A]]", "[[C]]", "[[B]]", "[[A]]"],
        swapped=["[[B]]", "[[A]]", "[[C]]", "[[A]]", "tie"],
    )
    assert table.winner.tolist() == [1, 0.5, 0.5, 0, 0.75]
    assert table.datasets == ["judge"] * n


def test_numbers_are_win_rates_of_the_first_model():
    table = from_verdicts(
        ["p", "q", "r"], ["x"] * 3, ["y"] * 3, [1.0, math.nan, 0], datasets=["d", "e", "f"], max_unreadable=0.5
    )
    assert (table.prompts, table.winner.tolist(), table.datasets) == (["p", "r"], [1, 0], ["d", "f"])


def test_unreadable_verdicts_are_left_out_and_many_refused():
    verdicts = ["[[A]]"] * 19 + ["I cannot say"]
    sides = [str(i) for i in range(20)], ["x"] * 20, ["y"] * 20
    table = from_verdicts(*sides, verdicts)
    assert len(table) == 19 and "19" not in table.prompts
    with pytest.raises(RoutingError, match="20 of 20 say neither"):
        from_verdicts(*sides, ["?"] * 19 + [None])
    with pytest.raises(RoutingError, match="columns of 20, 20, 20, 1 rows"):
        from_verdicts(*sides, ["[[A]]"])
    with pytest.raises(RoutingError, match="0 of 0"):
        from_verdicts([], [], [], [])
