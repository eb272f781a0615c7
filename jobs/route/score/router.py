"""The job's router: loaded from any storage, its models matched with the job's, and a hash by which a run knows it again."""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jobs.errors import SpecError, StoreError
from jobs.placement.lent import lent_device
from jobs.spec.job import UNTRAINED_ROUTERS, JobSpec
from jobs.storage.store import Store
from routing import routers
from routing.errors import RoutingError
from routing.features.device import use_device
from routing.routers.base import Router, read_card


def load_router(spec: JobSpec) -> Router:
    """The job's router: an artifact directory (any storage) or one that needs no training. Raises RoutingError."""
    if spec.router in UNTRAINED_ROUTERS:
        return routers.create(spec.router, models=spec.names)
    return load_artifact(spec.router)


def load_artifact(uri: str) -> Router:
    """The router in an artifact directory on any storage. Raises RoutingError."""
    use_device(lent_device("the router").name)
    source = Store(uri)
    folder = Path(source.root)
    if not source.is_local:
        folder = Path(tempfile.mkdtemp(prefix="headgate-router-"))
        for name in source.list():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(source.read(name))
    try:
        return routers.load(folder)
    finally:
        if not source.is_local:
            shutil.rmtree(folder, ignore_errors=True)


def router_columns(router: Router, spec: JobSpec) -> list[int]:
    """Which column of the router's prediction belongs to each model of the job, in ladder order.

    Names are the job's aliases, the provider's names, or what `router_models:` maps them to; a pair of models of other names is
    taken in its order (weak, strong), since a pairwise router transfers to other pairs. Raises RoutingError otherwise.
    """
    known = {name: i for i, name in enumerate(router.models_)}
    # A slip in a mapping must not fall back to another name, or to the order of a pair.
    for alias, name in spec.router_models.items():
        if alias not in spec.names or name not in known:
            raise RoutingError(
                f"router_models: {alias!r} is mapped to {name!r}; the job's models are {', '.join(spec.names)}, those of"
                f" {spec.router} are {', '.join(router.models_)}"
            )
    columns = []
    for alias in spec.names:
        model = spec.models[alias]
        choices = [spec.router_models.get(alias), alias, model.model, model.source]
        columns.append(next((known[c] for c in choices if c in known), -1))
    if -1 not in columns:
        return columns
    if len(spec.names) == len(router.models_) == 2 and columns == [-1, -1]:
        return [0, 1]
    missing = ", ".join(alias for alias, column in zip(spec.names, columns, strict=True) if column < 0)
    raise RoutingError(
        f"router: {spec.router} knows {', '.join(router.models_)}, not {missing}; map the names under router_models:"
    )


NETWORKS = ("bert", "causal")
"""Routers that are one; others may see prompts through a sentence encoder."""


def has_network(spec: JobSpec) -> bool:
    """Whether a neural network is in the router, or in one that it is made of, so that a GPU would be of use."""
    if spec.router in UNTRAINED_ROUTERS:
        return False
    store = Store(spec.router)
    cards = [name for name in store.list() if Path(name).name == "router.json"]
    return any(_is_network(json.loads(store.read(name))) for name in cards)


def _is_network(card: Mapping[str, Any]) -> bool:
    if card["router"] == "auto":  # what it could have chosen; what it chose has a card of its own
        return False
    features = (card["hyperparameters"].get(name) for name in ("features", "encoder"))
    return card["router"] in NETWORKS or any(
        isinstance(each, Mapping) and each.get("kind") == "encoder" for each in features
    )


def router_card(spec: JobSpec) -> dict[str, Any]:
    """`router.json` of a router on disk; empty for one that needs no training, is elsewhere, or is no longer there."""
    if spec.router in UNTRAINED_ROUTERS or not (Path(spec.router) / "router.json").is_file():
        return {}
    return read_card(spec.router)


def router_fingerprint(spec: JobSpec) -> str:
    """Hash of the artifact's files, or the name of a router that needs no training. Raises SpecError where there is none."""
    if spec.router in UNTRAINED_ROUTERS:
        return spec.router
    try:
        store = Store(spec.router)
        if not store.exists("router.json"):
            names = ", ".join(UNTRAINED_ROUTERS)
            raise SpecError(
                f"router: {spec.router} is neither an artifact directory (no router.json there) nor one of: {names}; "
                "the README says how to train one"
            )
        digest = hashlib.blake2b(digest_size=16)
        for name in store.list():
            digest.update(name.encode() + hashlib.sha256(store.read(name)).digest())
    except StoreError as error:
        raise SpecError(f"router: {error}") from None
    return digest.hexdigest()
