"""Outcomes cut, joined, told apart and split: equal prompts stay on one side."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from routing.data.outcomes import Outcomes, concat, split_by_prompt
from routing.errors import RoutingError
from tests.routing.data.test_outcomes import full_table


@pytest.fixture
def full() -> Outcomes:
    return full_table()


def test_select_and_models(full):
    assert full.select(np.array([2, 0])).ids == ["3", "1"]
    assert full.select(np.array([True, False, True])).quality.tolist() == [[0, 1], [1, 1]]
    swapped = full.with_models(["org/strong", "weak"])
    np.testing.assert_array_equal(swapped.quality, full.quality[:, ::-1])
    np.testing.assert_array_equal(swapped.responses, full.responses[:, ::-1])
    assert full.known().tolist() == [True, False, True]
    with pytest.raises(RoutingError, match=r"no model 'gpt'; the table has weak, org/strong"):
        full.with_models(["weak", "gpt"])
    with pytest.raises(RoutingError, match="twice"):
        full.with_models(["weak", "weak"])
    with pytest.raises(RoutingError):
        full.with_models([])


def test_concat_unites_models(full):
    other = full.with_models(["weak"]).select(np.array([0]))
    both = concat([other, full])
    assert both.models == ("weak", "org/strong")
    assert np.isnan(both.quality[0, 1])
    assert both.responses[0, 1] is None
    assert len(both) == 4
    assert both.select(np.arange(1, 4)).fingerprint() == full.fingerprint()


def test_fingerprint_tells_tables_apart(full):
    changed = [
        full.select(np.array([1, 0, 2])),
        full.with_models(["org/strong", "weak"]),
        Outcomes(full.ids, full.prompts, full.datasets, full.models, full.quality),
        Outcomes(["12", "", "3"], full.prompts, full.datasets, full.models, full.quality),
        Outcomes(["1", "2", "3"], ["p", "q", "p"], full.datasets, full.models, full.quality),
    ]
    assert len({full.fingerprint(), *(table.fingerprint() for table in changed)}) == 6


@settings(deadline=None)
@given(st.lists(st.sampled_from("abcdefgh"), min_size=4, max_size=60), st.integers(0, 99), st.floats(0.3, 0.7))
def test_equal_prompts_stay_together(prompts, seed, fraction):
    n = len(prompts)
    outcomes = Outcomes([str(i) for i in range(n)], prompts, ["d"] * n, ("m",), np.zeros((n, 1), np.float32))
    try:
        train, test = split_by_prompt(outcomes, fraction=fraction, seed=seed)
    except RoutingError:
        return  # one prompt is most of the table
    assert sorted([*train, *test]) == list(range(n))
    assert not {prompts[i] for i in train} & {prompts[i] for i in test}
    assert len(train) <= round(fraction * n)


def test_split_sizes(full):
    n = 1000
    table = Outcomes([""] * n, [str(i) for i in range(n)], [""] * n, ("m",), np.zeros((n, 1), np.float32))
    train, test = split_by_prompt(table, train_rows=300, seed=1)
    assert (len(train), len(test)) == (300, 700)
    assert not np.array_equal(train, split_by_prompt(table, train_rows=300, seed=2)[0])
    np.testing.assert_array_equal(train, split_by_prompt(table, fraction=0.3, seed=1)[0])
    for wrong in ({}, {"train_rows": 3, "fraction": 0.1}, {"train_rows": 0}, {"fraction": 1.0}):
        with pytest.raises(RoutingError):
            split_by_prompt(table, **wrong)
