"""Registry of routers: a new one is a file here, a line below, and a row in its tests."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from routing.errors import RoutingError
from routing.routers.always import AlwaysRouter
from routing.routers.auto import AutoRouter
from routing.routers.base import Router, read_card
from routing.routers.bert import BertRouter
from routing.routers.calibrated import CalibratedRouter
from routing.routers.category import CategoryRouter
from routing.routers.causal import CausalRouter
from routing.routers.factorization import FactorizationRouter
from routing.routers.forest import ForestRouter
from routing.routers.gp import GaussianProcessRouter
from routing.routers.knn import KNNRouter
from routing.routers.length import LengthRouter
from routing.routers.linear import LinearRouter
from routing.routers.mlp import MLPRouter
from routing.routers.random import RandomRouter
from routing.routers.similarity import SimilarityRouter
from routing.routers.svm import SVMRouter

_CLASSES: tuple[type[Router], ...] = (
    RandomRouter,
    AlwaysRouter,
    LengthRouter,
    CategoryRouter,
    KNNRouter,
    LinearRouter,
    GaussianProcessRouter,
    ForestRouter,
    AutoRouter,
    MLPRouter,
    SVMRouter,
    CalibratedRouter,
    SimilarityRouter,
    FactorizationRouter,
    BertRouter,
    CausalRouter,
)
ROUTERS: dict[str, type[Router]] = {cls.name: cls for cls in _CLASSES}
"""Class by registry name."""
ALIASES = {"sw": "similarity", "matrix_factorization": "mf"}
"""Other names accepted: the ones RouteLLM's papers and tables use."""

__all__ = ["ROUTERS", "Router", "create", "load", "names", "router_class"]


def names(needs_training: bool | None = None) -> tuple[str, ...]:
    """Registry names; `needs_training=False` for those a job can name without an artifact."""
    return tuple(name for name, cls in ROUTERS.items() if needs_training in (None, cls.needs_training))


def router_class(name: str) -> type[Router]:
    """The class of a name. Raises RoutingError for an unknown one."""
    name = ALIASES.get(name, name)
    if name not in ROUTERS:
        raise RoutingError(
            f"router {name!r}: not a router's name; known are {', '.join(ROUTERS)}, and the directory of a trained"
            " router (one with router.json) is also accepted"
        )
    return ROUTERS[name]


def create(name: str, **hyperparameters: Any) -> Router:
    """A new router: `create("linear", seed=1)`; `create("random", models=("weak", "strong"))` is ready to predict.

    Raises RoutingError for an unknown name or hyperparameter.
    """
    cls = router_class(name)
    try:
        return cls(**hyperparameters)
    except TypeError as error:
        raise RoutingError(f"router {name!r}: {error}") from None


def load(directory: str | Path) -> Router:
    """The fitted router in an artifact directory, of any class. Raises RoutingError where missing or damaged."""
    return router_class(read_card(directory)["router"]).load(directory)
