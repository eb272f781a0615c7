"""Keys that stand in the journals of runs that are under way: they may never change."""

from __future__ import annotations

from jobs.storage.keys import request_key


def test_request_keys_are_those_of_earlier_versions() -> None:
    assert request_key("17", "sample 3") == 4927771353146107600
    assert request_key("é", "again") == -4094652198039642482
    assert request_key("a", "bc") != request_key("ab", "c")
