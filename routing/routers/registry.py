"""Routers by name: what a job file's `router:`, a card and the command line call them.

`routing.routers` registers the classes. This file knows none of them, so that those which make others by name (auto,
calibrated) can use it.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from routing.errors import RoutingError
from routing.routers.base import Router, read_card

ROUTERS: dict[str, type[Router]] = {}
"""Class by registry name, in the order in which names are listed to users."""
ALIASES = {"sw": "similarity", "matrix_factorization": "mf"}
"""Other names accepted: the ones RouteLLM's papers and tables use."""


def register(classes: Iterable[type[Router]]) -> None:
    """Make classes known by their `name`."""
    ROUTERS.update({cls.name: cls for cls in classes})


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
