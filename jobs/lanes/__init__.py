"""Engines: what asks a model's rows, a folder a family. Public: `lane_of`, and `base`, which every lane implements.

A new engine is a lane (jobs.lanes.base.Lane: a class with `check` and `answer`) and its `EngineTraits` (jobs.spec.engines). In
this repository the traits are one line in `BUILT_IN`. In a package of its own nothing here changes:

    [project.entry-points."headgate.engines"]        # pyproject.toml
    toy = "toy_engine:TRAITS"

    TRAITS = EngineTraits("toy", lane="toy_engine.lane:ToyLane", runs="here")        # toy_engine/__init__.py

`tests/toy_engine` is such a package, whole. A lane settles every row through a JournalWriter. It must not import jobs.route, nor
another engine's folder.
"""

from __future__ import annotations

import importlib

from jobs.errors import SpecError
from jobs.lanes.base import Lane
from jobs.spec.engines import BUILT_IN, traits_of


def lane_of(engine: str) -> Lane:
    """The lane of an engine. Raises SpecError where there is none, or where what it needs is not installed.

    Imported here and not before, so that nobody waits for an engine that is not used.
    """
    module, _, name = traits_of(engine).lane.partition(":")
    try:
        lane: Lane = getattr(importlib.import_module(module), name)()
    except ModuleNotFoundError as missing:
        fix = "install headgate's extra for it" if engine in BUILT_IN else "install what the engine's package needs"
        raise SpecError(f"engine {engine}: {missing.name} is not installed; {fix}") from None
    return lane
