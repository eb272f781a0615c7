"""Five minutes of `make chaos`: the faults that no other test does to a whole job. docs/reliability.md is the whole hour."""

import pytest

from tests.chaos.__main__ import SCENARIOS, main


@pytest.mark.slow
@pytest.mark.timeout(1800)  # the last scenario may start in the fifth minute, and a busy machine is slow
def test_a_part_of_the_chaos_misses_no_goal(tmp_path, capsys):
    assert main(["--part", "--minutes", "5", "--results", str(tmp_path / "chaos.jsonl")]) == 0, capsys.readouterr().out


def test_every_scenario_has_a_label_of_its_own():
    labels = [scenario.label for scenario in SCENARIOS]
    assert len(set(labels)) == len(labels) and sum(scenario.part for scenario in SCENARIOS) >= 5
