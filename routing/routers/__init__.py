"""Registry of routers: a new one is a file here, a line below, and a row in its tests."""

from __future__ import annotations

from routing.routers import registry
from routing.routers.auto import AutoRouter
from routing.routers.base import Router
from routing.routers.baselines.always import AlwaysRouter
from routing.routers.baselines.category import CategoryRouter
from routing.routers.baselines.length import LengthRouter
from routing.routers.baselines.random import RandomRouter
from routing.routers.calibrated.calibrated import CalibratedRouter
from routing.routers.neural.bert import BertRouter
from routing.routers.neural.causal import CausalRouter
from routing.routers.registry import ALIASES, ROUTERS, create, load, names, router_class
from routing.routers.text.factorization import FactorizationRouter
from routing.routers.text.forest import ForestRouter
from routing.routers.text.gp import GaussianProcessRouter
from routing.routers.text.knn import KNNRouter
from routing.routers.text.linear import LinearRouter
from routing.routers.text.mlp import MLPRouter
from routing.routers.text.similarity import SimilarityRouter
from routing.routers.text.svm import SVMRouter

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
__all__ = ["ALIASES", "ROUTERS", "Router", "create", "load", "names", "router_class"]
registry.ROUTERS.update({cls.name: cls for cls in _CLASSES})
