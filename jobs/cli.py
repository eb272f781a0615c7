"""The `headgate` command. Each subcommand is a few lines: parse, call, print; the work is elsewhere.

Standard output carries the result alone (tables, or one JSON object with --json), standard error everything else. Whatever goes
wrong is one line and an exit code; a traceback goes to a file that the line names.
"""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.evaluation import commands as evaluation_commands
from jobs.report import console
from jobs.report.console import AsJson, finish
from jobs.route import commands as route_commands

app = typer.Typer(
    add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False, rich_markup_mode=None,
    help="Answer a large set of prompts for the least money at the quality asked for.",
)  # fmt: skip


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


app.add_typer(route_commands.app)
app.add_typer(evaluation_commands.app)


def main() -> None:
    """Entry point of the `headgate` command."""
    console.main(app)


if __name__ == "__main__":
    main()
