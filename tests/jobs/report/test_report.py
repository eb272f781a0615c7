"""The report: right words and figures, nothing invented, everything escaped, JSON and page written whole."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from report_reading import BARE, EXAMPLE, HOSTILE, Page, example, hostile

from jobs.report.contents import headline
from jobs.report.page import render_html, write_report
from jobs.storage.store import Store

# Words


def test_headline_says_share_dollars_and_gap():
    assert headline(example()) == (
        "2,400 rows: 30.0 % went to demo-large. $0.0508 spent instead of $0.162 for all-strong (68.5 % saved), "
        "keeping 84.1 % [77.0-91.3] of the quality gap."
    )


def test_headline_names_what_was_not_measured():
    assert headline(example(pgr=None)).endswith(
        "Quality 87.1 % [85.6-88.5]; the share of the quality gap it keeps was not measured."
    )
    assert headline(example(pgr=None, quality=None)).endswith("(68.5 % saved). Quality was not measured.")
    assert headline(BARE) == "10 rows. Quality was not measured."
    assert "(3.1 % more)" in headline(example(saved_usd=-0.005032))


def test_a_bare_report_invents_nothing():
    text = Page(render_html(BARE)).text
    assert text.count("not measured") >= 8
    assert "$" not in text
    assert "No scores were recorded." in text
    assert "<svg" not in render_html(BARE)


def test_the_page_tells_the_bill_and_it_adds_up():
    text = Page(render_html(example())).text
    planned, spent, lost, unspent = (
        float(re.search(rf"{name} \$([\d.]+)", text).group(1))  # type: ignore[union-attr]
        for name in ("Planned", "Spent", "Lost to failed requests", "Unspent")
    )
    assert planned - spent - lost == pytest.approx(unspent, abs=1e-9)
    for words in (
        "shadow sample $0.00160",
        "Saved against all-strong $0.11125",
        "GPU time, beside the bill not measured",
    ):
        assert words in text
    assert "genai-prices 0.0.30, 2026-11-01" in text
    assert "71b0c3aa9d10" in text
    assert "12 of 2,400 rows (0.5 %)" in text
    assert "1777" in text
    assert "2001" not in text  # five examples of an error are enough


def test_an_incomplete_run_says_what_to_do():
    text = Page(
        render_html(example(complete=False, open=30, next="Set OPENAI_API_KEY, then run the same command again."))
    ).text
    assert "Not complete. 30 rows are open. Set OPENAI_API_KEY, then run the same command again." in text


def test_the_page_tells_what_the_sample_and_the_pilot_found():
    text = Page(render_html(example())).text
    for words in (
        "21.4 % [16.1-27.9] of the rows sent to demo-large were answered as well by demo-small",
        "8.3 % [5.2-12.4] of the other rows were answered better by demo-large",
        "Which label fits: 'I was charged twice'?",
        "demo-small, right: billing",
        "demo-large, 50.0 %: no answer",
        "-10 % $0.04580 26.9 % 84.4 % -1.5",
        "900 rows were answered by every model before the cut: 200 to fit, 200 to select, 500 to report.",
        "A head of kind ridge was fitted on 198 of them.",
        "The quality of 3 rows could not be told",
        "promised 80.0 % of the quality gap, with 95 % confidence",
        "22.0 % would do by the sample's own figures",
        "best with 340 rows; one more row would still pay",
        "log characters 4.2 3.1 +2.4 sd",
        "32 to 63 1,000 44.0 % 83.0 % [81.0-85.0]",
        "[$0.157-0.168]",
        "$0.00490 $0.05510 $0.06020 31.0 %",
        "self agreement share 0.921 kappa not known rows 60",
    ):
        assert words in text, words
    assert "16 to 31 1,400 20.0 % 90.0 % 32" in text  # counted on every row: no interval
    bare = Page(
        render_html(example(pilot={"head": "none", "why": "too few rows", "rows": 9}, promise=None, recuts=None))
    ).text
    assert "The router was left as it was: too few rows." in bare


def test_the_promise_of_a_guarantee_and_one_that_money_broke():
    promise = EXAMPLE["promise"] | {"kind": "guarantee", "kept": False, "below_all_strong": False}
    text = Page(render_html(example(promise=promise, policy={"kind": "guarantee", "value": 0.8}))).text
    assert "80.0 % agreement with the strong model, with 95 % confidence" in text
    assert "no: dollars were short" in text and "nothing cheaper than all-strong" in text
    assert "policy: 80.0 % agreement" in text


def test_every_number_of_the_page_is_in_the_json(tmp_path: Path):
    write_report(Store(str(tmp_path)), example())
    numbers = set()

    def collect(value: Any) -> None:
        if isinstance(value, dict):
            value = list(value.values())
        if isinstance(value, list):
            for item in value:
                collect(item)
        elif isinstance(value, int | float):
            numbers.add(float(value))

    collect(json.loads((tmp_path / "report.json").read_text(encoding="utf-8")))
    shares = [float(n) for n in re.findall(r"(?<![\d.])(\d+\.\d) %", Page((tmp_path / "report.html").read_text()).text)]
    derived = {
        68.5,
        0.5,
        70.0,
        32.6,
        67.4,
    }  # quotients of two of them: saved over all-strong, parts of a whole, of a bin
    known = {round(100 * abs(n), 1) for n in numbers} | derived
    assert [share for share in shares if share not in known] == []


# One file, no scripts, everything escaped


@pytest.mark.parametrize("report", [example(), BARE, hostile(example())], ids=["example", "bare", "hostile"])
def test_the_page_loads_nothing_and_runs_nothing(report: dict[str, Any]):
    page = Page(render_html(report))
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "img", "iframe", "object", "embed", "form", "base"}
    links = [
        (tag, attributes) for tag, attributes in page.tags if {"href", "src", "xlink:href", "srcset"} & set(attributes)
    ]
    assert links == [("link", {"rel": "icon", "href": "data:,"})]
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert re.search(r"url\(|@import", render_html(report)) is None
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in page.tags
    csp = next(a for t, a in page.tags if t == "meta" and a.get("http-equiv") == "Content-Security-Policy")
    assert csp["content"].startswith("default-src 'none'")  # type: ignore[union-attr]


def test_hostile_names_are_text_in_the_charts_too():
    report = example(models=[HOSTILE, "demo-large"], weak=HOSTILE)
    report["by_model"][HOSTILE] = report["by_model"].pop("demo-small")
    report["quality_by_model"][HOSTILE] = report["quality_by_model"].pop("demo-small")
    report["score_histogram"]["counts"][HOSTILE] = report["score_histogram"]["counts"].pop("demo-small")
    page = Page(render_html(report))
    assert not {"script", "img"} & {tag for tag, _ in page.tags}
    assert HOSTILE in "".join(page.words)


# Files


def test_write_report_writes_both_files_and_plain_json(tmp_path: Path):
    report = example(
        spent_usd=np.float64(0.05085), pgr={"mean": float("nan"), "low": None, "high": None}, rows=np.int64(2400)
    )
    report["errors_by_kind"][0]["error"] = "half an emoji \ud83d"
    write_report(Store(str(tmp_path)), report)
    read = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert read["spent_usd"] == 0.05085
    assert read["rows"] == 2400
    assert read["pgr"]["mean"] is None
    assert read["errors_by_kind"][0]["error"] == "half an emoji \ud83d"
    assert set(EXAMPLE) <= set(read)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert page.rstrip().endswith("</html>")
    assert "half an emoji ?" in page
