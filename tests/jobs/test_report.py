"""The report: right words and figures, nothing invented, everything escaped, JSON and page written whole."""

from __future__ import annotations

import io
import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from jobs.charts import Point, cost_quality, ticks, zero_line
from jobs.figures import duration, measured, percent, short_count, usd, usd_bounds, usd_decimals
from jobs.report import bill_table, complete_keys, headline, render_html, render_markdown, summary_table, write_report
from jobs.score_charts import calibration, score_histogram
from jobs.store import Store

EXAMPLE = json.loads(Path(__file__).with_name("report_example.json").read_text(encoding="utf-8"))
HOSTILE = "</td></title><script>document.title='owned'</script>\"'><img src=x onerror=alert(1)>&amp;\ud83d"
BARE = {"rows": 10, "errors": 0, "open": 0, "by_model": {}, "complete": True}


def example(**changes: Any) -> dict[str, Any]:
    return {**json.loads(json.dumps(EXAMPLE)), **changes}


class Page(HTMLParser):
    """Tags and text of a page."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = [("", {})]
        self.words: list[str] = []
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        if self.tags[-1][0] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).replace("\u00a0", " ").split())


def terminal(table: Any, width: int = 80) -> list[str]:
    console = Console(file=io.StringIO(), width=width, record=True)
    console.print(table)
    return console.export_text().splitlines()


def hostile(value: Any) -> Any:
    """Every string a model or a user may have written becomes an attack; the figures and the roles stay."""
    if isinstance(value, dict):
        return {key: hostile(item) for key, item in value.items() if key != "kind"}
    if isinstance(value, list):
        return [hostile(item) for item in value]
    return HOSTILE if isinstance(value, str) else value


# Figures


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "$0.00"),
        (0.25, "$0.25"),
        (0.0123, "$0.0123"),
        (0.0005, "$0.0005"),
        (4.56e-7, "$0.000000456"),
        (1234.5, "$1,234.50"),
        (-0.5, "-$0.50"),
        (None, "not measured"),
        (float("nan"), "not measured"),
    ],
)
def test_dollars(value: Any, text: str):
    assert usd(value) == text


def test_columns_of_dollars_line_up_and_stay_readable():
    assert usd_decimals([0.00214, 0.0487, 0]) == 5
    assert usd_decimals([12_345.67, 0.002]) == 2
    assert usd_decimals([None, float("nan")]) == 2
    assert usd(0.1, 5) == "$0.10000"
    assert usd(-0.0001, 2) == "$0.00"


def test_other_figures():
    assert percent(0.5167) == "51.7 %"
    assert measured({"mean": 0.9213, "low": 0.87, "high": 0.973}) == "92.1 % [87.0-97.3]"
    assert measured({"mean": 0.1, "low": -0.2, "high": 0.4}) == "10.0 % [-20.0 to 40.0]"
    assert measured({"mean": 0.5, "low": None, "high": None}) == "50.0 %"
    assert measured(None) == "not measured"
    assert measured({"mean": 0.5, "low": 0.5, "high": 0.5}) == "50.0 %", "counted, not estimated"
    assert usd_bounds({"low": 0.599, "high": 0.6115}) == "[$0.599-0.612]"
    assert usd_bounds({"low": 1234.5, "high": 2345.6}) == "[$1,234.50-2,345.60]"
    assert usd_bounds(None) == usd_bounds({"low": 2.0, "high": 2.0}) == ""
    assert [duration(s) for s in (13.4, 725, 11_049, 183_849, None)] == ["0:13", "12:05", "3:04:09", "2 d 3:04:09", "-"]
    assert [short_count(n) for n in (950, 12_345, 999_960, 4.5e6, 111e6, 1e9)] == [
        "950",
        "12.3k",
        "1.0M",
        "4.5M",
        "111M",
        "1.0G",
    ]


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0.61, 0.63), (0, 4930.0), (-3, 3), (0, 1e-6)])
def test_ticks_are_round_inside_and_few(low: float, high: float):
    found = ticks(low, high, 5)
    assert 3 <= len(found) <= 9
    assert all(low - 1e-12 <= tick <= high + 1e-12 for tick in found)


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


# Charts


def parsed(chart: Any) -> ET.Element:
    return ET.fromstring(str(chart))


@pytest.mark.parametrize("width", [356, 720])
def test_cost_quality_places_models_run_line_and_curve(width: int):
    svg = parsed(cost_quality(complete_keys(example()), width))
    classes = [element.get("class") for element in svg.iter()]
    assert {"mark m0", "mark m1", "mark run", "bar run", "mixing", "curve"} <= set(classes)
    assert svg.get("role") == "img"
    assert "this run: $0.0461, quality 87.1 % [85.6-88.5]" in str(svg.get("aria-label"))
    x = {name: float(svg.find(f".//circle[@class='mark {name}']").get("cx")) for name in ("m0", "m1")}  # type: ignore[union-attr,arg-type]
    y = {name: float(svg.find(f".//circle[@class='mark {name}']").get("cy")) for name in ("m0", "m1")}  # type: ignore[union-attr,arg-type]
    assert x["m0"] < x["m1"]  # dearer to the right
    assert y["m0"] > y["m1"]  # better further up
    for element in svg.iter("text"):
        assert 0 <= float(element.get("x", "0")) <= width


def test_the_zero_line_is_the_upper_hull_of_the_single_models():
    points = [
        Point(name, usd, {"mean": q}, "")
        for name, usd, q in (("a", 1, 0.5), ("b", 2, 0.9), ("c", 3, 0.6), ("d", 9, 0.95))
    ]
    assert zero_line([*points, Point("run", 0, {"mean": 1.0}, "", is_run=True)]) == [(1, 0.5), (2, 0.9), (9, 0.95)]
    svg = parsed(cost_quality(complete_keys(example())))
    assert svg.find(".//polyline[@class='oracle']") is not None


def test_the_plans_curve_is_drawn_in_measured_dollars():
    report = complete_keys(example())
    report["curve"] = [p | {"usd": 40 * p["usd"], "measured_usd": p["usd"]} for p in report["curve"]]
    assert parsed(cost_quality(report)).find(".//polyline[@class='curve']").get("points") == (  # type: ignore[union-attr]
        parsed(cost_quality(complete_keys(example()))).find(".//polyline[@class='curve']").get("points")  # type: ignore[union-attr]
    )


@pytest.mark.parametrize("width", [356, 720])
def test_calibration_puts_every_bin_by_predicted_and_measured(width: int):
    svg = parsed(calibration(complete_keys(example()), width))
    marks = svg.findall(".//circle")
    assert [mark.get("class") for mark in marks] == ["mark m0"] * 2 + ["mark m1"] * 2
    low, high = (float(mark.get("cx", 0)) for mark in marks[:2])
    assert low < high <= width and float(marks[0].get("cy", 0)) > float(marks[1].get("cy", 0))
    assert "20.0 % predicted, 25.0 % [15.0-38.0] measured on 100 rows" in "".join(svg.itertext())
    assert calibration(complete_keys(BARE)) is None


def test_labels_of_near_models_do_not_overlap():
    report = complete_keys(example())
    report["quality_by_model"]["demo-small"] = {**report["quality_by_model"]["demo-large"]}
    report["all_weak_usd"] = report["all_strong_usd"]
    svg = parsed(cost_quality(report))
    places = [(float(t.get("x", 0)), float(t.get("y", 0))) for t in svg.iter("text") if t.get("class") == "label"]
    assert len(places) == len(set(places)) >= 2


def test_no_picture_without_measurements():
    assert cost_quality(complete_keys(BARE)) is None
    assert cost_quality(complete_keys(example(quality=None, quality_by_model=None, curve=None))) is None
    assert (
        cost_quality(complete_keys(example(quality=None, quality_by_model=None))) is not None
    )  # the plan's curve alone


def test_histogram_stacks_to_the_counts():
    report = complete_keys(example())
    svg = parsed(score_histogram(report))
    counts = report["score_histogram"]["counts"]
    bars = svg.findall(".//rect")
    assert len(bars) == sum(1 for column in counts.values() for n in column if n)
    tallest = {
        name: max(float(b.get("height", 0)) for b in bars if b.get("class") == f"mark {name}") for name in ("m0", "m1")
    }
    assert tallest["m0"] / tallest["m1"] == pytest.approx(
        max(counts["demo-small"]) / max(counts["demo-large"]), rel=0.01
    )
    assert svg.find(".//line[@class='cut']") is not None
    assert (
        score_histogram(complete_keys(example(score_histogram={"edges": [0, 1], "counts": {"a": [0]}, "cut": None})))
        is None
    )


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
