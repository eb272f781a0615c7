"""The demo's models asked everything: every prompt by both, and further answers of the weak one to every row.

What jobs/evaluation/live_tables.py measures a cascade on. An ordinary job: a sample of all rows, and a cascade whose band is all
of them. Cost: 2,400 rows, some five minutes on two cores.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from jobs.demo.run import PROMPTS, run_demo

SAMPLES_A_ROW = 4
JOB: dict[str, Any] = {
    "sample": {"rows": PROMPTS},
    "policy": {"strong_share": 0.5},
    "cascade": {"signals": ["response", "logprob", "agreement"], "band": 1.0, "samples": SAMPLES_A_ROW},
}


def ask_everything(folder: Path) -> int:
    """Run the job, or go on with it; the exit code."""
    return run_demo(str(folder), live=False, change=JOB)[0]
