"""Lanes of one job take turns on a Ray with pretended GPUs; what others hold is waited for within a limit, and said."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import ray
from ray.experimental import internal_kv

from jobs.errors import LaneDown
from jobs.placement import turns
from jobs.placement.cluster import STATUS, Cluster, look
from jobs.placement.fitting import replicas_that_fit, replicas_to_start, shortfall
from jobs.placement.needs import Need, bundle
from jobs.placement.turns import Placement, Stopping, Waiting
from tests import local_ray

GPUS = 2


@pytest.fixture(scope="module")
def two_gpus() -> Iterator[None]:
    ray.shutdown()
    ray.init(**local_ray.OPTIONS, num_gpus=GPUS)
    yield
    ray.shutdown()


def need(who: str, gpus: float = 1, workers: int = 1, replicas: int = 1) -> Need:
    return Need(who, (bundle(0.5, gpus),) * workers, replicas, fix=f"lower models.{who}.gpus")


def placement(limit_s: float = 30.0) -> Placement:
    return Placement(("weak", "mid", "strong"), limit_s, threading.Event())


@ray.remote(num_cpus=0)
class Holder:
    """Somebody else's."""


@contextmanager
def held_elsewhere(gpus: float) -> Iterator[None]:
    holder = Holder.options(num_gpus=gpus).remote()
    ray.get(holder.__ray_ready__.remote())
    try:
        yield
    finally:
        ray.kill(holder)


class Lanes:
    """Each lane holds what it needs for a moment, in a thread; who was inside when is kept."""

    def __init__(self, place: Placement, needs: list[Need]) -> None:
        self.place, self.inside, self.order = place, set(), []
        self.together: list[set[str]] = []
        self.errors: dict[str, Exception] = {}
        place.announce({each.who: each for each in needs})
        # The dearest first: whose thread is faster must not decide.
        self.threads = [threading.Thread(target=self._run, args=(each,)) for each in reversed(needs)]
        for thread in self.threads:
            thread.start()

    def _run(self, each: Need) -> None:
        try:
            with self.place.held(each.who, each):
                self.order.append(each.who)
                self.inside.add(each.who)
                time.sleep(0.7)
                self.together.append(set(self.inside))
                self.inside.remove(each.who)
        except (LaneDown, Stopping) as error:
            self.errors[each.who] = error

    def join(self) -> Lanes:
        for thread in self.threads:
            thread.join(60)
        return self


def test_what_fits_together_runs_together_and_the_weak_one_goes_first(two_gpus: None) -> None:
    lanes = Lanes(placement(), [need("weak", workers=2), need("mid"), need("strong")]).join()
    assert not lanes.errors
    assert lanes.order[0] == "weak" and {"weak"} in lanes.together
    assert {"mid", "strong"} in lanes.together
    assert not any({"weak", other} <= inside for inside in lanes.together for other in ("mid", "strong"))


def test_replicas_are_not_placed_by_halves(two_gpus: None) -> None:
    lanes = Lanes(placement(), [need("weak", replicas=2), need("strong", replicas=2)]).join()
    assert not lanes.errors and lanes.order == ["weak", "strong"]
    assert all(len(inside) == 1 for inside in lanes.together)


def test_more_replicas_than_the_cluster_has_room_for_start_all_the_same(two_gpus: None) -> None:
    lanes = Lanes(placement(), [need("weak", replicas=5)]).join()
    assert lanes.order == ["weak"]


def test_fractions_share_a_gpu(two_gpus: None) -> None:
    lanes = Lanes(placement(), [need("weak", 0.5, replicas=2), need("mid", 0.5, replicas=2)]).join()
    assert {"weak", "mid"} in lanes.together


def test_what_can_never_be_is_said_at_once(two_gpus: None) -> None:
    started = time.monotonic()
    with (
        pytest.raises(LaneDown, match=r"needs 4 GPUs, the cluster has 2 \(and cannot grow\); lower models.weak.gpus"),
        placement().held("weak", need("weak", workers=4)),
    ):
        pass
    assert time.monotonic() - started < 5


def test_a_wait_for_what_others_hold_is_shown_and_ends_when_they_go(two_gpus: None, monkeypatch) -> None:
    monkeypatch.setattr(turns, "MENTION_S", 0.0)
    place, seen = placement(), []
    with held_elsewhere(2):
        lanes = Lanes(place, [need("weak")])
        time.sleep(1.5)
        seen.append(place.waiting().get("weak", ""))
        assert lanes.order == []
    assert lanes.join().order == ["weak"] and not lanes.errors
    assert seen[0].startswith("waits 0:0") and seen[0].endswith("for 1 GPU")
    assert place.waiting() == {}


def test_a_wait_ends_at_the_limit_with_what_is_missing_and_the_fix(two_gpus: None) -> None:
    with held_elsewhere(1):
        lanes = Lanes(placement(limit_s=1.0), [need("weak", workers=2)]).join()
    assert str(lanes.errors["weak"]).startswith(
        "waited 1 s for 2 GPUs (the cluster has 2, in use by others); free or add nodes"
    )
    assert str(lanes.errors["weak"]).endswith("or raise placement_timeout_s")
    # Nothing of it is left: the next one has the room.
    assert Lanes(placement(), [need("weak", workers=2)]).join().order == ["weak"]


def test_waiting_for_ones_own_engines_does_not_count_against_the_limit(two_gpus: None) -> None:
    lanes = Lanes(
        placement(limit_s=0.2), [need("weak", workers=2), need("mid", workers=2), need("strong", workers=2)]
    ).join()
    assert not lanes.errors and lanes.order == ["weak", "mid", "strong"]


def test_a_job_that_stops_waits_no_longer(two_gpus: None) -> None:
    place = placement()
    with held_elsewhere(2):
        lanes = Lanes(place, [need("weak"), need("strong", workers=2)])
        time.sleep(0.5)
        place.stopping.set()
        lanes.join()
    assert {name: type(error) for name, error in lanes.errors.items()} == {"weak": Stopping, "strong": Stopping}


def test_a_lane_that_needs_nothing_starts_at_once(two_gpus: None) -> None:
    place = placement()
    with held_elsewhere(2), place.held("api", None):
        assert place.waiting() == {}


def test_a_cluster_without_an_autoscaler_cannot_grow(two_gpus: None) -> None:
    deadline = time.monotonic() + 30
    while b"autoscaler_report" not in (internal_kv._internal_kv_get(STATUS) or b""):  # Ray's monitor looks every 5 s
        assert time.monotonic() < deadline
        time.sleep(0.5)
    found = look()
    assert (found.has("GPU"), found.can_have("GPU"), found.grows) == (2, 2, False)


def test_a_lane_whose_node_is_gone_is_given_up_after_the_limit(two_gpus: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "WATCH_S", 0.0)
    monkeypatch.setattr(turns, "MENTION_S", 0.0)
    place = placement(limit_s=60.0)
    with place.held("weak", need("weak")):
        place.limit_s = 0.6  # a busy machine takes its time to make room
        assert place.given_up() == {} and place.waiting() == {}
        monkeypatch.setattr(turns, "look", lambda: Cluster(({"CPU": 8.0},)))
        assert place.given_up() == {} and place.waiting() == {"weak": "waits 0:00 for 1 GPU"}
        monkeypatch.undo()
        monkeypatch.setattr(turns, "WATCH_S", 0.0)
        assert place.given_up() == {} and place.waiting() == {}, "it came back"
        monkeypatch.setattr(turns, "look", lambda: Cluster(({"CPU": 8.0},)))
        place.given_up()
        time.sleep(0.7)
        assert place.given_up()["weak"].startswith(
            "waited 1 s for 1 GPU (needs 1 GPU, the cluster has 0 (and cannot grow)); free"
        )
        assert place.given_up() == {}


def test_what_runs_beside_the_engines_has_its_cpus(two_gpus: None) -> None:
    """Eight logical CPUs here: nine engines of a CPU each would leave none for who feeds them."""
    engines = Need("weak", ({"CPU": 1.0},), 9, beside_cpus=1.5)
    assert replicas_that_fit(engines, look().nodes) == 6
    assert replicas_to_start(engines, look()) == 5, "and lanes that call an API have theirs"
    assert (
        shortfall(Need("weak", ({"CPU": 7.0},), beside_cpus=1.5), look())
        == "needs 8.5 CPUs, the cluster has 8 (and cannot grow)"
    )


def test_words() -> None:
    assert Waiting("2 GPUs", 10).words(141) == "waits 2:11 for 2 GPUs"
    assert Waiting("2 GPUs", 10).words(11) == ""
    assert isinstance(Cluster(()).accelerators(), list)
