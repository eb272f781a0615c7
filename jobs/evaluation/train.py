"""`headgate train`: fit a router on outcomes, preferences or a finished run, and write its artifact.

    read and mix the sets → drop prompts too near --held-out → split by prompt → fit → measure on the held-out side → save

What is saved was fitted on the training side alone, so that the figures in its card are those of the very router. The artifact is
written whole: into a temporary folder first, then in place of an older one. No Ray.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np

from jobs.errors import InputError, SpecError
from jobs.evaluation.candidates import Candidate, make_router, parse_hyperparameters, predict
from jobs.evaluation.results import TrainedOn, TrainResult, Validation
from jobs.evaluation.sources import read_training_set
from jobs.evaluation.training_data import TrainingOptions, gather, without_contaminated
from jobs.report.contents import json_safe
from jobs.storage.store import Store
from routing import routers
from routing.data.outcomes import Outcomes, split_by_prompt
from routing.data.preferences import Preferences
from routing.data.training_data import TrainingData, as_outcomes
from routing.errors import RoutingError
from routing.features.cache import feature_cache
from routing.metrics.trials import Trial, measure_trials
from routing.routers.base import Router
from routing.routers.neural.training import FitProgress

N_BOOT = 1000
LIBRARIES = ("headgate", "numpy", "scikit-learn", "torch", "transformers")
"""Their versions are in the card: what may explain another figure one day."""


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """What the command line asks for."""

    sets: TrainingOptions
    router: str
    out: str
    hyperparameters: Mapping[str, object] = field(default_factory=dict)
    validation: float = 0.1
    """Share of the rows held out for the card's figures; 0 trains on everything and measures nothing."""
    held_out: tuple[str, ...] = ()
    """Sets whose prompts must not be trained on."""
    cache: str | None = None

    def __post_init__(self) -> None:
        if not self.sets.paths:
            raise SpecError("--outcomes or --preferences: name at least one set to train on")
        if (self.sets.weak is None) != (self.sets.strong is None):
            raise SpecError("--strong and --weak belong together; without both, the router learns all models")
        if not 0 <= self.validation < 1:
            raise SpecError(f"--validation: {self.validation} is not a share between 0 and 1")


def run_train(options: TrainOptions, say: Callable[[str], None] = lambda text: None) -> TrainResult:
    """Train and save. Raises HeadgateError or RoutingError before anything is written."""
    router = make_router(options.router, options.hyperparameters, options.sets.seed)
    target = Store(options.out)
    check_target(target)
    say("reading")
    data, notes = gather(options.sets)
    overlap = None
    if options.held_out:
        say("comparing with the held-out prompts")
        prompts = [prompt for path in options.held_out for prompt in read_training_set(path).prompts]
        data, overlap = without_contaminated(data, prompts)
    train, held_out, note = hold_out(data, options.validation, options.sets.seed)
    notes += note
    if hasattr(router, "on_progress"):
        router.on_progress = lambda report: say(progress_text(options.router, report))
    say(f"fitting {options.router} on {len(train):,} rows")
    started = time.perf_counter()
    with feature_cache(options.cache):
        router.fit(train)
        fit_s = time.perf_counter() - started
        say(f"measuring on {0 if held_out is None else len(held_out):,} held-out rows")
        validation, more = validate(router, held_out)
    training = TrainedOn(
        len(train),
        "outcomes" if isinstance(data, Outcomes) else "preferences",
        paths=options.sets.paths,
        weights=options.sets.weights,
        fingerprint=train.fingerprint(),
        validation_rows=0 if held_out is None else len(held_out),
        fit_s=fit_s,
        trained_at=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        overlap=overlap,
    )
    result = TrainResult(
        options.router, target.uri, tuple(router.models_), validation, training, versions(), notes=(*notes, *more)
    )
    say(f"writing {target.uri}")
    save(router, target, json_safe(result.card()))
    return result


def progress_text(name: str, report: FitProgress) -> str:
    """One line of a router that trains in steps: where it is, its loss, and the loss on held-out rows."""
    parts = [f"{name}: step {report.step} of {report.steps}", f"loss {report.loss:.4f}"]
    if report.validation_loss is not None:
        parts.append(f"held out {report.validation_loss:.4f}")
    return ", ".join(parts)


def check_target(target: Store) -> None:
    """Raises SpecError where the folder holds something that is no router: it would be overwritten."""
    if target.is_local and Path(target.root).is_file():
        raise SpecError(f"--out: {target.uri} is a file; name a folder")
    names = target.list()
    if names and "router.json" not in names:
        raise SpecError(f"--out: {target.uri} is not empty and holds no router; choose another folder")


def hold_out(data: TrainingData, share: float, seed: int) -> tuple[TrainingData, TrainingData | None, list[str]]:
    """(training rows, held-out rows or None, notes); equal prompts are on one side."""
    if not share:
        return data, None, ["no rows held out, so no validation figures"]
    try:
        train, test = split_by_prompt(data, fraction=1 - share, seed=seed)
    except RoutingError:
        return data, None, [f"too few prompts ({len(set(data.prompts))}) to hold any out: no validation figures"]
    return data.select(train), data.select(test), []


def validate(router: Router, held_out: TrainingData | None) -> tuple[Validation | None, list[str]]:
    """(figures of the saved router on the held-out rows, notes); None where nothing was held out or no row is fully known."""
    if held_out is None:
        return None, []
    models = router.models_
    known_models = set(held_out.models)
    if not set(models) <= known_models:
        return None, ["the router's models are classes of the data's, so no validation figures"]
    table = as_outcomes(held_out, models) if isinstance(held_out, Preferences) else held_out.with_models(models)
    table = table.select(table.known())
    if not len(table):
        return None, ["no held-out row knows the quality of every model, so no validation figures"]
    if table.cost_usd is not None and np.isnan(table.cost_usd).any():
        table = replace(table, cost_usd=None)
    price = None if table.cost_usd is None else table.cost_usd.mean(axis=0)
    predicted = predict(router, router.name, table.prompts, models)
    rows = np.arange(len(table))
    trial = Trial(rows, predicted, price)
    return Validation(measure_trials([trial], table, pair=len(models) == 2, n_boot=N_BOOT), len(table)), []


def versions() -> dict[str, str]:
    """Versions of what the router was made with."""
    found = {}
    for name in LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def save(router: Router, target: Store, metrics: Mapping[str, object]) -> None:
    """Write the artifact to a local folder or an object store; the card last, so that a folder with one is whole.

    A local folder is replaced as a whole; on a store the files are written one by one.
    """
    parent = Path(target.root).parent if target.is_local else Path(tempfile.gettempdir())
    try:
        parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=".tmp-router-", dir=parent))
    except OSError as error:
        raise InputError(f"--out: {target.uri}: {error.strerror or error}") from None
    try:
        router.save(made, metrics)
        routers.load(made)  # what cannot be read back is not kept
        if target.is_local:
            _replace_folder(made, Path(target.root))
        else:
            _upload(made, target)
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _replace_folder(made: Path, folder: Path) -> None:
    made.chmod(0o755)
    if folder.exists():
        old = folder.with_name(f".tmp-old-{folder.name}")
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
        made.rename(folder)
        shutil.rmtree(old)
    else:
        made.rename(folder)


def _upload(made: Path, target: Store) -> None:
    names = sorted(path.relative_to(made).as_posix() for path in made.rglob("*") if path.is_file())
    for name in sorted(names, key=lambda name: name == "router.json"):
        target.write(name, (made / name).read_bytes())
    for stale in set(target.list()) - set(names):
        target.delete(stale)


def train_candidate(text: str, settings: Sequence[str]) -> Candidate:
    """`--router` and `--set` of the command line: a name of the registry, hyperparameters from both. Raises SpecError."""
    name, _, rest = text.partition(":")
    routers.router_class(name)
    values = parse_hyperparameters(rest, f"--router {text}") if rest else {}
    for item in settings:
        values |= parse_hyperparameters(item, f"--set {item}")
    return Candidate(text, name, values)
