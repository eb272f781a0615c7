"""The cap holds whatever senders do, grants survive crashes, rates are kept, no dead sender's rows are paid twice."""

from __future__ import annotations

import asyncio
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from jobs.budget import Budget, stranded_usd
from jobs.claims import Claims, KeySet, Sender
from jobs.errors import StoreError
from jobs.governor import Ask, Governor, GovernorService, Report, recover_on_all_nodes
from jobs.journal import Answer, Journal, JournalWriter, Spent
from jobs.rates import RateLimiter
from jobs.spec_models import Limits
from jobs.store import Store

# Dollars --------------------------------------------------------------------------------------------------------------


class Senders(RuleBasedStateMachine):
    """Senders that ask, spend up to what they hold, give back, report late or never, and die, in any order."""

    CAP = 10.0

    def __init__(self) -> None:
        super().__init__()
        self.budget = Budget(
            self.CAP, spent_usd=1.0, lost_usd=0.5, stranded_usd=0.25, caps_usd={"b": 4.0}, used_usd={"b": 1}
        )
        self.held = dict.fromkeys("0123", 0.0)
        self.paid = dict.fromkeys("0123", (0.0, 0.0))
        self.returned = dict.fromkeys("0123", 0.0)
        self.dead: set[str] = set()

    @staticmethod
    def alias(sender: str) -> str:
        return "b" if sender in "01" else "a"

    senders = st.sampled_from("0123")
    dollars = st.floats(0, 3)

    @rule(sender=senders, need=dollars, more=dollars)
    def ask(self, sender: str, need: float, more: float) -> None:
        if sender in self.dead:
            return
        grant = self.budget.grant(self.alias(sender), sender, need, need + more, free_usd=self.held[sender])
        assert grant.usd == 0 or grant.usd >= need - 1e-9
        assert not (grant.exhausted and grant.usd)
        self.held[sender] += grant.usd

    @rule(sender=senders, share=st.floats(0, 1), useful=st.booleans())
    def spend(self, sender: str, share: float, useful: bool) -> None:
        usd = self.held[sender] * share
        self.held[sender] -= usd
        cost, lost = self.paid[sender]
        self.paid[sender] = (cost + usd, lost) if useful else (cost, lost + usd)

    @rule(sender=senders)
    def report(self, sender: str) -> None:
        if sender not in self.dead:
            self.budget.settle(sender, *self.paid[sender])

    @rule(sender=senders)
    def give_back(self, sender: str) -> None:
        if sender in self.dead:
            return
        self.returned[sender] += self.held[sender]
        self.held[sender] = 0.0
        self.budget.settle(sender, *self.paid[sender])
        self.budget.give_back(sender, self.returned[sender])

    @rule(sender=senders)
    @precondition(lambda self: len(self.dead) < 3)
    def die(self, sender: str) -> None:
        self.dead.add(sender)
        self.budget.bury(sender, *self.paid[sender])

    @invariant()
    def the_cap_holds(self) -> None:
        paid = math.fsum(sum(each) for each in self.paid.values())
        assert 1.75 + paid + math.fsum(self.held.values()) <= self.CAP + 1e-9
        state = self.budget.state()
        assert state["spent_usd"] + state["lost_usd"] + state["reserved_usd"] <= self.CAP + 1e-9
        assert 1 + sum(sum(self.paid[s]) + self.held[s] for s in "01") <= 4.0 + 1e-9
        assert all(value >= 0 for value in state.values())


TestSenders = Senders.TestCase
TestSenders.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)


def test_exhausted_means_never() -> None:
    budget = Budget(1.0)
    first = budget.grant("m", "x", 0.6, 0.6).usd
    assert 0.6 <= first <= 0.61
    refused = budget.grant("m", "y", 0.6)
    assert (refused.usd, refused.exhausted) == (0.0, False)
    assert budget.tight("m")
    budget.settle("x", 0.5, 0.0)
    assert not budget.grant("m", "y", 0.45).exhausted
    budget.give_back("x", first - 0.5)
    assert budget.grant("m", "y", 0.51).exhausted
    assert budget.grant("m", "y", 0.5, 5.0).usd == pytest.approx(0.5)
    assert budget.grant("m", "y", 0.01, free_usd=0.5).exhausted


def test_a_models_own_cap_is_exhausted_on_its_own() -> None:
    budget = Budget(10.0, caps_usd={"strong": 1.0})
    budget.grant("weak", "w", 2.0)
    budget.grant("strong", "s", 0.75)
    assert budget.grant("strong", "t", 2.0).exhausted, "what the weak model has out does not help"
    assert not budget.grant("strong", "t", 0.5).exhausted
    assert budget.tight("strong")
    assert not budget.tight("weak")


def test_chunks_are_few() -> None:
    budget = Budget(100.0)
    n = 0
    while budget.grant("m", "x", 0.001).usd:
        n += 1
        budget.settle("x", budget.accounts["x"].granted_usd, 0.0)
    assert 100 <= n <= 510


def test_without_a_cap_everything_is_granted() -> None:
    budget = Budget(None)
    assert budget.grant("m", "x", 5.0, 100.0).usd == 100.0
    assert budget.state()["cap_usd"] is None


def test_a_provider_that_charges_more_than_the_bound_takes_from_what_is_left() -> None:
    budget = Budget(1.0)
    budget.grant("m", "x", 0.25, 0.25)
    budget.settle("x", 0.75, 0.0)
    assert budget.available_usd("m") == pytest.approx(0.25)


def spend(run: str, local: Path, session: str, usd: float) -> None:
    with JournalWriter(run, "m", str(local), session) as writer:
        writer.append(Answer(int(usd * 1e6), 0, "answered", b"k" * 16, cost_usd=usd))


def resumed(store: Store, session: str, cap: float | None = 10.0) -> Budget:
    return Budget.resume(store, session, cap, {"m": Journal(store).spent("m")})


def test_grants_of_a_crashed_session_count_as_lost(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "run"))
    first = resumed(store, "s1")
    granted = first.grant("m", "x", 2.0, 2.0).usd
    assert granted == pytest.approx(2.02)
    assert [json.loads(store.read(name))["usd"] for name in store.list("ledger/s1")] == [granted]
    spend(store.uri, tmp_path, "s1", 0.5)
    second = resumed(store, "s2")  # s1 ended without close
    assert (second.spent_usd, second.stranded_usd) == (0.5, pytest.approx(1.52))
    assert second.state()["lost_usd"] == pytest.approx(1.52)
    assert second.available_usd("m") == pytest.approx(7.98)
    second.grant("m", "y", 3.0, 3.0)
    second.settle("y", 1.0, 0.25)
    spend(store.uri, tmp_path, "s2", 1.25)
    second.close()
    third = resumed(store, "s3")
    assert (third.spent_usd, third.stranded_usd) == (1.75, pytest.approx(1.52))
    spend(store.uri, tmp_path, "s1", 0.25)  # a node came back, and with it a log of s1
    fourth = resumed(store, "s4")
    assert (fourth.spent_usd, fourth.stranded_usd) == (2.0, pytest.approx(1.27))
    assert stranded_usd(store, {"m": Journal(store).spent("m")}) == {"m": pytest.approx(1.27)}


def test_what_a_dead_sender_held_is_not_given_back(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "run"))
    budget = resumed(store, "s1")
    budget.grant("m", "dead", 1.0, 1.0)
    budget.grant("m", "well", 1.0, 1.0)
    spend(store.uri, tmp_path, "s1", 0.25)
    assert budget.bury("dead", 0.25, 0.0) == pytest.approx(0.77)
    budget.give_back("dead", 0.75)
    budget.close()
    assert resumed(store, "s2").stranded_usd == pytest.approx(0.77)


def test_a_grant_that_cannot_be_written_is_none(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "run"))
    budget = resumed(store, "s1")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "ledger").write_text("in the way")
    with pytest.raises(StoreError):
        budget.grant("m", "x", 1.0)
    assert budget.state()["reserved_usd"] == 0


def test_a_session_is_one_start() -> None:
    spent = {"m": Spent(by_purpose={}, by_session={})}
    assert Budget.resume(Store("/nonexistent/headgate-run"), "s", 1.0, spent).available_usd("m") == 1.0


# Rates ----------------------------------------------------------------------------------------------------------------


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@settings(max_examples=60, deadline=None)
@given(
    per_minute=st.integers(6, 30_000),
    steps=st.lists(st.tuples(st.floats(0, 2), st.integers(1, 300)), min_size=1, max_size=60),
)
def test_no_window_sees_more_than_the_rate_and_one_burst(per_minute: int, steps: list[tuple[float, int]]) -> None:
    clock = Clock()
    limiter = RateLimiter(per_minute, clock=clock)
    admitted = [(clock.now, 0)]
    for wait_s, n in steps:
        clock.now += wait_s
        admitted.append((clock.now, limiter.admit([1.0] * n).requests))
    burst = max(1.0, per_minute / 240)
    for i in range(len(admitted)):
        for j in range(i, len(admitted)):
            window_s = admitted[j][0] - admitted[i][0]
            assert sum(n for _, n in admitted[i : j + 1]) <= burst + window_s * per_minute / 60 + 1e-3


def test_the_rate_is_used() -> None:
    clock = Clock()
    limiter = RateLimiter(600, clock=clock)
    total = 0
    while clock.now < 160:
        admission = limiter.admit([1.0] * 50)
        total += admission.requests
        clock.now += max(admission.wait_s, 0.05)
    assert 0.98 * 600 <= total <= 603


def test_tokens_are_corrected() -> None:
    clock = Clock()
    limiter = RateLimiter(None, 6000, clock=clock)  # 100 a second, 25 at once
    assert limiter.admit([10, 10, 10]).requests == 2
    limiter.correct(105)
    assert limiter.admit([10]).wait_s == pytest.approx(1.1)
    clock.now += 1.1
    assert limiter.admit([10]).requests == 1
    clock.now += 10
    assert limiter.admit([1000]).requests == 1, "larger than the bucket: when it is full"
    assert limiter.admit([1]).wait_s > 9


def test_a_429_pauses() -> None:
    clock = Clock()
    limiter = RateLimiter(None, None, clock=clock)
    limiter.pause(2.0)
    assert limiter.admit([1.0]).requests == 0
    clock.now += 1.5
    assert limiter.paused_s == pytest.approx(0.5)
    limiter.pause(0.1)
    clock.now += 0.4
    assert limiter.admit([1.0]).requests == 0
    clock.now += 0.2
    assert limiter.admit([1.0]).requests == 1


# Claims ---------------------------------------------------------------------------------------------------------------


@given(
    st.lists(st.lists(st.integers(-(2**63), 2**63 - 1), max_size=40), max_size=20),
    st.lists(st.integers(-5, 5), max_size=20),
)
def test_key_set(added: list[list[int]], asked: list[int]) -> None:
    keys = KeySet()
    for each in added:
        keys.add(np.array(each, np.int64))
    expected = set().union(*added) if added else set()
    probe = [*asked, *[key for each in added for key in each]]
    assert keys.contains(np.array(probe, np.int64)).tolist() == [key in expected for key in probe]
    assert len(keys) >= len(expected)


def test_claims() -> None:
    claims = Claims()
    first, second = Sender("a", "n", 1), Sender("b", "n", 2)
    claims.claim(first, np.array([5, 3, 1]))
    assert claims.conflicts(np.array([2, 4]), "b") == []
    assert claims.conflicts(np.array([2, 3]), "b") == [first]
    assert claims.conflicts(np.array([2, 3]), "a") == []
    assert claims.held(np.array([2, 3]), "b").tolist() == [False, True]
    claims.finish("a", np.array([1, 3]), np.array([3]))
    assert claims.finished.contains(np.array([1, 3, 5])).tolist() == [False, True, False]
    assert claims.held(np.array([1, 3, 5]), "b").tolist() == [False, False, True]
    claims.claim(second, np.array([1]))
    claims.bury("a", np.array([5, 99]))
    assert claims.finished.contains(np.array([5, 99])).tolist() == [True, False]
    assert [claim.sender for claim in claims.open] == [second]


# The actor ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    ray.shutdown()  # the session's own, if a test before this one has started it
    ray.init(
        address="local", num_cpus=8, object_store_memory=256 * 1024**2, include_dashboard=False, log_to_driver=False
    )
    yield
    ray.shutdown()


CHILD = """
import sys, time
from jobs.journal import Answer, JournalWriter
writer = JournalWriter(sys.argv[1], "m", sys.argv[2], "s1", flush_s=60)
for key in range(10):
    writer.append(Answer(key, 0, "answered", b"a" * 16, cost_usd=0.01))
print(writer.unique, flush=True)
time.sleep(600)
"""


def test_a_dead_senders_rows_are_recovered_before_its_block_is_asked_again(cluster: None, tmp_path: Path) -> None:
    run, local = str(tmp_path / "run"), str(tmp_path / "local")
    governor = Governor.remote(run, "s1", 1.0, {"m": Limits()}, None, local)
    child = subprocess.Popen([sys.executable, "-c", CHILD, run, local], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    unique = child.stdout.readline().strip()
    node = ray.get_runtime_context().get_node_id()
    keys = np.arange(20)

    def call(method: str, *arguments: Any) -> Any:
        return ray.get(getattr(governor, method).remote("m", *arguments), timeout=60)

    assert call("begin", unique, node, child.pid, keys).tolist() == []
    assert call("lease", unique, Ask(need_usd=0.5, want_usd=0.5), Report()).usd == pytest.approx(0.502)
    os.kill(child.pid, 9)  # a zombie until the test waits for it
    assert sorted(call("begin", "new", node, 1, keys)) == list(range(10))
    dollars = ray.get(governor.state.remote())["dollars"]
    assert dollars["spent_usd"] == pytest.approx(0.1)
    assert dollars["stranded_usd"] == pytest.approx(0.402)
    call("finish", "new", keys, keys)
    assert sorted(call("begin", "third", node, 1, keys)) == list(range(20))
    child.wait()
    ray.kill(governor)


def test_rows_of_a_sender_that_lives_are_held_back(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jobs.governor.RECOVER_WAIT_S", 0.5)
    run, local = str(tmp_path / "run"), str(tmp_path / "local")
    service = GovernorService(run, "s1", None, {"m": Limits()}, None, local)
    node = ray.get_runtime_context().get_node_id()
    with JournalWriter(run, "m", local, "s1", flush_s=60) as writer:
        writer.append(Answer(1, 0, "answered", b"a" * 16))

        async def both() -> Any:
            await service.begin("m", writer.unique, node, os.getpid(), np.array([1, 2]))
            return await service.begin("m", "new", node, 1, np.array([2, 3]))

        assert asyncio.run(both()).tolist() == [2]


def test_all_nodes_are_searched_for_logs(cluster: None, tmp_path: Path) -> None:
    run, local = str(tmp_path / "run"), str(tmp_path / "local")
    child = subprocess.Popen([sys.executable, "-c", CHILD, run, local], stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    child.stdout.readline()
    assert recover_on_all_nodes(run, local, "s2").alive == (child.pid,)
    child.kill()
    recovered = recover_on_all_nodes(run, local, "s2", 10)
    child.wait()
    assert (recovered.rows, recovered.alive) == (10, ())


def test_a_sender_on_a_lost_node_is_given_up(cluster: None, tmp_path: Path) -> None:
    run = str(tmp_path / "run")
    service = GovernorService(run, "s1", None, {"m": Limits()}, None, str(tmp_path))
    with JournalWriter(run, "m", str(tmp_path), "s1") as writer:
        writer.append(Answer(1, 0, "answered", b"a" * 16))

    async def both() -> Any:
        await service.begin("m", writer.unique, "f" * 56, 1, np.array([1, 2]))
        return await service.begin("m", "new", "e" * 56, 1, np.array([1, 2]))

    assert asyncio.run(both()).tolist() == [1]


def test_a_stop_reaches_every_sender(cluster: None, tmp_path: Path) -> None:
    service = GovernorService(str(tmp_path / "run"), "s1", 1.0, {"m": Limits(), "n": Limits()}, None, str(tmp_path))

    async def story() -> Any:
        await service.lease("m", "a", Ask(need_usd=0.1), Report(answered=3))
        await service.stop("m", "models.m: no")
        await service.stop("m", "later")
        lease = await service.lease("m", "b", Ask(need_usd=0.1), Report(answered=4, failed=1))
        other = await service.lease("n", "c", Ask(need_usd=0.1), Report())
        return lease, other, await service.close()

    lease, other, state = asyncio.run(story())
    assert (lease.stopped, lease.usd) == ("models.m: no", 0.0)
    assert (other.stopped, other.usd) == ("", pytest.approx(0.102))
    assert (state["models"]["m"]["answered"], state["models"]["m"]["errors"]) == (7, 1)
    assert state["models"]["m"]["stopped"] == "models.m: no"
