"""Live progress of a run, on standard error: rows, dollars, time to go; a panel in a terminal, a line in a log.

The driver calls `Progress.update` about twice a second with the governor's counts, which `jobs.report.tally` turns into rates.
Standard output is left alone: it belongs to `--json`. `jobs.route.cluster` keeps Ray's own bars and log lines off the terminal.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Sequence
from types import TracebackType

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from jobs.report.formatting import count, duration, percent, short_count, usd
from jobs.report.streams import Screen
from jobs.report.tally import JobCounts, LaneCounts, LiveCounts, Tally

LOG_INTERVAL_S, REFRESH_PER_S = 5.0, 2.0
MAX_WIDTH = 100


class Progress:
    """Context manager: `with Progress(rows, models) as progress: progress.update(counts)`.

    Args:
        total_rows: rows of the job, shown where the models' `todo` are not known; 0 for unknown.
        models: names, cheapest first; fixes the order of the lines.
        live: a panel (True), lines (False), or by whether standard error is a terminal (None).
        console: where to write, default standard error.
        interval_s: seconds between two lines.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        total_rows: int,
        models: Sequence[str],
        *,
        live: bool | None = None,
        console: Console | None = None,
        interval_s: float = LOG_INTERVAL_S,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.tally = Tally(total_rows, models)
        self.console = console or Screen(stderr=True, soft_wrap=False)
        self.live_mode = self.console.is_terminal and not self.console.is_dumb_terminal if live is None else live
        self.interval_s = interval_s
        self._clock = clock
        self._live: Live | None = None
        self._started_s = clock()
        self._printed_s = -math.inf
        self._printed = ""

    def __enter__(self) -> Progress:
        self._started_s = self._clock()
        if self.live_mode:
            # Redrawn by a thread too: the clock moves while the driver waits. Standard output is caught only where it
            # shares the screen.
            self._live = Live(
                console=self.console,
                get_renderable=self.panel,
                refresh_per_second=REFRESH_PER_S,
                redirect_stdout=sys.stdout.isatty(),
                redirect_stderr=True,
            )
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        elif self.tally.stage is not None:
            self._print_line()

    def enter(self, stage: str, done: int = 0, waiting: str = "") -> None:
        """A stage that has no lanes, or none yet, begins, has done so many rows, or waits for what."""
        self.update(LiveCounts(JobCounts(stage, done, waiting=waiting)))

    def update(self, counts: LiveCounts) -> None:
        """Take new counts and show them: the panel at once, a line when one is due or the stage changed."""
        now = self._clock()
        new_stage = self.tally.take(counts, now)
        if self._live is not None:
            self._live.refresh()
        elif not self.live_mode and (new_stage or now - self._printed_s >= self.interval_s):
            self._printed_s = now
            self._print_line()

    @staticmethod
    def _per_second(rate: float | None) -> str:
        return "" if rate is None else f"{count(rate) if rate >= 10 else f'{rate:.1f}'} rows/s"

    def line(self) -> str:
        """One log line without colour or wrapping."""
        done, total = self.tally.counts
        rows = f" {count(done)} rows" if done else ""
        if total:
            rows = f" {count(done)}/{count(total)} rows ({percent(done / total)})"
        parts = [f"headgate: {self.tally.stage or 'start'}{rows}"]
        if self.tally.lanes:
            parts += self._dollars()
        if rate := self._per_second(self.tally.rate()):
            parts.append(rate)
        if total:
            parts.append(f"ETA {duration(self.tally.eta_s())}")
        parts += self._troubles()
        return " | ".join([", ".join(parts), *(self._lane_text(name, lane) for name, lane in self.tally.lanes.items())])

    def _lane_text(self, name: str, lane: LaneCounts) -> str:
        """`strong 340/900, ETA 0:33, 600 requests/min`; what is through says its rows alone."""
        facts = [f"{name} {lane.settled}/{lane.todo}"]
        if lane.settled < lane.todo:
            facts += [] if lane.waiting else [f"ETA {duration(self.tally.lane_eta_s(name))}"]
            facts += _limit(lane)
        return ", ".join(facts)

    def _print_line(self) -> None:
        line = self.line()
        if line != self._printed:
            self._printed = line
            self.console.print(Text(line), soft_wrap=True)

    def panel(self) -> Panel:
        """The whole picture, no line of it wrapped from 60 columns up."""
        done, total = self.tally.counts
        width = min(self.console.width, MAX_WIDTH)
        rows = f"{count(done)} rows" if done else ""
        if total:
            rows = f"{count(done)} / {count(total)} rows"
        share = Text(percent(done / total) if total else "", style="cyan")
        top = Table.grid(expand=True, padding=(0, 1))
        top.add_column(ratio=1)
        top.add_column(no_wrap=True, justify="right")
        top.add_column(no_wrap=True, justify="right")
        top.add_row(
            ProgressBar(
                total=total or None, completed=done, complete_style="cyan", pulse_style="cyan", finished_style="green"
            ),
            share,
            Text(rows, style="bold"),
        )
        in_flight = int(self.tally.sum_of("in_flight"))
        facts = [
            self._per_second(self.tally.rate()),
            f"ETA {duration(self.tally.eta_s())}" if total else "",
            f"{count(in_flight)} in flight" if in_flight else "",
        ]
        parts: list[RenderableType] = [top, self._facts(*facts, *self._troubles())]
        if self.tally.lanes:
            parts += [self._facts(*self._dollars()), Text(""), self._lane_table(width)]
            parts += [self._facts(f"{name} {lane.waiting}") for name, lane in self.tally.lanes.items() if lane.waiting]
        return Panel(
            Group(*parts),
            title=Text.assemble(("headgate", "bold"), f" · {self.tally.stage or 'start'}"),
            title_align="left",
            subtitle=Text(f"{duration(self._clock() - self._started_s)} elapsed", style="dim"),
            subtitle_align="right",
            border_style="cyan",
            width=width,
            padding=(0, 1),
        )

    def _troubles(self) -> list[str]:
        errors, lost_usd = int(self.tally.sum_of("errors")), self.tally.sum_of("lost_usd")
        found = [self.tally.job.waiting] if self.tally.job.waiting else []
        found += [f"{count(errors)} errors"] if errors else []
        if empty := int(self.tally.sum_of("empty")):
            found.append(f"{count(empty)} empty answers (raise max_tokens)")
        return [*found, f"{usd(lost_usd)} lost"] if lost_usd else found

    def _dollars(self) -> list[str]:
        """Spent and projected first: a narrow terminal cuts the end."""
        cap, projected = self.tally.job.cap_usd, self.tally.projected_usd()
        spent = f"{usd(self.tally.sum_of('cost_usd'))} spent"
        texts = [spent if cap is None else f"{spent} (cap {usd(cap)})"]
        texts.append(f"{'-' if projected is None else usd(projected)} projected")
        told = any(lane.reserved_usd is not None for lane in self.tally.lanes.values())
        return [*texts, f"{usd(self.tally.sum_of('reserved_usd'))} reserved"] if told else texts

    @staticmethod
    def _facts(*facts: str) -> Text:
        return Text(" · ".join(fact for fact in facts if fact), no_wrap=True, overflow="ellipsis")

    def _lane_table(self, width: int) -> Table:
        """A line per model; columns that do not fit into `width` are left out, least needed first."""
        columns: list[tuple[str, int, Callable[[str, LaneCounts], str]]] = [
            ("rows", 0, lambda _, lane: _rows(lane)),
            ("rows/s", 76, lambda name, _: self._lane_rate(name)),
            ("in flight", 90, lambda _, lane: short_count(lane.in_flight)),
            ("limit", 66, lambda _, lane: _limit_cell(lane)),
            ("tokens in/out", 76, lambda _, lane: _tokens(lane)),
            ("spent", 0, lambda _, lane: usd(lane.cost_usd)),
            ("ETA", 0, lambda name, _: duration(self.tally.lane_eta_s(name))),
        ]
        shown = [column for column in columns if column[1] <= width]
        table = Table.grid(padding=(0, 1, 0, 0), expand=True)
        table.add_column(ratio=1, min_width=8, no_wrap=True, overflow="ellipsis")
        for _ in shown:
            table.add_column(justify="right", no_wrap=True)
        table.add_row(*(Text(head, style="dim") for head in ("model", *(column[0] for column in shown))))
        for name, lane in self.tally.lanes.items():
            table.add_row(Text(name), *(column[2](name, lane) for column in shown))
        return table

    def _lane_rate(self, name: str) -> str:
        rate = self.tally.rate(name)
        return "-" if rate is None else short_count(rate) if rate >= 10 else f"{rate:.1f}"


def _rows(lane: LaneCounts) -> str:
    """340/900; short from a hundred thousand up, so that two models' lines fit 60 columns."""
    show = count if lane.todo < 100_000 else short_count
    return f"{show(lane.settled)}/{show(lane.todo)}"


def _limit(lane: LaneCounts) -> list[str]:
    """The rate limit in force, or that the lane waits or has stopped; nothing where there is none."""
    if lane.stopped:
        return ["stopped"]
    if lane.waiting:
        return [lane.waiting]
    if lane.paused_s >= 0.5:
        return [f"paused {duration(lane.paused_s)}"]
    limit = lane.requests_per_minute
    return [] if limit is None else [f"{short_count(limit)} requests/min"]


def _limit_cell(lane: LaneCounts) -> str:
    """Requests a minute in force, the pause that a 429 asked for, or that the lane waits or has stopped."""
    if lane.waiting and not lane.stopped:
        return "waits"
    return (_limit(lane) or ["-"])[0].replace(" requests/min", "/min")


def _tokens(lane: LaneCounts) -> str:
    return f"{short_count(lane.prompt_tokens)}/{short_count(lane.completion_tokens)}"
