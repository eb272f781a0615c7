"""The report's page in a real browser: no text of a prompt or an answer runs, no complaints, readable on a phone."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import escape
from pathlib import Path
from typing import Any

import pytest

from jobs.report.page import render_html

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install --no-install-recommends chromium"),
]
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--enable-logging=stderr",
    "--v=0",
]
EXAMPLE = json.loads(
    (Path(__file__).parents[1] / "jobs" / "report" / "report_example.json").read_text(encoding="utf-8")
)
ATTACKS = (
    "<script>document.title='owned'</script>",
    '"><img src=x onerror="document.title=\'owned\'">',
    "</title></style></svg><svg onload=\"document.title='owned'\">",
    "' autofocus onfocus='document.title=`owned`' tabindex='1",
    "]]></script><script>document.title='owned'//",
)


def browse(tmp_path: Path, html: str, width: int = 1200) -> tuple[str, list[str]]:
    """Load the page from disk; returns the DOM after its scripts, if any, ran, and what went to the console."""
    page = tmp_path / "report.html"
    page.write_text(html, encoding="utf-8", errors="replace")
    command = [str(CHROMIUM), *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},2000"]
    run = subprocess.run([*command, "--dump-dom", page.as_uri()], capture_output=True, text=True, timeout=120)
    assert run.returncode == 0, run.stderr
    return run.stdout, [line for line in run.stderr.splitlines() if "CONSOLE" in line]


def title(dom: str) -> str:
    return re.search(r"<title>(.*?)</title>", dom, re.DOTALL).group(1)  # type: ignore[union-attr]


def without_policy(html: str) -> str:
    """The page without its Content-Security-Policy: escaping has to hold alone."""
    bare, n = re.subn(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", html)
    assert n == 1
    return bare


def attacked(value: Any, attack: str) -> Any:
    """Every string of the report, keys that users choose included, becomes the attack."""
    if isinstance(value, dict):
        return {key: attacked(item, attack) for key, item in value.items() if key != "kind"}
    if isinstance(value, list):
        return [attacked(item, attack) for item in value]
    return attack if isinstance(value, str) else value


def attacked_report(attack: str) -> dict[str, Any]:
    report = attacked(EXAMPLE, attack)
    for key in ("by_model", "quality_by_model", "prices", "provenance"):
        report[key] = {f"{attack}{k}": value for k, value in enumerate(report[key].values())}
    report["models"] = list(report["by_model"])
    report["weak"], report["strong"] = report["models"]
    for example in report["over_routed"] + report["under_routed"]:
        for key in ("answers", "quality"):
            example[key] = {f"{attack}{k}": value for k, value in enumerate(example[key].values())}
    report["calibration"] = dict(zip(report["models"], report["calibration"].values(), strict=True))
    report["pilot"]["scores"] = {attack: 0.5}
    report["score_histogram"]["counts"] = {report["weak"]: report["score_histogram"]["counts"]["demo-small"]}
    return report


def test_the_harness_sees_a_script_that_runs(tmp_path: Path):
    dom, console = browse(tmp_path, f"<title>report</title><body>{ATTACKS[0]}<script>console.error('seen')</script>")
    assert title(dom) == "owned"
    assert any("seen" in line for line in console)


@pytest.mark.parametrize("attack", ATTACKS)
def test_no_string_of_a_report_runs(tmp_path: Path, attack: str):
    html = render_html(attacked_report(attack))
    dom, console = browse(tmp_path, without_policy(html))
    assert title(dom) != "owned"
    assert re.search(r"<(script|img)\b", dom) is None
    assert console == []
    assert "owned" in dom  # it is there, as text


def test_the_policy_stops_scripts_by_itself(tmp_path: Path):
    html = render_html(EXAMPLE).replace("</main>", ATTACKS[0] + "</main>")
    dom, console = browse(tmp_path, html)
    assert title(dom) == "support tickets: report"
    assert any("Content Security Policy" in line for line in console)


def test_the_page_as_written_has_nothing_to_complain_about(tmp_path: Path):
    dom, console = browse(tmp_path, render_html(EXAMPLE))
    assert console == []
    assert dom.count("<svg") >= 6


@pytest.mark.parametrize("width", [390, 768, 1200])
def test_no_sideways_scrolling(tmp_path: Path, width: int):
    report = json.loads(json.dumps(EXAMPLE))
    report["errors_by_kind"][0]["error"] = "x" * 300
    report["output"] = "s3://" + "a-very-long-bucket-name/" * 8
    report["over_routed"][0] |= {"id": "i" * 150, "prompt": "y" * 200, "answers": {"demo-small": "z" * 200}}
    page = escape(without_policy(render_html(report)))
    # Headless windows are at least 500 wide; a frame is as narrow as a phone.
    width_of = "(d=>d.scrollWidth+' of '+d.clientWidth)"
    probe = f"document.title={width_of}(document.querySelector('iframe').contentDocument.documentElement)"
    frame = f'<iframe style=\'width:{width}px;height:900px;border:0\' srcdoc="{page}" onload="{probe}"></iframe>'
    dom, _ = browse(tmp_path, f"<!DOCTYPE html><title>-</title><body>{frame}", width + 100)
    inner, outer = (int(n) for n in title(dom).split(" of "))
    assert inner <= outer <= width
    assert outer > width - 20  # a scroll bar at most
