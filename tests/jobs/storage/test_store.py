"""Store on a local folder, on moto_server and on Ceph: the promises of all three, then what each alone can refuse."""

from __future__ import annotations

import os
import pickle
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from botocore.exceptions import ClientError
from s3_server import S3Bucket

from jobs.errors import StoreError
from jobs.storage.store import Store

KINDS = ["local", "moto", pytest.param("ceph", marks=pytest.mark.slow)]
REFUSED_S, BLACK_HOLE_S = 90, 150
"""A busy machine takes twice as long as an idle one; what is shown is that it ends."""
NOBODY = 65534


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store of each kind."""
    if request.param == "local":
        return Store(str(tmp_path / "run"))
    return Store(request.getfixturevalue(f"s3_{request.param}").uri("runs/one"))


@pytest.fixture(params=KINDS[1:])
def bucket(request: pytest.FixtureRequest) -> S3Bucket:
    """An empty bucket on each S3 server."""
    found: S3Bucket = request.getfixturevalue(f"s3_{request.param}")
    return found


def one_line(error: pytest.ExceptionInfo[StoreError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    assert "Traceback" not in text
    return text


def test_write_read_list_delete(store: Store) -> None:
    assert store.list() == []
    assert not store.exists("a/b.json")
    store.write("a/b.json", b"1")
    store.write("a/c/d.json", b"2")
    store.write("top", b"")
    assert store.exists("a/b.json")
    assert store.read("a/b.json") == b"1"
    assert store.read("top") == b""
    assert store.list() == ["a/b.json", "a/c/d.json", "top"]
    assert store.list("a") == ["a/b.json", "a/c/d.json"]
    assert store.list("a", recursive=False) == ["a/b.json"]
    assert store.list("nowhere") == []
    store.delete("a/b.json")
    store.delete("a/b.json")
    assert store.list() == ["a/c/d.json", "top"]


def test_a_missing_file_is_one_line(store: Store) -> None:
    store.write("here", b"")
    with pytest.raises(StoreError) as error:
        store.read("plan/bill.json")
    assert one_line(error) == f"{store.uri}/plan/bill.json: not found (reading it)"
    with pytest.raises(StoreError, match="not found"):
        store.read_table("scored/part-00000.parquet")


def test_tables_come_back(store: Store) -> None:
    table = pa.table({"row_key": pa.array([3, 1, 2], pa.int64()), "error": ["", "x", ""]})
    store.write_table("scored/part-00000.parquet", table)
    assert store.read_table("scored/part-00000.parquet").equals(table)
    assert store.read_table("scored/part-00000.parquet", columns=["error"]).column_names == ["error"]
    assert store.list("scored") == ["scored/part-00000.parquet"]


def test_one_of_eight_creators_wins(store: Store) -> None:
    """Each creator is a store of its own, as in eight processes; the content is the winner's, whole."""
    creators = [Store(store.uri) for _ in range(8)]
    gate = threading.Barrier(len(creators))

    def create(number: int, name: str) -> bool:
        gate.wait()
        return creators[number].create(name, bytes([number]) * 1000)

    names = [f"manifest/{attempt}" for attempt in range(5)]
    for name in names:
        with ThreadPoolExecutor(len(creators)) as pool:
            won = list(pool.map(create, range(len(creators)), [name] * len(creators)))
        assert won.count(True) == 1
        assert store.read(name) == bytes([won.index(True)]) * 1000
        assert not store.create(name, b"late")
    assert store.list() == names


@pytest.mark.parametrize(("stands", "won"), [(b"mine", True), (b"another's", False), (None, False)])
def test_a_creator_that_was_told_of_conflicts_alone_looks_who_won(
    stands: bytes | None, won: bool, s3_moto: S3Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """S3 says 409 where two write at once. The last reply may have been for a request that had landed before it."""
    store, asked = Store(s3_moto.uri("out")), []

    def conflict(**request: Any) -> None:
        asked.append(request)
        if len(asked) == 5 and stands is not None:
            store.write("lease", stands)
        raise ClientError({"Error": {"Code": "ConditionalRequestConflict"}}, "PutObject")

    monkeypatch.setattr(store._s3, "put_object", conflict)
    monkeypatch.setattr("jobs.storage.store.time.sleep", lambda seconds: None)
    assert store.create("lease", b"mine") is won and len(asked) == 5


def test_a_reader_sees_the_old_or_the_new(store: Store) -> None:
    """While one file is replaced, every read is a whole version, every listing has exactly that file."""
    size, done, seen = 200_000, threading.Event(), set()
    store.write("report.json", bytes([0]) * size)

    def replace() -> None:
        writer = Store(store.uri)
        for version in range(1, 30):
            writer.write("report.json", bytes([version]) * size)
        done.set()

    writer = threading.Thread(target=replace)
    writer.start()
    while not done.is_set():
        content = store.read("report.json")
        assert len(content) == size
        assert content.count(content[0]) == size
        seen.add(content[0])
        assert store.list() == ["report.json"]
    writer.join()
    assert store.read("report.json") == bytes([29]) * size
    assert len(seen) > 1


def test_pickle_is_the_uri_alone(store: Store) -> None:
    """Ray pickles stores into its own state: nothing but the URI may travel."""
    store.create("a", b"1")  # opens every client the store can have
    pickled = pickle.dumps(store)
    for name in ("AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID", "AWS_ENDPOINT_URL"):
        if value := os.environ.get(name):
            assert value.encode() not in pickled
    assert pickle.loads(pickled).read("a") == b"1"


def test_missing_bucket(bucket: S3Bucket) -> None:
    uri = "s3://headgate-no-such-bucket/run"
    store = Store(uri)
    actions: dict[str, Callable[[], object]] = {
        "write": lambda: store.write("a", b"1"),
        "create": lambda: store.create("a", b"1"),
        "read": lambda: store.read("a"),
        "read_table": lambda: store.read_table("a"),
        "list": store.list,
    }
    for name, action in actions.items():
        with pytest.raises(StoreError) as error:
            action()
        assert one_line(error).startswith(uri), name
        assert "no such bucket" in str(error.value), name


@pytest.mark.slow
def test_wrong_secret(s3_ceph: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every operation names the variable to mend; none repeats what it held."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")
    store = Store(s3_ceph.uri("run"))
    actions: dict[str, Callable[[], object]] = {
        "write": lambda: store.write("a", b"1"),
        "create": lambda: store.create("a", b"1"),
        "read": lambda: store.read("a"),
        "list": store.list,
        "exists": lambda: store.exists("a"),
    }
    for name, action in actions.items():
        with pytest.raises(StoreError) as error:
            action()
        assert "AWS_SECRET_ACCESS_KEY" in one_line(error), name
        assert "not-the-secret" not in str(error.value), name
        assert s3_ceph.secret_key not in str(error.value), name
    assert s3_ceph.keys() == []


@pytest.mark.slow
def test_wrong_key_id(s3_ceph: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "NOSUCHKEY")
    store = Store(s3_ceph.uri("run"))
    for action in (lambda: store.write("a", b"1"), lambda: store.create("a", b"1")):
        with pytest.raises(StoreError) as error:
            action()
        assert one_line(error).endswith(
            "the access key is unknown; check AWS_ACCESS_KEY_ID (writing it)"
        ) or "(creating it)" in str(error.value)


@pytest.mark.parametrize("operation", ["list", "create"])
def test_nobody_listens(operation: str, port: int, s3_moto: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{port}")
    store = Store(s3_moto.uri("run"))
    started = time.monotonic()
    with pytest.raises(StoreError, match="cannot be reached; check AWS_ENDPOINT_URL"):
        store.list() if operation == "list" else store.create("a", b"1")
    assert time.monotonic() - started < REFUSED_S


@pytest.mark.slow
@pytest.mark.parametrize("operation", ["list", "create"])
def test_packets_are_dropped(operation: str, s3_moto: S3Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """A listener whose queue is full drops every further SYN, as a firewall does."""
    with _black_hole() as endpoint:
        monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
        store = Store(s3_moto.uri("run"))
        started = time.monotonic()
        with pytest.raises(StoreError, match="cannot be reached"):
            store.list() if operation == "list" else store.create("a", b"1")
        assert time.monotonic() - started < BLACK_HOLE_S


@contextmanager
def _black_hole() -> Iterator[str]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        waiting = [socket.socket() for _ in range(4)]
        for client in waiting:
            client.setblocking(False)
            client.connect_ex(listener.getsockname())
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
        for client in waiting:
            client.close()


@pytest.mark.parametrize("operation", ["write", "create", "write_table"])
def test_unwritable_folder(operation: str, tmp_path: Path) -> None:
    """As a user who may not write there: root may write anywhere, so it steps down for the length of the test."""
    tmp_path.chmod(0o500)
    store = Store(str(tmp_path / "run"))
    with _unprivileged(), pytest.raises(StoreError) as error:
        _do(store, operation, "a")
    assert one_line(error).startswith(f"{store.uri}/a: permission denied")
    assert list(tmp_path.iterdir()) == []


@contextmanager
def _unprivileged() -> Iterator[None]:
    user = os.geteuid()
    if user == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(user)


def _do(store: Store, operation: str, name: str) -> None:
    if operation == "write_table":
        store.write_table(name, pa.table({"a": [1]}))
    else:
        getattr(store, operation)(name, b"1")


@pytest.mark.parametrize("operation", ["write", "create", "write_table"])
@pytest.mark.parametrize("name", ["taken", "taken/deeper/b"])
def test_a_file_where_a_folder_is_needed(operation: str, name: str, tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("a file")
    with pytest.raises(StoreError, match="a file stands where a folder is needed"):
        _do(Store(str(tmp_path / name)), operation, "x/a" if name == "taken" else "a")
    assert (tmp_path / "taken").read_text() == "a file"


def test_a_folder_where_a_file_is_needed(tmp_path: Path) -> None:
    store = Store(str(tmp_path))
    store.write("a/b", b"1")
    with pytest.raises(StoreError, match="a folder stands where a file is needed"):
        store.write("a", b"1")
    assert store.list() == ["a/b"]
