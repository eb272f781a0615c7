"""How long the engines of one lane have held their GPUs, each for itself, from the moment its process began.

An engine notes its start in Ray's own store, where the lane's writer, on whatever node, finds it: an engine that has loaded but
not answered yet costs GPU time too, and one that still waits for a GPU costs none. Cost: one look a block, about a millisecond.
"""

from __future__ import annotations

import json
import secrets
import time
from dataclasses import dataclass, field

import ray
from ray.experimental import internal_kv

NAMESPACE = b"headgate"


@dataclass(frozen=True)
class GpuClock:
    """Made by the driver for one start of a lane; travels to its engines and its writer."""

    gpus: float
    """Of one engine; 0 where nobody pays by the hour."""
    name: str = field(default_factory=lambda: secrets.token_hex(8))

    def begin(self) -> None:
        """This process is an engine, and holds its GPU from now on. Told again by each process that takes a dead one's place."""
        if not self.gpus:
            return
        engine = ray.get_runtime_context().get_actor_id() or secrets.token_hex(8)
        internal_kv._internal_kv_put(f"{self._engines}{engine}", repr(time.time()), namespace=NAMESPACE)

    def begun(self) -> dict[str, float]:
        """Engine → when its process began, seconds since the epoch."""
        keys = internal_kv._internal_kv_list(self._engines, namespace=NAMESPACE)
        values = {key: internal_kv._internal_kv_get(key, namespace=NAMESPACE) for key in keys}
        return {key.decode(): float(value) for key, value in values.items() if value}

    def take_s(self) -> float:
        """GPU seconds since the last call, whichever process of the writer made that."""
        if not self.gpus:
            return 0.0
        taken = f"{self._root}taken"
        now_s, held_s = time.time(), 0.0
        until_s: dict[str, float] = json.loads(internal_kv._internal_kv_get(taken, namespace=NAMESPACE) or b"{}")
        for engine, begun_s in self.begun().items():
            since_s = max(begun_s, until_s.get(engine, begun_s))
            held_s += max(0.0, now_s - since_s)
            until_s[engine] = max(now_s, since_s)
        internal_kv._internal_kv_put(taken, json.dumps(until_s), namespace=NAMESPACE)
        return held_s * self.gpus

    def forget(self) -> None:
        """The lane is through."""
        if self.gpus:
            internal_kv._internal_kv_del(self._root, del_by_prefix=True, namespace=NAMESPACE)

    @property
    def _root(self) -> str:
        return f"gpu-clock/{self.name}/"

    @property
    def _engines(self) -> str:
        return f"{self._root}engines/"
