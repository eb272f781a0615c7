"""Features by the `kind` of their spec; a new kind is a file beside this one and a line below."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from routing.errors import RoutingError
from routing.features.base import Features
from routing.features.hashed import HashedTextFeatures


def make_features(spec: Mapping[str, Any]) -> Features:
    """The features a spec describes: `{"kind": "hashed"}` or `{"kind": "encoder", "source": <hub id or folder>}`.

    Inside `routing.features.cache.feature_cache` they remember the vectors of prompts they have seen.

    Raises RoutingError for an unknown kind or argument.
    """
    from routing.features.cache import cached
    from routing.features.encoder import SentenceEncoder  # these two build Features, so they import this module

    kinds: dict[str, type[Features]] = {"hashed": HashedTextFeatures, "encoder": SentenceEncoder}
    arguments = dict(spec)
    kind = arguments.pop("kind", None)
    if kind not in kinds:
        raise RoutingError(f"features: unknown kind {kind!r}; known are {', '.join(kinds)}")
    try:
        return cached(kinds[kind](**arguments))
    except TypeError as error:
        raise RoutingError(f"features of kind {kind!r}: {error}") from None
