"""Engines. A new one is a file in this folder and a line in `_LANES`."""

from __future__ import annotations

import importlib

from jobs.errors import SpecError
from jobs.lanes.base import Lane

_LANES = {
    "openai": "jobs.lanes.openai.lane:OpenAILane",
    "openai_batch": "jobs.lanes.openai_batch.lane:OpenAIBatchLane",
    "vllm": "jobs.lanes.local.vllm:VLLMLane",
    "transformers": "jobs.lanes.local.transformers:TransformersLane",
}
"""Engine → where its class is. By name, so that nobody waits for an import of an engine that is not used."""


def lane_of(engine: str) -> Lane:
    """The lane of an engine. Raises SpecError where there is none, or where what it needs is not installed."""
    if engine not in _LANES:
        raise SpecError(f"engine {engine!r} is not available; use one of {', '.join(_LANES)}")
    module, _, name = _LANES[engine].partition(":")
    try:
        lane: Lane = getattr(importlib.import_module(module), name)()
    except ModuleNotFoundError as missing:
        raise SpecError(f"engine {engine}: {missing.name} is not installed; install headgate's extra for it") from None
    return lane
