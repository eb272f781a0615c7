"""What the rest of the job has to know of an engine, so that it asks for a trait and never for a name.

Four engines are built in. A package of its own adds one through an entry point of the group `headgate.engines` that loads an
`EngineTraits`; it has to be installed wherever headgate is, on the driver and on the nodes. The module that holds the traits is
imported when a job file is read, before Ray: the lane's class, which needs Ray, stands in another one and is named by text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from typing import Literal

from jobs.errors import SpecError
from jobs.spec.engine_kwargs import TRANSFORMERS, VLLM

GROUP = "headgate.engines"


@dataclass(frozen=True, slots=True)
class EngineTraits:
    """One engine, as planning, paying and asking see it."""

    name: str
    """What a job file says under `engine:`; the entry point's own name too."""
    lane: str
    """`module:Class` of its jobs.lanes.base.Lane, imported where rows are asked."""
    runs: Literal["here", "calls", "batches"]
    """here: inside the job; a model without a price is free, may be priced by the GPU hour, and is always looked at before the run.
    calls: a request a row to an endpoint, dollars reserved one by one. batches: files of rows at a provider's batch rate, done
    within its window and kept on the ledger from one start of the job to the next (jobs.money.reservations)."""
    rows_per_block: int = 512
    """Grain of the lane: of its claims, its commits and its progress."""
    parallel: int = 64
    """runs here: rows that one replica answers side by side, for the guess at hours. Others have `limits.in_flight`."""
    needs_source: bool = False
    """`source` (hub id or folder) must be given; its tokenizer counts prompts before the run."""
    has_service_tiers: bool = False
    """`service_tier` may be given."""
    gives_logprobs: bool = False
    """Fills the journal's mean_logprob and min_logprob where LaneContext.logprobs asks for them."""
    safe_kwargs: frozenset[str] | None = frozenset()
    """`engine_kwargs` that cannot load code; others need --allow-code. None: the engine looks at none of them."""


BUILT_IN: Mapping[str, EngineTraits] = {
    traits.name: traits
    for traits in (
        EngineTraits(
            "vllm", "jobs.lanes.local.vllm:VLLMLane", "here",
            needs_source=True, gives_logprobs=True, safe_kwargs=VLLM,
        ),
        EngineTraits(
            "openai", "jobs.lanes.openai.lane:OpenAILane", "calls",
            rows_per_block=1024, has_service_tiers=True, gives_logprobs=True, safe_kwargs=None,
        ),
        EngineTraits(
            "openai_batch", "jobs.lanes.openai_batch.lane:OpenAIBatchLane", "batches",
            rows_per_block=50_000, safe_kwargs=None,
        ),
        EngineTraits(
            "transformers", "jobs.lanes.local.transformers:TransformersLane", "here",
            rows_per_block=256, needs_source=True, gives_logprobs=True, safe_kwargs=TRANSFORMERS,
        ),
    )
}  # fmt: skip
"""A job file means the same everywhere: no package may take one of these names."""


@cache
def _added() -> dict[str, EntryPoint]:
    """Name → entry point of what is installed, none of it imported yet."""
    return {entry.name: entry for entry in entry_points(group=GROUP) if entry.name not in BUILT_IN}


def engines() -> tuple[str, ...]:
    """Names of all engines: those built in, then those that packages add."""
    return (*BUILT_IN, *sorted(_added()))


@cache
def traits_of(name: str) -> EngineTraits:
    """Raises SpecError where there is no such engine, or where the package that adds it is broken."""
    if name in BUILT_IN:
        return BUILT_IN[name]
    if name not in _added():
        raise SpecError(f"engine {name!r} is not available; use one of {', '.join(engines())}")
    entry = _added()[name]
    try:
        traits = entry.load()
    except Exception as error:  # noqa: BLE001 - somebody else's module: whatever its import raises, the engine is not there
        raise SpecError(f"engine {name}: {entry.value} cannot be loaded ({type(error).__name__}: {error})") from None
    if not isinstance(traits, EngineTraits) or traits.name != name:
        raise SpecError(
            f"engine {name}: {entry.value} must be an EngineTraits of that name; mend the package's entry point"
        )
    return traits
