"""Every interval and promise of benchmarks/results/promises.py at every size; docs/results.md has those that reports use.

    python -m benchmarks.coverage --data ../shared/data [--draws 20000] [--walks 1000] [--json]

Cost on one idle core: some 5 minutes for 20,000 draws, 2 for 1,000 walks.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from benchmarks.results.promises import SETS, SIZES, WALK_SIZES, coverage, load_case, violations

__all__ = ["coverage", "load_case", "violations"]


def tables(coverage_records: list[dict[str, Any]], violation_records: list[dict[str, Any]]) -> str:
    """Both kinds of records as Markdown; * marks what reports use."""
    lines = [
        "| set | figure | interval | " + " | ".join(f"n = {n}" for n in SIZES) + " |",
        "|---|---|---" + "|---" * len(SIZES) + "|",
    ]
    keys = dict.fromkeys((r["set"], r["figure"], r["method"]) for r in coverage_records)
    by_key = {(r["set"], r["figure"], r["method"], r["n"]): r for r in coverage_records}
    for key in keys:
        cells = []
        for n in SIZES:
            record = by_key.get((*key, n))
            # A ratio's interval may be very wide: its mean says nothing.
            width = "-" if record is None else f"{record['median_width' if key[1] == 'PGR' else 'width']:.3f}"
            given = "" if record is None or record["given"] > 0.9995 else f" ({100 * record['given']:.0f} % given)"
            cells.append("-" if record is None else f"{100 * record['coverage']:.1f} % / {width}{given}")
        lines.append(f"| {' | '.join(key)} | {' | '.join(cells)} |")
    head = ["set", "promise", "n", "broken", "strong share", "share by the sample's own figures", "broken then"]
    head += ["broken by the cheapest that passes", "share that would do"]
    lines += ["", f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    for r in violation_records:
        broken = [f"{100 * r[k]:.1f} %" for k in ("violated", "violated_by_point", "violated_by_cheapest_passing")]
        shares = [f"{100 * r[k]:.1f} %" for k in ("strong_share", "point_share", "true_share")]
        cells = [r["set"], r["promise"], str(r["n"]), broken[0], *shares[:2], *broken[1:], shares[2]]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def measure(data: Path, draws: int, walks: int, sets: list[str]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """All records of all `sets`."""
    covered, broken = [], []
    for name in sets:
        case = load_case(data, name)
        for n in SIZES if draws else ():
            covered += coverage(case, n, draws)
        for n in WALK_SIZES if walks else ():
            if n < len(case):
                broken += violations(case, n, walks)
    return covered, broken


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with routellm/ and mmlu_pro/")
    parser.add_argument("--draws", type=int, default=20_000)
    parser.add_argument("--walks", type=int, default=1000)
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--json", action="store_true", help="records instead of Markdown")
    arguments = parser.parse_args()
    covered, broken = measure(arguments.data, arguments.draws, arguments.walks, arguments.sets)
    print(json.dumps({"coverage": covered, "violations": broken}) if arguments.json else tables(covered, broken))


if __name__ == "__main__":
    main()
