"""Who may run when, where not all engines fit on the cluster at once; and how long one waits for what nobody of this job holds.

    announced in the order of the ladder → its turn: fits beside those that run → Ray has the room free → runs → the next one's turn

Two checks, since each knows what the other cannot: by our own count, engines of this job never meet half-placed; by a placement
group that is made, waited for and removed again, what others use and what an autoscaler has still to bring is seen. The group is
also what makes an autoscaler move. Time counts against the limit only while nothing of this job holds what is waited for.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from ray.util import placement_group, remove_placement_group

from jobs.errors import LaneDown
from jobs.placement.cluster import Cluster, look
from jobs.placement.fitting import remedy, replicas_that_fit, shortfall, verdict
from jobs.placement.needs import Need

LOOK_S = 0.5
"""Between two looks at whether there is room."""
WATCH_S = 5.0
"""Between two looks at whether lanes that run still have their nodes."""
MENTION_S = 2.0
"""A wait shorter than this is nobody's business."""


class Stopping(Exception):
    """The job is being stopped: nothing is to be started any more."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """One wait, as people see it."""

    what: str
    since_s: float
    """Monotonic."""

    def words(self, now_s: float) -> str:
        """`waits 2:10 for 2 GPUs`; "" while it is too short to mention."""
        waited = now_s - self.since_s
        if waited < MENTION_S:
            return ""
        minutes, seconds = divmod(int(waited), 60)
        return f"waits {minutes}:{seconds:02d} for {self.what}"


def _compete(need: Need, other: Need) -> bool:
    """Whether the one could have room where the other is now."""
    return other.gpus > 0 if need.gpus else other.total("CPU") > 0


class Placement:
    """The cluster, as this job shares it out to its own lanes and stages."""

    def __init__(self, order: Sequence[str], limit_s: float, stopping: threading.Event) -> None:
        """order: who goes first where several could. limit_s: the longest wait for what no lane of this job holds."""
        self.limit_s, self.stopping = limit_s, stopping
        self._order = {name: at for at, name in enumerate(order)}
        self._changed = threading.Condition()
        self._held: dict[str, Need] = {}
        self._announced: dict[str, Need] = {}
        self._waiting: dict[str, Waiting] = {}
        self._running: dict[str, Need] = {}
        self._watched_s = time.monotonic()

    def waiting(self) -> Mapping[str, str]:
        """Who waits for what, and how long already."""
        now_s = time.monotonic()
        with self._changed:
            return {name: words for name, wait in self._waiting.items() if (words := wait.words(now_s))}

    def announce(self, needs: Mapping[str, Need]) -> None:
        """They will want room together: none of them may take it before one that goes first, whichever thread is faster."""
        with self._changed:
            self._announced |= needs

    @contextmanager
    def held(self, name: str, need: Need | None, on_wait: Callable[[], None] = lambda: None) -> Iterator[None]:
        """Inside there was room for it, and no other lane of the job takes that. `on_wait` is called every LOOK_S until then.

        Raises LaneDown where the cluster can never have the room, or has none within the limit; Stopping.
        """
        if need is None:
            yield
            return
        try:
            self._take_turn(name, need, on_wait)
            self._await_room(name, need, on_wait)
            with self._changed:
                self._waiting.pop(name, None)
                self._running[name] = need
            yield
        finally:
            with self._changed:
                for register in (self._held, self._announced, self._waiting, self._running):
                    register.pop(name, None)
                self._changed.notify_all()

    def given_up(self) -> dict[str, str]:
        """Lanes that ran and whose nodes have been gone for longer than the limit → why. Each is told once, and holds nothing from
        then on; Ray itself would wait for such nodes for ever. Looks every WATCH_S."""
        now_s = time.monotonic()
        if not self._running or now_s - self._watched_s < WATCH_S:
            return {}
        self._watched_s, cluster, found = now_s, look(), {}
        with self._changed:
            for name, need in list(self._running.items()):
                if replicas_that_fit(need, cluster.nodes):
                    self._waiting.pop(name, None)
                    continue
                wait = self._waiting.setdefault(name, Waiting(need.words(), now_s))
                if now_s - wait.since_s >= self.limit_s:
                    found[name] = self._too_long(need, now_s - wait.since_s)
            for name in found:
                for register in (self._held, self._waiting, self._running):
                    register.pop(name, None)
            self._changed.notify_all()
        return found

    def _take_turn(self, name: str, need: Need, on_wait: Callable[[], None]) -> None:
        """Until it fits beside the others that run."""
        cluster = look()
        since_s = time.monotonic()
        while True:
            on_wait()
            if self.stopping.is_set():
                raise Stopping
            with self._changed:
                self._announced.setdefault(name, need)
                if self._fits(need, cluster) and not self._is_behind(name, cluster):
                    self._held[name] = self._announced.pop(name)
                    return
                self._waiting[name] = Waiting(f"the {need.words()} of {' and '.join(self._held) or 'others'}", since_s)
                self._changed.wait(LOOK_S)
            cluster = look()

    def _fits(self, need: Need, cluster: Cluster) -> bool:
        """Beside those that run; where none does, always: whether there is room at all is Ray's to say."""
        if not self._held:
            return True
        nodes = cluster.most or cluster.nodes
        alone = replicas_that_fit(need, nodes)
        return 0 < alone <= replicas_that_fit(need, nodes, self._held.values())

    def _is_behind(self, name: str, cluster: Cluster) -> bool:
        """One that goes first wants room as well, and has not taken it yet though it could."""
        mine = self._order.get(name, len(self._order))
        return any(
            self._order.get(other, len(self._order)) < mine and self._fits(need, cluster)
            for other, need in self._announced.items()
        )

    def _await_room(self, name: str, need: Need, on_wait: Callable[[], None]) -> None:
        """Until Ray has a replica's room free."""
        cluster = look()
        if verdict(need, cluster) == "never":
            raise LaneDown(f"{shortfall(need, cluster)}; {remedy(need, cluster)}")
        wanted = need.bundles if need.one_node else (*need.bundles, *need.beside)
        strategy = "STRICT_PACK" if need.one_node else "PACK"
        group = placement_group([dict(each) for each in wanted], strategy=strategy)
        since_s = start_s = time.monotonic()
        try:
            while not group.wait(LOOK_S):
                on_wait()
                if self.stopping.is_set():
                    raise Stopping
                with self._changed:
                    self._waiting[name] = Waiting(need.words(), since_s)
                    ours = any(_compete(need, other) for who, other in self._held.items() if who != name)
                if ours:  # what the job's other engines hold may be what is missing
                    start_s = time.monotonic()
                elif time.monotonic() - start_s >= self.limit_s:
                    raise LaneDown(self._too_long(need, time.monotonic() - since_s))
        finally:
            remove_placement_group(group)

    def _too_long(self, need: Need, waited_s: float) -> str:
        cluster = look()
        why = (
            shortfall(need, cluster)
            or f"the cluster has {cluster.has('GPU' if need.gpus else 'CPU'):g}, in use by others"
        )
        return (
            f"waited {waited_s:.0f} s for {need.words()} ({why}); free or add nodes and run again, {remedy(need, cluster)},"
            " or raise placement_timeout_s"
        )
