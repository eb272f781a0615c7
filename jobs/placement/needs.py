"""What one engine, or one scorer, asks of Ray."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

Resources = Mapping[str, float]
"""Ray's names → amounts: GPU, CPU, accelerator_type:L4, …"""
ACCELERATOR = "accelerator_type:"
A_LITTLE = 0.001
"""Of `accelerator_type:…`: enough to be placed on such a node, little enough for any number of engines there."""


@dataclass(frozen=True, slots=True)
class Need:
    """What is asked for at a time, by whom, and how often."""

    who: str
    """The model's name, or `router`."""
    bundles: tuple[Resources, ...]
    """Of one replica. Each is on one node; together they are placed whole or not at all."""
    replicas: int = 1
    one_node: bool = False
    """All bundles of a replica are on the same node."""
    beside_cpus: float = 0.0
    """What runs beside all its replicas: without room for it they would wait for one another for ever."""
    fix: str = ""
    """What to change in the job file."""

    @property
    def beside(self) -> tuple[Resources, ...]:
        """`beside_cpus` in bundles of a CPU at most: they may be on any nodes."""
        n = math.ceil(self.beside_cpus)
        return tuple({"CPU": self.beside_cpus / n} for _ in range(n))

    def total(self, resource: str) -> float:
        """Of one replica."""
        return sum(bundle.get(resource, 0.0) for bundle in self.bundles)

    @property
    def gpus(self) -> float:
        """Of one replica."""
        return self.total("GPU")

    @property
    def accelerator(self) -> str:
        """The type of GPU that it wants; "" for any."""
        names = (name for bundle in self.bundles for name in bundle if name.startswith(ACCELERATOR))
        return next(names, "").removeprefix(ACCELERATOR)

    def words(self) -> str:
        """`2 GPUs of type L4`; the CPUs where it wants no GPU."""
        if not self.gpus:
            return amount(self.total("CPU") + self.beside_cpus, "CPU")
        return amount(self.gpus, "GPU") + (f" of type {self.accelerator}" if self.accelerator else "")


def amount(number: float, name: str) -> str:
    """`1 GPU`, `0.5 GPU`, `2 GPUs`."""
    return f"{number:g} {name}{'s' if number > 1 else ''}"


def bundle(cpus: float, gpus: float, accelerator: str | None = None) -> dict[str, float]:
    """One bundle, without what it does not ask for."""
    wanted = {"CPU": float(cpus), "GPU": float(gpus)} | (
        {f"{ACCELERATOR}{accelerator}": A_LITTLE} if accelerator else {}
    )
    return {name: number for name, number in wanted.items() if number}
