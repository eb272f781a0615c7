"""The `headgate` command. Each subcommand is a few lines: parse, call, print; the work is elsewhere.

Standard output carries the result alone (tables, or one JSON object with --json), standard error everything else. Whatever goes
wrong is one line and an exit code; a traceback goes to a file that the line names.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.exceptions import TyperException

from jobs.errors import EXIT_BAD_INPUT, EXIT_OPEN, find_known

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="Answer a large set of prompts for the least money at the quality asked for.",
)  # fmt: skip

JobFile = Annotated[str, typer.Argument(metavar="JOB.yaml", help="The job file.")]
Output = Annotated[str, typer.Argument(metavar="OUTPUT", help="Output prefix of a run: local path, s3:// or gs://.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]
Override = Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override a field of the job file.")]
AllowCode = Annotated[bool, typer.Option("--allow-code", help="Let the job file name Python functions to call.")]


@app.command()
def plan(
    job_file: JobFile,
    as_json: AsJson = False,
    overrides: Override = None,
    allow_code: AllowCode = False,
    sample: Annotated[
        bool, typer.Option("--sample", help="Answer the job's sample first; spends at most sample.max_usd.")
    ] = False,
) -> None:
    """Check the job, score every row, cut, and print the bill. Spends nothing, but for --sample."""
    from jobs.spec import load_spec

    spec = load_spec(job_file, overrides)  # before the seconds that Ray takes to import: most mistakes are here
    from jobs.border import Job
    from jobs.pipeline import plan_job

    bill = plan_job(Job(spec, allow_code, live=False if as_json else None), sample)
    if as_json:
        print_json(bill)
    else:
        from jobs.report import bill_table

        show(bill_table(bill))


@app.command()
def run(
    job_file: JobFile,
    as_json: AsJson = False,
    overrides: Override = None,
    allow_code: AllowCode = False,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Rehearse: ask N rows drawn at random; a later run goes on.")
    ] = None,
) -> None:
    """Run the job, or go on where it stopped. Exit 0 done, 3 rows still open, 4 another run holds the output."""
    from jobs.spec import load_spec

    spec = load_spec(job_file, overrides)
    from jobs.border import Job
    from jobs.pipeline import run_job

    job = Job(spec, allow_code, limit, live=False if as_json else None)
    code, report = run_job(job)
    finish(report, as_json)
    for name, reason in report["stopped"].items():
        print(f"headgate: {name} stopped: {reason}", file=sys.stderr)
    if code:
        print(f"headgate: {report['next']}", file=sys.stderr)
    raise typer.Exit(code)


@app.command()
def report(
    output: Output,
    as_json: AsJson = False,
    allow_code: AllowCode = False,
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print report.md, for a pull request or a chat message.")
    ] = False,
) -> None:
    """Rebuild responses/, report.json, report.html and report.md from what the run holds."""
    from jobs.pipeline import report_job
    from jobs.report import render_markdown

    found = report_job(output, allow_code)
    if markdown:
        print(render_markdown(found), end="")
    else:
        finish(found, as_json)


@app.command()
def status(output: Output, as_json: AsJson = False) -> None:
    """Where a run stands: rows, dollars, rates, time to go, and who holds it."""
    from jobs.status import run_status, status_table

    found = run_status(output)
    if as_json:
        print_json(found)
    else:
        show(status_table(found))


Outcomes = Annotated[
    list[str] | None,
    typer.Option("--outcomes", metavar="PATH", help="Outcomes: a file, a folder, or a finished run; may be repeated."),
]
Strong = Annotated[str | None, typer.Option("--strong", metavar="NAME", help="The strong model of a pair.")]
Weak = Annotated[str | None, typer.Option("--weak", metavar="NAME", help="The weak model of a pair.")]
Tiers = Annotated[
    str, typer.Option("--tiers", metavar="STRONG:WEAK", help="Classes of models in battles; tier 0 is the strongest.")
]
Weights = Annotated[
    list[float] | None, typer.Option("--weight", min=0, help="Weight of each training set, in their order.")
]
Cache = Annotated[str | None, typer.Option("--cache", metavar="DIR", help="Keep encoders' vectors there.")]
Seed = Annotated[int, typer.Option("--seed", min=0, help="Of splits, draws and training.")]


@app.command()
def train(
    out: Annotated[str, typer.Option("--out", metavar="DIR", help="Where the artifact goes: a folder or s3://.")],
    router: Annotated[
        str, typer.Option("--router", metavar="NAME", help="Which router; knn, linear and so on.")
    ] = "auto",
    outcomes: Outcomes = None,
    from_run: Annotated[
        list[str] | None,
        typer.Option("--from-run", metavar="OUTPUT", help="A finished run: what several models answered; repeatable."),
    ] = None,
    preferences: Annotated[
        list[str] | None, typer.Option("--preferences", metavar="PATH", help="Battles; may be repeated.")
    ] = None,
    strong: Strong = None,
    weak: Weak = None,
    settings: Annotated[
        list[str] | None, typer.Option("--set", metavar="K=V", help="A hyperparameter; may be repeated.")
    ] = None,
    weights: Weights = None,
    tiers: Tiers = "0,1:2",
    held_out: Annotated[
        list[str] | None,
        typer.Option("--held-out", metavar="PATH", help="Drop training prompts too similar to these prompts."),
    ] = None,
    validation: Annotated[float, typer.Option(help="Share of the rows held out for the artifact's figures.")] = 0.1,
    seed: Seed = 0,
    cache: Cache = None,
    as_json: AsJson = False,
    allow_code: AllowCode = False,
) -> None:
    """Train a router on outcomes, preferences or a finished run, and write its artifact."""
    from jobs.evaluation.steps import steps
    from jobs.evaluation.training import TrainingOptions
    from jobs.train import TrainOptions, run_train, train_candidate

    chosen = train_candidate(router, settings or [])
    sets = TrainingOptions(
        (*(outcomes or ()), *(from_run or ())), tuple(preferences or ()), weights=tuple(weights or ()), weak=weak, strong=strong,
        tiers=tiers, all_battles="models" in chosen.hyperparameters, seed=seed, allow_code=allow_code,
    )  # fmt: skip
    options = TrainOptions(sets, chosen.name, out, chosen.hyperparameters, validation, tuple(held_out or ()), cache)
    with steps("train") as say:
        summary = run_train(options, say)
    if as_json:
        print_json(summary)
    else:
        from jobs.evaluation.show import training_table

        show(training_table(summary))


@app.command()
def evaluate(
    routers: Annotated[
        list[str],
        typer.Option(
            "--router", metavar="NAME", help="A router's name, auto, or an artifact directory; may be repeated."
        ),
    ],
    outcomes: Outcomes = None,
    strong: Strong = None,
    weak: Weak = None,
    train_rows: Annotated[int | None, typer.Option(min=1, help="Rows to train on; the others are test.")] = None,
    fraction: Annotated[float | None, typer.Option(help="Share of the rows to train on (default: half).")] = None,
    train: Annotated[
        list[str] | None,
        typer.Option(
            "--train", metavar="PATH", help="Train on another set (outcomes, battles, a run); may be repeated."
        ),
    ] = None,
    train_strong: Annotated[str | None, typer.Option(help="The strong model's name in --train.")] = None,
    train_weak: Annotated[str | None, typer.Option(help="The weak model's name in --train.")] = None,
    weights: Weights = None,
    tiers: Tiers = "0,1:2",
    seeds: Annotated[int, typer.Option(min=1, help="How many splits; figures are means over them.")] = 5,
    seed: Seed = 0,
    drop_contaminated: Annotated[
        bool | None,
        typer.Option(
            "--drop-contaminated/--keep-contaminated",
            help="Prompts in contaminated_prompts.jsonl beside the table; dropped by default where it is there.",
        ),
    ] = None,
    out: Annotated[
        str | None, typer.Option("--out", metavar="DIR", help="Write evaluation.json and report.html.")
    ] = None,
    cache: Cache = None,
    as_json: AsJson = False,
    allow_code: AllowCode = False,
) -> None:
    """Measure routers on recorded outcomes: APGR, CPT and AIQ with intervals, beside the baselines."""
    from jobs.evaluate import EvaluateOptions, figures_only, run_evaluate
    from jobs.evaluation.steps import steps

    options = EvaluateOptions(
        tuple(outcomes or ()), tuple(routers), weak, strong, tuple(train or ()), train_weak, train_strong, train_rows,
        fraction, seeds, seed, drop_contaminated, tiers, tuple(weights or ()), cache=cache, allow_code=allow_code,
    )  # fmt: skip
    with steps("evaluate") as say:
        found = run_evaluate(options, say)
        if out is not None:
            from jobs.evaluation.page import write_evaluation
            from jobs.store import Store

            write_evaluation(Store(out), found)
    if as_json:
        print_json(figures_only(found))
        return
    from jobs.evaluation.show import evaluation_table

    show(evaluation_table(found))
    if out is not None:
        print(f"report: {out.rstrip('/')}/report.html")


@app.command(add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def replay(context: typer.Context) -> None:
    """An OpenAI-compatible server that answers from recorded outcomes, with faults on demand (options: replay --help)."""
    from jobs.replay.__main__ import main as replay_main

    raise typer.Exit(replay_main(context.args))


@app.command()
def demo(
    folder: Annotated[str, typer.Argument(metavar="DIR")] = "headgate-demo",
    as_json: AsJson = False,
) -> None:
    """The whole job on shipped data and models: no network, no keys, no GPU."""
    from jobs.demo.run import run_demo

    code, result = run_demo(folder, live=False if as_json else None)
    finish(result, as_json)
    raise typer.Exit(code)


def finish(result: dict[str, Any], as_json: bool) -> None:
    """Print a run's report: the table and where report.html is, or JSON."""
    if as_json:
        print_json(result)
        return
    from jobs.report import summary_table

    show(summary_table(result))
    print(f"report: {result['output'].rstrip('/')}/report.html")


def print_json(value: dict[str, Any]) -> None:
    """One JSON object; what JSON cannot say (NaN) is null."""
    from jobs.report import json_safe

    print(json.dumps(json_safe(value), default=str))


def show(renderable: Any) -> None:
    from rich.console import Console

    Console(soft_wrap=False).print(renderable)


def main() -> None:
    """Entry point of the `headgate` command."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    try:
        sys.exit(app(standalone_mode=False))
    except TyperException as usage:
        fail(usage.format_message(), EXIT_BAD_INPUT)
    except (KeyboardInterrupt, typer.Abort):
        fail("stopped; what was answered is kept, run the same command to go on", EXIT_OPEN)
    except BaseException as error:
        known = find_known(error)
        if known is not None:
            fail(str(known), known.exit_code)
        if isinstance(error, SystemExit):
            raise
        fail(
            f"internal error: {type(error).__name__}; nothing is lost, the same command goes on; details: {write_traceback()}",
            1,
        )


def write_traceback() -> Path:
    """Keep the traceback of the error at hand in a file for the bug report."""
    with tempfile.NamedTemporaryFile("w", prefix="headgate-error-", suffix=".txt", delete=False) as out:
        traceback.print_exc(file=out)
    return Path(out.name)


def fail(message: str, code: int) -> None:
    """One line on standard error, then exit."""
    print(f"headgate: {' '.join(message.split())}", file=sys.stderr)
    sys.exit(code)


if __name__ == "__main__":
    main()
