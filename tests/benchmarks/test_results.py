"""docs/results.md: the generator on a made-up data folder, and what it says where data are missing."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from benchmarks.results import __main__ as results
from benchmarks.results.sections import SECTIONS
from benchmarks.results.sets import STRONG, WEAK
from routing.metrics.pair import Interval
from tests.jobs.evaluation.outcome_tables import two_topics


@pytest.fixture
def data(tmp_path) -> Path:
    table = two_topics(160)
    folder = tmp_path / "data" / "routellm" / "gsm8k"
    folder.mkdir(parents=True)
    with (folder / "gsm8k_responses.csv").open("w", newline="") as file:
        out = csv.writer(file)
        out.writerow(["prompt", WEAK, STRONG])
        out.writerows(
            [prompt, bool(weak), bool(strong)]
            for prompt, (weak, strong) in zip(table.prompts, table.quality, strict=True)
        )
    return tmp_path / "data"


def test_a_quick_page(data, tmp_path, capsys):
    page = tmp_path / "docs" / "results.md"
    arguments = ["--data", str(data), "--quick", "--out", str(page), "--only", "gsm8k-pilot", "--only", "mmlu-half"]
    assert results.main(arguments) == 0
    text = page.read_text()
    assert "mean nothing" in text and "Not measured: mmlu is not in the data folder." in text
    assert "| knn |" in text and "| *prompt length* |" in text and "Best of ours:" in text
    assert "33.64 / 63.26 / .622" in text  # the paper's, quoted
    assert capsys.readouterr().out.strip() == str(page)


@pytest.mark.slow
def test_the_neural_routers_stand_there_by_arithmetic(data):
    text = results.results(results.Options(data, quick=True, only=("neural",)))
    assert "Llama-3-8B" in text and "does not fit" in text and "the paper's" in text


def test_it_says_what_it_needs(tmp_path, capsys):
    assert results.main(["--data", str(tmp_path / "nowhere"), "--out", str(tmp_path / "r.md")]) == 2
    err = capsys.readouterr().err
    assert "RouteLLM" in err and len(err.strip().splitlines()) == 1 and not (tmp_path / "r.md").exists()


def test_distances_are_said_in_words():
    assert results.against(Interval(0.65, 0.63, 0.67), 0.6) == "+0.050"
    assert results.against(Interval(0.55, 0.53, 0.57), 0.6) == "0.050 worse"
    assert results.against(Interval(0.59, 0.55, 0.63), 0.6) == "0.010 worse (within the interval)"
    assert results.against(None, 0.6) == "-"


def test_every_section_has_a_key_and_a_figure():
    assert len({section.key for section in SECTIONS}) == len(SECTIONS)
    assert {section.figure for section in SECTIONS} == {"apgr", "aiq"}
