"""The progress panel and lines: right figures, no wrapping, nothing on standard output; a quiet Ray."""

from __future__ import annotations

import io
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from jobs.report.progress import Progress
from jobs.report.tally import JobCounts, LaneCounts, LiveCounts, Rate

LONG_NAME = "a-model-whose-name-takes-all-the-64-characters-that-are-allowed-"[:64]


class Clock:
    """Seconds that pass when the test says so."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def lane(todo: int, settled: int, cost_usd: float = 0.0, **more: Any) -> LaneCounts:
    tokens = {"prompt_tokens": settled * 80, "completion_tokens": settled * 9}
    return LaneCounts(todo, settled, cost_usd=cost_usd, **tokens, **more)


def state(weak: LaneCounts, strong: LaneCounts, **job: Any) -> LiveCounts:
    return LiveCounts(JobCounts("answer", **job), {"weak": weak, "strong": strong})


def progress_at(
    width: int, clock: Clock, total: int = 2400, models: tuple[str, ...] = ("weak", "strong")
) -> tuple[Progress, io.StringIO]:
    out = io.StringIO()
    console = Console(file=out, width=width, force_terminal=False)
    return Progress(total, models, live=False, console=console, clock=clock), out


def panel_lines(progress: Progress, width: int) -> list[str]:
    console = Console(file=io.StringIO(), width=width, record=True, force_terminal=True)
    console.print(progress.panel())
    return console.export_text().splitlines()


@pytest.mark.parametrize("width", [60, 80, 120])
def test_a_lane_that_waits_says_for_what_and_how_long(width):
    progress, _ = progress_at(width, Clock())
    progress.update(state(lane(1500, 900), lane(900, 0, waiting="waits 2:10 for 2 GPUs")))
    assert progress.line().endswith("strong 0/900, waits 2:10 for 2 GPUs")
    lines = panel_lines(progress, width)
    assert max(map(len, lines)) <= width and any("strong waits 2:10 for 2 GPUs" in line for line in lines)


def test_a_stage_that_waits_says_so_until_it_begins():
    progress, _ = progress_at(80, Clock(), total=0)
    progress.enter("score", waiting="waits 0:40 for 1 GPU")
    assert progress.line() == "headgate: score, waits 0:40 for 1 GPU"
    assert any("waits 0:40 for 1 GPU" in line for line in panel_lines(progress, 80))
    progress.enter("score", 500)
    assert "waits" not in progress.line()


def test_rate_counts_only_what_it_saw_and_forgets_the_past():
    rate = Rate(window_s=10)
    rate.add(0, 5000)  # a resumed run: old rows are nobody's speed
    assert rate.per_second is None
    for second in range(1, 6):
        rate.add(second, 5000 + 20 * second)
    assert rate.per_second == pytest.approx(20, rel=0.05)
    for second in range(6, 80):
        rate.add(second, 5100 + 100 * (second - 5))
    assert rate.per_second == pytest.approx(100, rel=0.06)


def test_line_says_rows_dollars_rate_and_time():
    clock = Clock()
    progress, _ = progress_at(80, clock)
    for step in range(11):
        clock.now = step * 2.0
        progress.update(state(lane(1500, 90 * step, 1e-6 * step), lane(900, 34 * step, 0.00123 * step), cap_usd=1.0))
    total, *lanes = progress.line().split(" | ")
    assert total == (
        "headgate: answer 1,240/2,400 rows (51.7 %), $0.0123 spent (cap $1.00), $0.0326 projected, 62 rows/s, ETA 0:33"
    )
    assert lanes == ["weak 900/1500, ETA 0:13", "strong 340/900, ETA 0:33"]


def test_eta_is_unknown_until_every_lane_with_rows_left_has_a_rate():
    clock = Clock()
    progress, _ = progress_at(80, clock)
    progress.update(state(lane(1000, 0), lane(100, 0)))
    clock.now = 10
    progress.update(state(lane(1000, 500), lane(100, 0)))
    assert progress.tally.eta_s() is None
    assert "ETA -" in progress.line()
    clock.now = 20
    progress.update(state(lane(1000, 1000), lane(100, 10)))
    assert progress.tally.eta_s() == pytest.approx(90 / (10 / 20), rel=0.5)  # the strong lane's, the weak one is done


def test_projection_takes_the_plans_word_until_a_lane_has_shown_its_cost():
    clock = Clock()
    progress, _ = progress_at(80, clock)
    progress.update(state(lane(1000, 100, 0.1), lane(100, 5, 9.0), planned_usd=4.0))
    assert progress.tally.projected_usd() == 4.0
    progress.update(state(lane(1000, 100, 0.1), lane(100, 50, 2.0), planned_usd=4.0))
    assert progress.tally.projected_usd() == pytest.approx(1.0 + 4.0)


def test_lines_come_every_interval_and_at_a_new_stage_and_at_the_end():
    clock = Clock()
    progress, out = progress_at(40, clock)  # narrower than a line: a log line is never folded
    with progress:
        progress.enter("score")
        for step in range(1, 10):
            clock.now = step * 0.5
            progress.enter("score", 100 * step)
        clock.now = 5.0
        progress.enter("score", 1000)
        progress.update(state(lane(10, 0), lane(5, 0)))
        progress.update(state(lane(10, 10), lane(5, 5, errors=2)))
    lines = out.getvalue().splitlines()
    assert [line.split(",")[0] for line in lines[:1]] == ["headgate: score 0/2"]
    assert len(lines) == 4
    assert lines[1].startswith("headgate: score 1,000/2,400 rows (41.7 %), 200 rows/s, ETA 0:07")
    assert lines[2].startswith("headgate: answer 0/15 rows (0.0 %)")
    assert (
        lines[3] == "headgate: answer 15/15 rows (100.0 %), $0.00 spent, $0.00 projected, ETA 0:00, 2 errors"
        " | weak 10/10 | strong 5/5"
    )


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("scale", [1, 1000])
def test_panel_keeps_one_line_per_fact(width: int, scale: int):
    clock = Clock()
    progress, _ = progress_at(width, clock, models=("weak", LONG_NAME))
    for step in range(5):
        clock.now = step * 2.0
        weak = lane(1500 * scale, 90 * step * scale, 1e-6 * step, in_flight=64, reserved_usd=0.0021, lost_usd=0.0001)
        strong = lane(900 * scale, 34 * step * scale, 12.3 * step, in_flight=256, requests_per_minute=10_000)
        job = JobCounts("answer", cap_usd=250.0, planned_usd=3.0)
        progress.update(LiveCounts(job, {"weak": weak, LONG_NAME: strong}))
    lines = panel_lines(progress, width)
    assert len(lines) == 9
    assert all(len(line) <= width for line in lines)
    assert "$49.20 spent (cap $250.00)" in lines[3]
    if width >= 80:
        assert "320 in flight" in lines[2]
        assert "360" in lines[6]
        assert "10.0k/min" in lines[7] and lines[7].endswith("0:45 │")
        assert not any("…" in line for line in lines if not line.startswith("│ a-model"))


def test_live_panel_draws_on_its_console_and_ends_with_the_last_counts():
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=True, color_system=None)
    with Progress(15, ["weak", "strong"], console=console) as progress:
        progress.update(state(lane(10, 1), lane(5, 0)))
        progress.update(state(lane(10, 10), lane(5, 5)))
    assert "15 / 15 rows" in out.getvalue()


def test_a_stage_without_a_known_number_of_rows_shows_only_itself():
    progress, _ = progress_at(80, Clock(), total=0)
    progress.enter("score")
    assert progress.line() == "headgate: score"
    assert len(panel_lines(progress, 80)) == 4
    progress.enter("score", 1200)
    assert progress.line() == "headgate: score 1,200 rows"


def test_names_are_not_markup():
    clock = Clock()
    progress, _ = progress_at(80, clock)
    progress.update(LiveCounts(JobCounts("answer"), {"[red]m[/red]": lane(5, 1)}))
    assert "[red]m[/red]" in "\n".join(panel_lines(progress, 80))
    assert "[red]m[/red] 1/5" in progress.line()


@pytest.mark.parametrize(
    ("more", "cell"),
    [
        ({"requests_per_minute": 600.0, "paused_s": 0.0}, "600/min"),
        ({"requests_per_minute": 600.0, "paused_s": 12.4}, "paused 0:12"),
        ({"requests_per_minute": 600.0, "stopped": "401: bad key"}, "stopped"),
    ],
)
def test_a_lane_says_what_holds_it_back(more: dict, cell: str):
    progress, _ = progress_at(80, Clock())
    progress.update(state(lane(10, 1, **more), lane(5, 0)))
    row = next(line for line in panel_lines(progress, 80) if line.startswith("│ weak"))
    assert f" {cell} " in row
    assert cell.replace("/min", " requests/min") in progress.line()


def test_ray_is_quiet_and_speaks_when_it_fails(tmp_path: Path):
    """A whole Ray Data job prints nothing but its own lines; a failing `ray.init` does not lose what Ray said."""
    script = textwrap.dedent(
        """
        import sys
        from jobs.route.cluster import init_ray
        init_ray(address="local", num_cpus=4, include_dashboard=False, object_store_memory=256 * 1024**2)
        import ray
        class Shout:
            def __call__(self, batch):
                print("a worker prints")
                return batch
        rows = ray.data.range(64).map_batches(Shout, compute=ray.data.ActorPoolStrategy(size=1), num_cpus=0.5)
        rows.write_parquet(sys.argv[1])
        print("done")
        ray.shutdown()
        """
    )
    job = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "out")], capture_output=True, text=True, timeout=200
    )
    assert job.returncode == 0, job.stderr
    assert job.stdout == "done\n"
    assert job.stderr == ""
