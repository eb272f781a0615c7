"""`headgate train` and `headgate evaluate`: flags in, a table or JSON out."""

from __future__ import annotations

from typing import Annotated

import typer

from jobs.report.console import AllowCode, AsJson, print_json, show
from jobs.report.streams import put

app = typer.Typer()

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
Routers = Annotated[
    list[str],
    typer.Option("--router", metavar="NAME", help="A router's name, auto, or an artifact directory; may be repeated."),
]
DropContaminated = Annotated[
    bool | None,
    typer.Option(
        "--drop-contaminated/--keep-contaminated",
        help="Prompts in contaminated_prompts.jsonl beside the table; dropped by default where it is there.",
    ),
]


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
    from jobs.evaluation.train import TrainOptions, run_train, train_candidate
    from jobs.evaluation.training_data import TrainingOptions
    from jobs.report.console import steps

    chosen = train_candidate(router, settings or [])
    sets = TrainingOptions(
        (*(outcomes or ()), *(from_run or ())), tuple(preferences or ()), weights=tuple(weights or ()), weak=weak, strong=strong,
        tiers=tiers, all_battles="models" in chosen.hyperparameters, seed=seed, allow_code=allow_code,
    )  # fmt: skip
    options = TrainOptions(
        sets,
        chosen.name,
        out,
        chosen.hyperparameters,
        validation=validation,
        held_out=tuple(held_out or ()),
        cache=cache,
    )
    with steps("train") as say:
        result = run_train(options, say)
    if as_json:
        print_json(result.to_json())
    else:
        from jobs.evaluation.terminal import training_table

        show(training_table(result))


@app.command()
def evaluate(
    routers: Routers,
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
    drop_contaminated: DropContaminated = None,
    out: Annotated[
        str | None, typer.Option("--out", metavar="DIR", help="Write evaluation.json and report.html.")
    ] = None,
    cache: Cache = None,
    as_json: AsJson = False,
    allow_code: AllowCode = False,
) -> None:
    """Measure routers on recorded outcomes: APGR, CPT and AIQ with intervals, beside the baselines."""
    from jobs.evaluation.evaluate import run_evaluate
    from jobs.evaluation.folds import EvaluateOptions
    from jobs.report.console import steps

    options = EvaluateOptions(
        outcomes=tuple(outcomes or ()), routers=tuple(routers), weak=weak, strong=strong, train=tuple(train or ()),
        train_weak=train_weak, train_strong=train_strong, train_rows=train_rows, fraction=fraction, seeds=seeds, seed=seed,
        drop_contaminated=drop_contaminated, tiers=tiers, weights=tuple(weights or ()), cache=cache, allow_code=allow_code,
    )  # fmt: skip
    with steps("evaluate") as say:
        found = run_evaluate(options, say)
        if out is not None:
            from jobs.evaluation.page import write_evaluation
            from jobs.storage.store import Store

            write_evaluation(Store(out), found)
    if as_json:
        print_json(found.to_json(with_curves=False))
        return
    from jobs.evaluation.terminal import evaluation_table

    show(evaluation_table(found))
    if out is not None:
        put(f"report: {out.rstrip('/')}/report.html")
