"""The cap holds whatever senders do, and grants survive crashes."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from jobs.errors import StoreError
from jobs.journal.reader import Journal, Spent
from jobs.journal.rows import Answer
from jobs.journal.writer import JournalWriter
from jobs.money.budget import SILENT_S, Budget
from jobs.money.ledger import stranded_usd
from jobs.money.reservations import Reservations
from jobs.storage.store import Store


class Senders(RuleBasedStateMachine):
    """Senders that ask, spend up to what they hold, give back, report late or never, and die, in any order."""

    CAP = 10.0

    def __init__(self) -> None:
        super().__init__()
        self.budget = Budget(
            self.CAP, spent_usd=1.0, lost_usd=0.5, stranded_usd=0.25, caps_usd={("b",): 4.0}, used_usd={"b": 1}
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
        assert state.spent_usd + state.lost_usd + state.reserved_usd <= self.CAP + 1e-9
        assert 1 + sum(sum(self.paid[s]) + self.held[s] for s in "01") <= 4.0 + 1e-9
        assert all(value >= 0 for value in asdict(state).values())


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
    budget = Budget(10.0, caps_usd={("strong",): 1.0})
    budget.grant("weak", "w", 2.0)
    budget.grant("strong", "s", 0.75)
    assert budget.grant("strong", "t", 2.0).exhausted, "what the weak model has out does not help"
    assert not budget.grant("strong", "t", 0.5).exhausted
    assert budget.tight("strong")
    assert not budget.tight("weak")


def test_models_above_the_weak_one_share_what_it_leaves() -> None:
    budget = Budget(10.0, caps_usd={("mid", "strong"): 4.0}, used_usd={"mid": 0.5, "weak": 3.0}, spent_usd=3.5)
    assert budget.grant("mid", "m", 2.0).usd == pytest.approx(2.02)
    assert budget.available_usd("strong") == pytest.approx(1.48)
    assert not budget.grant("strong", "s", 3.0).exhausted, "the other one may give back"
    assert budget.tight("mid") and budget.tight("strong") and not budget.tight("weak")
    assert budget.grant("strong", "s", 4.0).exhausted
    assert budget.available_usd("weak") == pytest.approx(10 - 3.5 - 2.02)


def test_nobody_waits_for_what_a_silent_sender_holds() -> None:
    now = [0.0]
    budget = Budget(1.0, clock=lambda: now[0])
    budget.grant("m", "x", 0.6, 0.6)
    now[0] = SILENT_S - 1
    assert not budget.grant("m", "y", 0.6).exhausted
    budget.settle("x", 0.0, 0.0)  # its report of every second
    now[0] = 2 * SILENT_S - 2
    assert not budget.grant("m", "y", 0.6).exhausted
    now[0] = 2 * SILENT_S
    assert budget.grant("m", "y", 0.6).exhausted, "y itself holds nothing"
    assert budget.grant("m", "y", 0.3).usd == pytest.approx(0.3), "x keeps what it has: it may have spent it"


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
    assert budget.state().cap_usd is None


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
    assert second.state().lost_usd == pytest.approx(1.52)
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


@pytest.mark.parametrize(
    ("name", "text"),
    [("s1/grant-000000.json", '{"model": "m"'), ("s1/grant-000000.json", '{"model": "m"}'), ("s1/close.json", "[1]"),
     ("s1/close.json", '{"kept": 3}'), ("s1/grant-000000.json", '{"model": "m", "usd": "1"}'), ("stray", "x")],
)  # fmt: skip
def test_a_damaged_ledger_is_named_not_guessed(tmp_path: Path, name: str, text: str) -> None:
    store = Store(str(tmp_path / "run"))
    store.write(f"ledger/{name}", text.encode())
    with pytest.raises(StoreError, match=rf"ledger/{name}: (damaged; put a copy of it back|no part of the ledger)"):
        resumed(store, "s2")


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


def test_dollars_that_came_back_are_not_stranded_by_a_crash(tmp_path: Path) -> None:
    """Five waves under one cap: each is granted most of it, pays little, and ends; then the process is killed."""
    store = Store(str(tmp_path / "run"))
    budget = resumed(store, "s1", cap=5.0)
    for wave in range(5):
        sender = f"wave {wave}"
        assert budget.grant("m", sender, 2.5, 3.0).usd >= 2.5
        budget.settle(sender, 0.04, 0.0)
        spend(store.uri, tmp_path, "s1", 0.04 + wave * 1e-6)
        if wave < 4:
            budget.retire("m")
    second = resumed(store, "s2", cap=5.0)
    held = budget.accounts["wave 4"].outstanding_usd
    assert second.stranded_usd == pytest.approx(held, abs=1e-4)
    assert second.available_usd("m") == pytest.approx(5 - held - 0.2, abs=1e-4)


def test_the_ledger_never_says_more_than_the_cap(tmp_path: Path) -> None:
    """Dollars handed to and fro within a wave: they are granted again only when the ledger knows that they came back."""
    store = Store(str(tmp_path / "run"))
    budget = resumed(store, "s1", cap=1.0)
    for turn in range(12):
        usd = budget.grant("m", "x", 0.6).usd + budget.grant("m", "y", 0.3).usd
        assert usd >= 0.9
        assert stranded_usd(store, {})["m"] <= 1.0 + 1e-9
        for sender in "xy":
            budget.give_back(sender, budget.accounts[sender].granted_usd)
        assert stranded_usd(store, {})["m"] >= 0.9 * (turn == 0)
    budget.close()
    assert stranded_usd(store, {}) == {}


def test_a_batch_that_takes_dollars_that_came_back_is_no_exception(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "run"))
    budget = resumed(store, "s1", cap=1.0)
    budget.grant("m", "x", 0.8)
    budget.give_back("x", 0.8)
    taken = Reservations(budget, store, Journal(store)).take("m", "batch-1", np.array([0.5, 0.4]))
    assert taken.rows == 2
    assert stranded_usd(store, {})["m"] <= 1.0 + 1e-9


def test_a_return_that_cannot_be_written_is_never_recorded_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = Store(str(tmp_path / "run"))
    budget = resumed(store, "s1", cap=1.0)
    budget.grant("m", "x", 0.9)
    create = Store.create

    def written_and_lost(self: Store, name: str, data: bytes) -> bool:
        create(self, name, data)
        raise StoreError("no answer")

    with monkeypatch.context() as patched:
        patched.setattr(Store, "create", written_and_lost)
        with pytest.raises(StoreError):
            budget.retire("m")
    assert budget.available_usd("m") < 0.1, "not free before the ledger has it"
    budget.retire("m")
    budget.grant("m", "y", 0.5)
    assert stranded_usd(store, {})["m"] == pytest.approx(budget.accounts["y"].granted_usd)


def test_a_grant_that_cannot_be_written_is_none(tmp_path: Path) -> None:
    store = Store(str(tmp_path / "run"))
    budget = resumed(store, "s1")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "ledger").write_text("in the way")
    with pytest.raises(StoreError):
        budget.grant("m", "x", 1.0)
    assert budget.state().reserved_usd == 0


def test_a_session_is_one_start() -> None:
    spent = {"m": Spent(by_purpose={}, by_session={})}
    assert Budget.resume(Store("/nonexistent/headgate-run"), "s", 1.0, spent).available_usd("m") == 1.0
