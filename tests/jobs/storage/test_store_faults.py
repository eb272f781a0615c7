"""S3 that fails between request and reply: what is created once has one creator, and it knows that it is the one."""

import json
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pyarrow as pa
import pytest
from ray.exceptions import RayTaskError

from jobs.errors import RunHeld, SpecError, StorageDown, StoreError
from jobs.journal.reader import Journal
from jobs.journal.rows import Answer
from jobs.journal.writer import JournalWriter
from jobs.money.budget import Budget
from jobs.route.pipeline import rows_stay_open
from jobs.storage import lease
from jobs.storage.store import Store
from tests.chaos.proxy import Faults, fault_proxy


@pytest.fixture
def through(s3_moto, monkeypatch):
    """`with through(faults) as (proxy, store)`: the bucket seen through a proxy that has these faults."""

    @contextmanager
    def open_store(faults: Faults):
        with fault_proxy(s3_moto.endpoint) as proxy:
            monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.url)
            proxy.faults = faults
            yield proxy, Store(s3_moto.uri("out"))

    return open_store


def test_a_create_whose_reply_was_lost_is_won_by_its_creator(through):
    with through(Faults(lost_reply=0.5)) as (proxy, store):
        assert [store.create(f"ledger/{i}.json", b"mine") for i in range(8)] == [True] * 8
        assert proxy.counts["lost_reply"] > 0
        assert store.create("ledger/0.json", b"another's") is False and store.read("ledger/0.json") == b"mine"


@pytest.mark.slow
def test_of_many_creators_one_wins_though_replies_are_lost(through):
    with through(Faults(lost_reply=0.3)) as (_, store), ThreadPoolExecutor(6) as pool:
        won = list(pool.map(lambda i: Store(store.uri).create("lease", b"owner %d" % i), range(6)))
        assert sum(won) == 1 and store.read("lease") == b"owner %d" % won.index(True)


def test_a_lease_and_a_ledger_whose_replies_are_lost_still_stand(through):
    """Without the comparison the holder would refuse itself, and the governor would see another run in its ledger."""
    with through(Faults()) as (proxy, store):
        proxy.faults = Faults(lost_reply=0.5)
        held = lease.acquire(store, "one", lambda: None)
        budget = Budget.resume(store, "one", 1.0, {})
        assert all(budget.grant("m", "sender", 0.01).usd > 0 for _ in range(6))
        assert proxy.counts["lost_reply"] > 0
        with pytest.raises(RunHeld):
            lease.acquire(store, "two", lambda: None)
        proxy.faults = Faults()
        held.release()


@pytest.mark.parametrize(
    "fault",
    ["lost_reply", *(pytest.param(f, marks=pytest.mark.slow) for f in ("slow_down", "cut_upload", "cut_download"))],
)
def test_the_journal_holds_every_answer_once_through(through, tmp_path, fault):
    with through(Faults(**{fault: 0.3})) as (proxy, store):
        with JournalWriter(store.uri, "m", str(tmp_path / "logs"), "s", flush_s=0.05) as writer:
            for key in range(40):
                number = writer.append(Answer(key, 0, "answered", bytes(16), generated_text=str(key)))
                if key % 8 == 7:
                    writer.wait(number)
        assert Journal(store).settled("m").tolist() == list(range(40))
        assert proxy.counts[fault] > 0, json.dumps(proxy.counts)
    assert not list((tmp_path / "logs").glob("*.log"))


def test_a_lease_that_cannot_be_given_back_hides_nothing(tmp_path):
    """A full disk ends the run; its own reason has to reach the user, not that of the lease."""
    store = Store(str(tmp_path / "out"))
    held = lease.acquire(store, "one", lambda: None)
    folder = tmp_path / "out" / lease.FOLDER
    folder.rename(tmp_path / "away")
    folder.write_text("a file where the folder should be")
    held.release()
    folder.unlink()
    (tmp_path / "away").rename(folder)
    with pytest.raises(RunHeld):
        lease.acquire(store, "two", lambda: None)


def test_storage_that_fails_in_the_middle_leaves_the_rows_open():
    """Exit 3, for a scheduler to try again; also through what Ray wraps around it. Other errors pass as they are."""
    for error in (StoreError("out: no space left"), RayTaskError("f", "text", StoreError("out: no space left"))):
        with pytest.raises(StorageDown, match=r"no space left.*same command goes on") as raised, rows_stay_open():
            raise error
        assert raised.value.exit_code == 3
    with pytest.raises(SpecError, match="policy"), rows_stay_open():
        raise SpecError("policy: wrong")


def test_a_small_file_is_read_although_every_third_request_is_turned_away(through):
    """The page of a 503 is longer than the file: pyarrow's client gives up on that, not on the 503."""
    with through(Faults()) as (proxy, store):
        store.write("small.json", b"{}")
        store.write_table("small.parquet", pa.table({"row_key": [1, 2, 3]}))
        proxy.faults = Faults(slow_down=0.3)
        for _ in range(4):
            assert store.read("small.json") == b"{}"
            assert len(store.read_table("small.parquet")) == 3
            assert sum(len(batch) for batch in store.batches("small.parquet", ["row_key"])) == 3
        assert proxy.counts["slow_down"] > 0
