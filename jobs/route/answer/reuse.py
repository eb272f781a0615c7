"""`reuse:` answers of earlier runs count as answered: the same request is not paid for a second time.

A request is known by its answer key: everything that can change its answer (provider model, messages, sampling, schema). Each
part of scored/ is one task that makes the keys of its rows; the driver looks them up among the earlier runs' answers, and what is
found is copied into this run's journal, segment by segment, at no cost and with no attempts. Of rows with one key the first of the
input gets the answer. Doing it twice copies nothing twice. Cost: one pass over scored/ and over the key column of the earlier
journals; some 60 bytes a row in the driver.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray

from jobs.errors import SpecError
from jobs.journal.reader import Journal
from jobs.journal.rows import ANSWER_SCHEMA
from jobs.journal.segments import segment_name
from jobs.lanes.chat import RequestError, answer_key, build_request
from jobs.spec.job import JobSpec
from jobs.storage.manifest import RUN, Run, read_identity
from jobs.storage.store import Store

KEY = pa.binary(16)
COPY_THREADS = 8


def check_reuse(spec: JobSpec, note: Callable[[str], None]) -> list[str]:
    """The earlier runs that are there. A prefix with nothing in it is noted: the first night has no night before.

    Raises SpecError for a prefix that holds something else than a run.
    """
    found = []
    for uri in spec.reuse:
        store = Store(uri)
        if store.uri == Store(spec.output).uri:
            raise SpecError(f"reuse: {uri} is this job's own output; what it holds is reused anyway: remove it")
        if read_identity(store) is not None:
            found.append(uri)
        elif store.list():
            raise SpecError(f"reuse: {uri} holds no headgate run (no {RUN}); name a run's output prefix")
        else:
            note(f"reuse: nothing at {uri} yet")
    return found


def reuse_answers(spec: JobSpec, run: Run, parts: list[str], earlier: list[str], session: str) -> int:
    """Copy what earlier runs have answered of this run's rows. Returns how many answers were copied."""
    index = _earlier_answers(earlier)
    if not index.num_rows:
        return 0
    found = _find(spec, run.store, parts, index["answer_key"].combine_chunks())
    n_copied = 0
    for j, name in enumerate(spec.names):
        mine = found.filter(pc.equal(found["model"], j)).sort_by("row")
        # The first row of the input that has the key, and only what this run has not settled itself.
        first = np.unique(mine["at"].to_numpy(), return_index=True)[1]
        mine = mine.take(first)
        settled = Journal(run.store).settled(name)
        mine = mine.filter(pc.invert(pc.is_in(mine["row_key"], pa.array(settled))))
        n_copied += _copy(run.store, name, mine, index, session)
    return n_copied


def _earlier_answers(earlier: list[str]) -> pa.Table:
    """All answers of the earlier runs: answer_key, run, segment; the newest answer of a key where there are several."""
    tables = []
    for uri in earlier:
        store = Store(uri)
        identity = read_identity(store)
        for model in identity.models if identity else ():
            for segment in Journal(store).segments(model):
                table = store.read_table(segment, columns=["answer_key", "kind", "settled_at"])
                table = table.filter(pc.equal(table["kind"], "answered")).drop_columns("kind")
                for column, value in (("run", uri), ("segment", segment)):
                    table = table.append_column(column, pa.array([value] * len(table)).dictionary_encode())
                tables.append(table.replace_schema_metadata(None))
    if not tables:
        return pa.table({"answer_key": pa.array([], KEY)})
    index = pa.concat_tables(tables, promote_options="permissive").unify_dictionaries()
    index = index.sort_by([("settled_at", "descending")])
    keys = index["answer_key"].combine_chunks()
    # index_in gives the first place of every key: what stands there is its newest answer.
    first = pc.index_in(keys, value_set=keys).to_numpy()
    return index.take(np.unique(first))


def _find(spec: JobSpec, store: Store, parts: list[str], known: pa.Array) -> pa.Table:
    """Rows of this run whose request is known: row_key, bucket, row, model (ladder index), at (place in `known`)."""
    shared = ray.put(known)
    tasks = [_find_in_part.remote(spec, store.uri, part, [shared]) for part in parts]
    return pa.concat_tables(ray.get(tasks))


def _find_part(spec: JobSpec, output: str, part: str, known_ref: list[Any]) -> pa.Table:
    columns = ["row_key", "bucket", "row", "messages", "body", "input_error"]
    table = Store(output).read_table(part, columns=columns)
    table = table.filter(pc.equal(table["input_error"], ""))
    known = ray.get(known_ref[0])
    requests = list(zip(table["messages"].to_pylist(), table["body"].to_pylist(), strict=True))
    found = []
    for j, name in enumerate(spec.names):
        keys = pa.array([answer_key_of(spec, name, *request) for request in requests], KEY)
        at = pc.index_in(keys, value_set=known)
        rows = table.select(["row_key", "bucket", "row"]).append_column("at", at)
        rows = rows.append_column("model", pa.array(np.full(len(rows), j, np.int8)))
        found.append(rows.filter(pc.is_valid(rows["at"])))
    return pa.concat_tables(found)


_find_in_part: Any = ray.remote(num_cpus=0.5)(_find_part)


def answer_key_of(spec: JobSpec, name: str, messages: str, body: str) -> bytes | None:
    """The answer key of one row for one model, as the model's lane makes it; None where it makes no request."""
    model = spec.models[name]
    if model.source:
        model = model.model_copy(update={"model": model.source})
    own = json.loads(body) if body else {}
    try:
        request = build_request(model, name, spec.sampling_of(name), spec.response_format, json.loads(messages), own)
    except RequestError:
        return None
    return answer_key(request)


def _copy(store: Store, name: str, mine: pa.Table, index: pa.Table, session: str) -> int:
    """Write the answers to the rows of `mine` into this run's journal; one segment of ours for one of theirs."""
    if not len(mine):
        return 0
    places = index.take(mine["at"])
    mine = mine.append_column("answer_key", places["answer_key"])
    origin = pa.table({c: places[c].cast(pa.string()) for c in ("run", "segment")})
    sources = origin.group_by(["run", "segment"]).aggregate([]).to_pylist()
    writer = secrets.token_hex(6)

    def copy(item: tuple[int, dict[str, str]]) -> int:
        number, source = item
        here = pc.and_(pc.equal(origin["run"], source["run"]), pc.equal(origin["segment"], source["segment"]))
        rows = mine.filter(here)
        theirs = Store(source["run"]).read_table(source["segment"]).replace_schema_metadata(None)
        theirs = theirs.filter(pc.equal(theirs["kind"], "answered"))
        answers = theirs.take(pc.index_in(rows["answer_key"], value_set=theirs["answer_key"].combine_chunks()))
        new = {
            "row_key": rows["row_key"], "bucket": rows["bucket"], "purpose": pa.array(["answer"] * len(rows)),
            "cost_usd": pa.array(np.zeros(len(rows))), "lost_usd": pa.array(np.zeros(len(rows))),
            "attempts": pa.array(np.zeros(len(rows), np.int32)), "gpu_s": pa.array(np.zeros(len(rows), np.float32)),
            "latency_s": pa.array(np.zeros(len(rows), np.float32)),
        }  # fmt: skip
        table = pa.table([new.get(field.name, answers[field.name]) for field in ANSWER_SCHEMA], schema=ANSWER_SCHEMA)
        table = table.sort_by([("bucket", "ascending"), ("row_key", "ascending")])
        buckets = np.unique(table["bucket"].to_numpy()).tolist()
        table = table.replace_schema_metadata({"buckets": ",".join(map(str, buckets))})
        store.write_table(segment_name(name, f"{session}--{writer}--{number:06d}", buckets), table)
        return len(table)

    with ThreadPoolExecutor(COPY_THREADS) as pool:
        return sum(pool.map(copy, enumerate(sources)))
