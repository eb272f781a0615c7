"""The report as Markdown and in the terminal: the same figures, no private words, nothing broken by names or by width."""

from __future__ import annotations

import re

import pytest
from report_reading import BARE, example, terminal

from jobs.report.page import render_html, render_markdown
from jobs.report.terminal import bill_table, summary_table

# Markdown


def test_markdown_says_the_result_in_figures_and_names_alone():
    text = render_markdown(example())
    assert "| all-strong | 2,400 |  | $0.16231 [$0.157-0.168] | 91.8 % [89.5-93.7] |" in text
    assert "| **this run** | 2,400 |  | **$0.05085** | 87.1 % [85.6-88.5] |" in text
    for words in (
        "planned $0.0542",
        "over-routing 21.4 %",
        "promise: 80.0 % with 95 % confidence, kept",
        "+10 % budget",
    ):
        assert words in text
    for private in ("charged twice", "billing", "ticket-12"):
        assert private not in text
    assert "not measured" in render_markdown(BARE) and "$" not in render_markdown(BARE)
    assert "**Not complete: 30 rows are open.**" in render_markdown(example(complete=False, open=30))


def test_markdown_is_not_broken_by_names():
    report = example(job="a\n# b | <img src=x> @everybody [x](http://y)", strong="de|mo_*", models=["de|mo_*"])
    text = render_markdown(report)
    assert text.splitlines()[0] == ("### Headgate: a # b \\| &lt;img src=x> @\u200beverybody \\[x\\](http://y)")
    assert "<img" not in text and "went to de\\|mo\\_\\*" in text
    rows = [line for line in text.splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in rows} <= {6, 3}


# Terminal


@pytest.mark.parametrize("scale", [1, 100_000])
def test_summary_fits_80_columns_with_whole_figures(scale: int):
    report = example(rows=2400 * scale)
    name = "gpt-4-1106-preview-with-a-long-name"
    report["by_model"][name] = {"rows": 700 * scale, "cost_usd": 0.01 * scale}
    for key in ("spent_usd", "all_weak_usd", "all_strong_usd", "saved_usd"):
        report[key] *= scale
    lines = terminal(summary_table(report))
    assert all(len(line) <= 80 for line in lines)
    text = "\n".join(lines)
    assert text.count("…") <= 1  # the long name
    for words in (
        "87.1 % [85.6-88.5]",
        "62.1 % [58.4-65.7]",
        "91.8 % [89.5-93.7]",
        "84.1 % [77.0-91.3]",
        "68.5 % of all-strong",
    ):
        assert words in text


def test_summary_of_a_bare_report():
    text = "\n".join(terminal(summary_table(BARE)))
    assert "$" not in text
    assert "PGR    not measured" in text


def test_bill_fits_80_columns_and_shows_the_request():
    models = {
        f"model-{k}": {"rows": 1200 * k, "usd": 0.01 * k, "usd_low": 0.008 * k, "usd_high": 0.013 * k} for k in (1, 2)
    }
    bill = {
        "rows": 3600,
        "input_errors": 3,
        "duplicates": 84,
        "by_model": models,
        "planned_usd": 0.03,
        "range_usd": [0.024, 0.039],
        "bound_usd": 0.22,
        "cap_usd": 0.25,
        "all_strong_usd": 0.16,
        "all_weak_usd": None,
        "strong_share": 2 / 3,
        "predicted_quality": None,
        "policy": {"kind": "strong_share", "value": 0.667},
        "cut_score": 0.52,
        "sample": {"rows": 500, "usd": 0.011},
        "hours": {"total": 1.5, "assumed": True},
        "assumptions": [
            "output length: 12 tokens a row, because there was no sample and no earlier run to take it from"
        ],
        "request": {"model": "model-2", "messages": [{"role": "user", "content": "[bold]x[/bold] " * 20}]},
        "checks": {"model-1": "engine starts, context 256"},
    }
    lines = terminal(bill_table(bill))
    text = "\n".join(lines)
    assert all(len(line) <= 80 for line in lines)
    for words in (
        "$0.0240-0.0390",
        "66.7 %",
        "1:30:00 (rate assumed)",
        "3 rows with input errors, 84 duplicates",
        "[bold]x[/bold]",
    ):
        assert words in text
    assert "quality    not known expected" in text
    assert re.search(r"all-weak +3,600 +not measured", text)
    assert terminal(bill_table({})) != []


def test_warnings_come_first_and_in_bold_everywhere():
    warned = example(warnings=["quality 1 on every row of every model: gold column 'a_b' tells nothing apart"])
    assert "**quality 1 on every row of every model: gold column 'a\\_b' tells nothing apart**" in render_markdown(
        warned
    )
    assert "<strong>quality 1 on every row of every model: gold column &#39;a_b&#39;" in render_html(warned)
    lines = terminal(summary_table(warned))
    at = next(i for i, line in enumerate(lines) if line.startswith("warning  quality 1 on every row"))
    assert at < next(i for i, line in enumerate(lines) if line.startswith("PGR")) and "warning" not in terminal(
        summary_table(example())
    )
