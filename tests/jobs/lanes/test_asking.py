"""Waves of lanes: what a lane's end becomes where it concerns the lane, and where it concerns the run."""

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from jobs.errors import LaneDown, StorageDown
from jobs.placement.turns import Placement
from jobs.route.answer.waves import Asking
from jobs.spec.loader import parse_spec
from jobs.storage.store import Store

JOB: dict[str, Any] = {
    "input": {"path": "in", "prompt": "q"},
    "output": "out",
    "router": "random",
    "models": {
        name: {
            "engine": "openai",
            "base_url": "http://127.0.0.1:1/v1",
            "price": {"per_million": {"input": 1, "output": 1}},
        }
        for name in ("weak", "strong")
    },
    "weak": "weak",
    "strong": "strong",
    "policy": {"strong_share": 0.5},
    "max_usd": 1.0,
}


class Told:
    """What the job is told of a lane that breaks down; raises `then` where there is one."""

    def __init__(self, then: Exception | None = None) -> None:
        self.lanes: list[tuple[str, str]] = []
        self.then = then

    def __call__(self, name: str, reason: str) -> None:
        self.lanes.append((name, reason))
        if self.then:
            raise self.then


def asking(told: Told, tmp_path: Any) -> Asking:
    spec = parse_spec(JOB)
    contexts: Any = {name: SimpleNamespace(model=spec.models[name]) for name in spec.names}
    return Asking(
        spec,
        Store(str(tmp_path)),
        [],
        contexts,
        on_progress=lambda done: None,
        placement=Placement(spec.payees, 5.0, threading.Event()),
        on_stop=lambda: None,
        on_lane_down=told,
    )


def fails(error: Exception) -> Any:
    def make() -> Any:
        raise error

    return make


def test_a_lane_that_breaks_down_is_told_and_the_others_go_on(ray_local: None, tmp_path: Any) -> None:
    told = Told()
    waves = asking(told, tmp_path)
    waves.wait(waves._start({"weak": fails(RuntimeError("a long\nstory")), "strong": fails(LaneDown("no answer"))}))
    assert sorted(told.lanes) == [("strong", "no answer"), ("weak", "its engine ended: RuntimeError: a long story")]


def test_storage_that_fails_is_the_whole_runs_end(ray_local: None, tmp_path: Any) -> None:
    waves = asking(Told(), tmp_path)
    with pytest.raises(StorageDown, match="gone"):
        waves.wait(waves._start({"weak": fails(StorageDown("gone"))}))


def test_nobody_to_tell_is_the_whole_runs_end_and_no_traceback(
    ray_local: None, tmp_path: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    """The governor has died: the lanes end of it, and it cannot be told so."""
    waves = asking(Told(then=LaneDown("the governor ended")), tmp_path)
    with pytest.raises(LaneDown, match="the governor ended"):
        waves.wait(waves._start({"weak": fails(LaneDown("no leave"))}))
    assert "Traceback" not in capfd.readouterr().err
