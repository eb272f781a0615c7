"""What is shown while dollars are spent: the governor's live counts, put before the people who wait."""

from __future__ import annotations

import time
from typing import Any

from jobs.money.driver import Money
from jobs.report.progress import Progress

SHOW_S = 0.5
"""Least time between two pictures."""


class Live:
    """Takes each batch that a lane settled (an empty event between them), and shows where all stands."""

    def __init__(self, money: Money, progress: Progress) -> None:
        self._money, self._progress, self._shown_s = money, progress, 0.0

    def __call__(self, event: dict[str, Any]) -> None:
        money = self._money
        if event:
            money.add(event["model"], event["batch"])
        if time.monotonic() - self._shown_s < SHOW_S:
            return
        self._shown_s = time.monotonic()
        money.refresh()
        job = {"stage": "answer", "cap_usd": money.cap, "planned_usd": money.bill.get("planned_usd")}
        self._progress.update(
            {"job": job, "models": {name: self._model(name) for name in money.todo if money.todo[name]}}
        )

    def _model(self, name: str) -> dict[str, Any]:
        """Live counts of one lane: the governor's where it knows more (it hears of every answer within a second)."""
        known, own = self._money.state["models"][name], self._money.counts[name]
        live = {
            "settled": known["answered"] + known["rejected"], "errors": known["errors"], "prompt_tokens": known["prompt_tokens"],
            "completion_tokens": known["completion_tokens"], "cost_usd": known["cost_usd"],
        }  # fmt: skip
        shown = (
            live if live["settled"] >= own["settled"] else {k: v if k == "cost_usd" else int(v) for k, v in own.items()}
        )
        shown |= {
            "reserved_usd": known.get("reserved_usd"),
            "lost_usd": known["lost_usd"],
            "in_flight": known["in_flight"],
            "stopped": known["stopped"],
            "requests_per_minute": known["requests_per_minute"],
            "paused_s": known["paused_s"],
        }
        # A running lane goes through with rows that a new cut has given to another one.
        return shown | {"todo": max(self._money.todo[name], int(shown["settled"]))}
