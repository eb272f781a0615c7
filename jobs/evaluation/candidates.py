"""The routers an evaluation compares: names of the registry, `auto`, artifacts, and the baselines that are always shown.

`knn:k=20,features={kind: encoder}` sets hyperparameters (YAML flow style with `=`).
"""

from __future__ import annotations

import inspect
import json
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import yaml
from numpy.typing import NDArray

from jobs.errors import SpecError
from jobs.storage.store import Store
from routing import routers
from routing.data.training_data import TrainingData
from routing.routers.base import Router
from routing.routers.neural.training import Progress


@dataclass(frozen=True, slots=True)
class Candidate:
    """One row of the table."""

    label: str
    """What the user wrote."""
    name: str = ""
    """Registry name; "" for an artifact."""
    hyperparameters: Mapping[str, object] = field(default_factory=dict)
    artifact: Router | None = None
    trained_on: tuple[str, ...] = ()
    """URIs of the sets an artifact was trained on, as its card names them."""

    def fitted(self, train: TrainingData | None, seed: int, on_progress: Progress | None = None) -> Router:
        """A router trained on `train` (Outcomes or Preferences), its own random choices by `seed`; the artifact as it is."""
        if self.artifact is not None:
            return self.artifact
        assert train is not None  # only artifacts have folds without training rows
        router = make_router(self.name, self.hyperparameters, seed)
        if on_progress is not None and hasattr(router, "on_progress"):
            router.on_progress = on_progress
        return router.fit(train)

    def unfitted(self, seed: int) -> Router:
        """The router as it is made: for those that need no training."""
        return make_router(self.name, self.hyperparameters, seed)

    @property
    def varies(self) -> bool:
        """Whether a seed changes it, the training rows being equal."""
        return self.artifact is None and "seed" in _arguments(self.name) and "seed" not in self.hyperparameters


def make_router(name: str, hyperparameters: Mapping[str, object], seed: int) -> Router:
    """An unfitted router; `seed` is passed on where the class takes one and the user named none. Raises RoutingError."""
    arguments = dict(hyperparameters)
    if "seed" in _arguments(name):
        arguments.setdefault("seed", seed)
    return routers.create(name, **arguments)


def _arguments(name: str) -> Sequence[str]:
    return list(inspect.signature(routers.router_class(name).__init__).parameters)


def parse_candidate(text: str) -> Candidate:
    """A `--router` value. Raises SpecError (or RoutingError) that says what would do."""
    name, _, rest = text.partition(":")
    if name in routers.ROUTERS or name in routers.ALIASES:
        hyperparameters = parse_hyperparameters(rest, text) if rest else {}
        make_router(name, hyperparameters, 0)
        return Candidate(text, name, hyperparameters)
    store = Store(text)
    if store.exists("router.json"):
        return Candidate(text, artifact=load_artifact(store), trained_on=_trained_on(store))
    raise SpecError(
        f"--router {text}: neither a router's name nor the directory of a trained one (no router.json there);"
        f" names are {', '.join(routers.ROUTERS)}"
    )


def _trained_on(store: Store) -> tuple[str, ...]:
    card = json.loads(store.read("router.json"))
    paths = (card.get("metrics") or {}).get("training", {}).get("paths") or []
    return tuple(Store(str(path)).uri for path in paths)


def parse_hyperparameters(text: str, where: str) -> dict[str, object]:
    """`k=20,features={kind: encoder}` as a dict. Raises SpecError."""
    try:
        values = yaml.safe_load("{" + text.replace("=", ": ") + "}")
    except yaml.YAMLError:
        values = None
    if not isinstance(values, dict) or any(v is None and f"{k}=" not in text for k, v in values.items()):
        raise SpecError(f"{where}: write hyperparameters as name=value, several with commas between")
    return {str(key): value for key, value in values.items()}


def load_artifact(store: Store) -> Router:
    """The router in an artifact directory on any storage. Raises RoutingError, StoreError."""
    if store.is_local:
        return routers.load(store.root)
    folder = Path(tempfile.mkdtemp(prefix="headgate-router-"))
    try:
        for name in store.list():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(store.read(name))
        return routers.load(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def predict(router: Router, label: str, prompts: Sequence[str], models: Sequence[str]) -> NDArray[np.float32]:
    """(k, m) predictions, columns in the order of `models` of the table.

    A router that knows other names is taken by its order where both know two models (weak, strong): a pairwise router transfers
    to other pairs. Raises SpecError where the models cannot be told.
    """
    columns = router_columns(router.models_, models, label)
    # Equal prompts are asked once: tables repeat them, and an encoder's forward pass is what costs.
    place: dict[str, int] = {}
    at = [place.setdefault(prompt, len(place)) for prompt in prompts]
    return np.asarray(router.predict(list(place)), np.float32)[at][:, columns]


def router_columns(known: Sequence[str], models: Sequence[str], label: str) -> list[int]:
    """Which of the router's models each model of the table is."""
    columns = []
    for model in models:
        same = [j for j, name in enumerate(known) if name == model]
        same = same or [j for j, name in enumerate(known) if model.endswith("/" + name) or name.endswith("/" + model)]
        columns.append(same[0] if len(same) == 1 else -1)
    if -1 not in columns:
        return columns
    if len(models) == len(known) == 2 and columns == [-1, -1]:
        return [0, 1]
    missing = ", ".join(model for model, column in zip(models, columns, strict=True) if column < 0)
    raise SpecError(f"--router {label}: it knows {', '.join(known)}, not {missing}")
