"""Routers: maps from a prompt to every model's expected quality, each a class with `fit`, `predict`, `save` and `load`.

Public: `Router` (base), `create`, `load`, `names`, `router_class` (registry), re-exported here since importing this package
is what fills the registry. `baselines` learn next to nothing, `text` learn on vectors of words and form, `neural` are
transformers, `calibrated` put a head on any of them, `auto` chooses. A new one is a file, a line below, and a row in its
tests. Nothing here may import `answers`, `pilot`, or anything of jobs.
"""

from __future__ import annotations

from routing.routers.auto import AutoRouter
from routing.routers.base import Router
from routing.routers.baselines.always import AlwaysRouter
from routing.routers.baselines.category import CategoryRouter
from routing.routers.baselines.length import LengthRouter
from routing.routers.baselines.random import RandomRouter
from routing.routers.calibrated.calibrated import CalibratedRouter
from routing.routers.neural.bert import BertRouter
from routing.routers.neural.causal import CausalRouter
from routing.routers.registry import ALIASES, ROUTERS, create, load, names, register, router_class
from routing.routers.text.factorization import FactorizationRouter
from routing.routers.text.forest import ForestRouter
from routing.routers.text.gp import GaussianProcessRouter
from routing.routers.text.knn import KNNRouter
from routing.routers.text.linear import LinearRouter
from routing.routers.text.mlp import MLPRouter
from routing.routers.text.similarity import SimilarityRouter
from routing.routers.text.svm import SVMRouter

__all__ = ["ALIASES", "ROUTERS", "Router", "create", "load", "names", "router_class"]
register(
    [
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
    ]
)
