"""Which rows a sender holds: no row is asked by two, and a dead sender's rows come free."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from jobs.journal.writer import Sender
from jobs.money.claims import Claims, KeySet


@given(
    st.lists(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=40), max_size=20),
    st.lists(st.integers(-5, 5), max_size=20),
)
def test_key_set(added: list[list[int]], asked: list[int]) -> None:
    keys = KeySet()
    for each in added:
        keys.add(np.array(each, np.int64))
    expected = set().union(*added) if added else set()
    probe = [*asked, *[key for each in added for key in each]]
    assert keys.contains(np.array(probe, np.int64)).tolist() == [key in expected for key in probe]
    assert len(keys) >= len(expected)


def test_claims() -> None:
    claims = Claims()
    first, second = Sender("a", "n", 1), Sender("b", "n", 2)
    claims.claim(first, np.array([5, 3, 1]))
    assert claims.conflicts(np.array([2, 4]), "b") == []
    assert claims.conflicts(np.array([2, 3]), "b") == [first]
    assert claims.conflicts(np.array([2, 3]), "a") == []
    assert claims.held(np.array([2, 3])).tolist() == [False, True]
    claims.finish("a", np.array([1, 3]), np.array([3]))
    assert claims.finished.contains(np.array([1, 3, 5])).tolist() == [False, True, False]
    assert claims.held(np.array([1, 3, 5])).tolist() == [False, False, True]
    claims.claim(second, np.array([1]))
    claims.bury("a", np.array([5, 99]))
    assert claims.finished.contains(np.array([5, 99])).tolist() == [True, False]
    assert [claim.sender for claim in claims.open] == [second]


def test_a_block_given_twice_to_the_same_actor_is_asked_once() -> None:
    claims, actor = Claims(), Sender("a", "n", 1)
    block = np.array([1, 2, 3])
    claims.claim(actor, block)
    assert claims.conflicts(block, "a") == [], "nobody has died"
    assert claims.held(block).all(), "its first run may be under way"
    claims.finish("a", block, np.array([1]))
    assert claims.finished.contains(block).tolist() == [True, False, False]
    assert not claims.held(block).any(), "what was left open may be asked again"
