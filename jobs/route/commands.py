"""`headgate plan`, `run`, `report` and `status`: flags in, tables or JSON and an exit code out.

Ray and the stages are imported inside the commands, after the job file is read: most mistakes are found without that wait.
"""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.report.console import AllowCode, AsJson, finish, print_json, show
from jobs.report.streams import put, say

app = typer.Typer()

JobFile = Annotated[str, typer.Argument(metavar="JOB.yaml", help="The job file.")]
Output = Annotated[str, typer.Argument(metavar="OUTPUT", help="Output prefix of a run: local path, s3:// or gs://.")]
Override = Annotated[list[str] | None, typer.Option("--set", metavar="A.B=C", help="Override a field of the job file.")]


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
    from jobs.spec.loader import load_spec

    spec = load_spec(job_file, overrides)  # before the seconds that Ray takes to import: most mistakes are here
    from jobs.route.pipeline import plan_job
    from jobs.route.start import Job

    bill = plan_job(Job(spec, allow_code, live=False if as_json else None), sample)
    if as_json:
        print_json(bill)
    else:
        from jobs.report.terminal import bill_table

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
    from jobs.spec.loader import load_spec

    spec = load_spec(job_file, overrides)
    from jobs.route.pipeline import run_job
    from jobs.route.start import Job

    job = Job(spec, allow_code, limit, live=False if as_json else None)
    code, found = run_job(job)
    finish(found, as_json)
    for name, reason in found["stopped"].items():
        say(f"{name} stopped: {reason}")
    if code:
        say(found["next"])
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
    from jobs.report.page import render_markdown
    from jobs.route.pipeline import report_job

    found = report_job(output, allow_code)
    if markdown:
        put(render_markdown(found), end="")
    else:
        finish(found, as_json)


@app.command()
def status(output: Output, as_json: AsJson = False) -> None:
    """Where a run stands: rows, dollars, rates, time to go, and who holds it."""
    from jobs.route.status import run_status, status_table

    found = run_status(output)
    if as_json:
        print_json(found.to_json())
    else:
        show(status_table(found))
