"""Stage 1: read every prompt, give it its keys, and let the router say what each model would make of it.

    files → read_split (tasks, one per split) → Scorer (actor pool, on GPUs for routers that use one) → scored/part-*.parquet

Rows travel in shards of up to SHARD_ROWS consecutive rows. A shard is one bucket and one file, so nothing is ever shuffled, and
a shard that is written twice (a retried task) is the same file with the same content.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import ray.data

from jobs.errors import InputError
from jobs.lanes.chat import prompt_tokens_bound
from jobs.placement.cluster import look
from jobs.placement.lent import lent_device
from jobs.route.score.entries import Part
from jobs.route.score.fields.bodies import check_first, count_noted
from jobs.route.score.fields.columns import columns_of, in_file_and_folder
from jobs.route.score.files import make_splits, names_of, some
from jobs.route.score.prompts import Prompt, PromptReader, canonical
from jobs.route.score.records import files_without_rows, read_records
from jobs.route.score.router import load_router, router_columns
from jobs.route.score.scored import predicted_column
from jobs.route.score.scorers import SCORER_CPUS, scorers_of
from jobs.route.score.values.kept import KeptColumns, array_of
from jobs.route.score.values.text import as_text
from jobs.spec.job import JobSpec
from jobs.storage.keys import content_key, digest16, row_keys
from jobs.storage.manifest import InputFile
from jobs.storage.store import Store
from routing.text import Frame, find_frame, whole

if TYPE_CHECKING:
    import pandas as pd

SHARD_ROWS = 50_000
SHARD_BYTES = 48 * 2**20
"""Ray Data cuts blocks at 1.5 x 128 MB: a shard must stay whole inside one block."""
MAX_SHARDS_PER_SPLIT = 1 << 12
FRAME_PROMPTS = 500
ROW_BITS = 40
NOTED = b"noted"
"""Key of a shard's metadata: `count_noted` of its rows, on the way from reading to scoring."""
SHARD_SCHEMA = pa.schema(
    [
        ("row_key", pa.int64()), ("bucket", pa.int32()), ("row", pa.int64()), ("messages", pa.string()), ("body", pa.string()),
        ("content_key", pa.binary(16)), ("id_key", pa.binary(16)), ("prompt_bytes", pa.int32()),
        ("input_error", pa.string()), ("gold", pa.string()), ("text", pa.large_string()),
    ]
)  # fmt: skip
"""Columns of a shard that have one type in all of them; beside them `id` and `keep`."""


@dataclass(frozen=True, slots=True)
class ScorePlan:
    """All that the score stage depends on; picklable."""

    spec: JobSpec
    reader: PromptReader
    files: list[InputFile]
    frame: Frame


def plan_score(spec: JobSpec, files: list[InputFile], say: Callable[[str], None] = lambda line: None) -> ScorePlan:
    """Look at the first rows: which columns, which common frame. `say` hears of files that hold none.

    Raises SpecError, InputError.
    """
    empty = set(files_without_rows(files, spec.input))
    full = [file for file in files if file not in empty]
    if len(empty) == len(files):
        raise InputError(f"input.path: {files[0].uri} holds no rows; there is nothing to answer")
    if empty:
        shown = some([file.uri.rsplit("/", 1)[-1] for file in files if file in empty])
        say(f"input.path: {len(empty)} of {len(files)} files hold no rows: {shown}")
    columns = columns_of(full, spec.input)
    reader = PromptReader(spec, columns)
    for name in in_file_and_folder(full[0], spec.input, reader.columns):
        say(
            f"input.path: {name!r} is a column of the files and the name of folders that they lie in; the column is read"
        )
    texts, errors = [], []
    for file in {full[0], full[-1]}:
        for _, record in zip(range(FRAME_PROMPTS), read_records(file, spec.input, reader.columns), strict=False):
            prompt = reader.read(record)
            texts += [] if prompt.error else [prompt.text]
            errors.append(prompt.error)
    check_first(errors)
    return ScorePlan(spec, reader, files, find_frame(texts))


@dataclass(frozen=True, slots=True)
class ShardRow:
    """One row of a shard: its columns in scored/ (but `row_key`, `bucket` and `keep`), `text` and `place`."""

    row: int
    """Position in the input: file number << ROW_BITS | row number."""
    id: Any
    """None where the input's is null."""
    place: str
    """File and number of the row."""
    messages: str
    """JSON text, "" where the row has an error."""
    body: str
    """JSON text, "" for none."""
    content_key: bytes
    id_key: bytes
    prompt_bytes: int
    input_error: str
    gold: str | None
    text: str
    """What the router reads."""
    noted: tuple[str, ...] = ()
    """What the plan says of it (jobs.route.score.fields.bodies.NOTES)."""


def read_split(split: int, files: Sequence[int], plan: ScorePlan) -> Iterator[pa.Table]:
    """Shards of one split, in order; one more column, `text`, for the router. files: indices into `plan.files`."""
    shard, keep = list[ShardRow](), KeptColumns(plan.spec.input.keep)
    size = number = 0
    names = names_of(plan.files)
    for index in files:
        file = plan.files[index]
        for number_in_file, record in enumerate(read_records(file, plan.spec.input, plan.reader.columns)):
            prompt = plan.reader.read(record)
            row = _row(prompt, (index << ROW_BITS) | number_in_file, f"{names[index]}:{number_in_file}", plan)
            shard.append(row)
            size += 2 * len(row.messages) + 200 + keep.add(record)
            if len(shard) == SHARD_ROWS or size >= SHARD_BYTES:
                yield _table(shard, keep, split * MAX_SHARDS_PER_SPLIT + number)
                shard, keep = [], KeptColumns(plan.spec.input.keep)
                size, number = 0, number + 1
                if number == MAX_SHARDS_PER_SPLIT:
                    raise InputError(
                        f"input.path: {file.uri} is too large for one file; cut it into files of 100 GB or less"
                    )
    if shard:
        yield _table(shard, keep, split * MAX_SHARDS_PER_SPLIT + number)


def _table(shard: list[ShardRow], keep: KeptColumns, bucket: int) -> pa.Table:
    columns = {"bucket": np.full(len(shard), bucket)}
    columns["row_key"] = row_keys(np.array([row.row for row in shard], np.int64))
    arrays = {
        f.name: pa.array(columns[f.name] if f.name in columns else [getattr(row, f.name) for row in shard], f.type)
        for f in SHARD_SCHEMA
    }
    noted = count_noted(row.noted for row in shard)
    return pa.table({**arrays, "id": _ids(shard), "keep": keep.column()}, metadata={NOTED: json.dumps(noted)})


def _ids(shard: list[ShardRow]) -> pa.Array:
    """Whole numbers where all ids are, else text; a row without one is told by its place there."""
    ids = array_of([row.id for row in shard])
    if pa.types.is_integer(ids.type):
        return ids
    return pa.array([row.place if row.id is None else as_text(row.id) for row in shard], pa.string())


def _row(prompt: Prompt, position: int, place: str, plan: ScorePlan) -> ShardRow:
    """The columns of one prompt."""
    error, identity = prompt.error, prompt.id
    if identity is None and plan.spec.input.id:
        error = error or "id is null"
    elif identity is None:
        identity = place
    content = messages = body = ""
    n_bytes = 0
    if not error:
        try:
            messages = whole(json.dumps(prompt.messages, ensure_ascii=False, allow_nan=False))
            content = canonical(prompt.messages, messages)
            body = json.dumps(prompt.body, sort_keys=True, allow_nan=False) if prompt.body else ""
            n_bytes = prompt_tokens_bound(prompt.messages)
        except (TypeError, ValueError, RecursionError):  # a date of Parquet's, an Infinity of Python's
            content = messages = body = ""
            error = "the messages hold a value that is no JSON"
    return ShardRow(
        row=position, id=identity, place=place, messages=messages, body=body,
        content_key=content_key(content, body),
        id_key=digest16("", place) if identity is None else digest16(as_text(identity)), prompt_bytes=n_bytes,
        input_error=whole(error), gold=prompt.gold, text="" if error else whole(plan.frame.inner(prompt.text)),
        noted=() if error else prompt.noted,
    )  # fmt: skip


class Scorer:
    """Actor: predicts a shard and writes it. The router is loaded once per actor and sees each row once."""

    def __init__(self, spec: JobSpec, output: str) -> None:
        self.store = Store(output)
        self.note = lent_device("the router").note
        self.router = load_router(spec)
        self.columns = router_columns(self.router, spec)

    def __call__(self, shards: pa.Table) -> pa.Table:
        parts = [self._score(_unpacked(packed)) for packed in shards["shard"]]
        return pa.table({"part": [json.dumps(asdict(part)) for part in parts]})

    def _score(self, shard: pa.Table) -> Part:
        good = pc.equal(shard["input_error"], "").to_numpy(zero_copy_only=False)
        predicted = np.full((len(shard), len(self.columns)), np.nan, np.float32)
        texts = shard["text"].filter(pa.array(good)).to_pylist()
        if texts:
            predicted[good] = self.router.predict(texts)[:, self.columns]
        bucket = shard["bucket"][0].as_py()
        name = f"scored/part-{bucket:010d}.parquet"
        table = shard.drop_columns("text").append_column("predicted", predicted_column(predicted))
        noted = json.loads((shard.schema.metadata or {}).get(NOTED, b"{}"))
        table = table.replace_schema_metadata(None)
        self.store.write_table(name, table, row_group_size=8192)
        return Part(
            bucket=bucket, name=name, rows=len(shard), input_errors=int((~good).sum()), predicted_rows=len(texts),
            prompt_bytes=int(pc.sum(shard["prompt_bytes"]).as_py() or 0), noted=noted,
            note=self.note,
        )  # fmt: skip


def run_score(plan: ScorePlan, output: str, on_rows: Callable[[int], None] = lambda rows: None) -> list[Part]:
    """Execute the stage. Returns the parts written, in input order. Raises InputError for a set without a row.

    `on_rows` hears how many rows are scored so far.
    """
    splits = [{"split": i, "files": files} for i, files in enumerate(make_splits(plan.files))]
    scorers = scorers_of(plan.spec, look())
    rows = ray.data.from_items(splits, override_num_blocks=len(splits)).map_batches(
        _read_batch,  # type: ignore[arg-type]
        fn_kwargs={"plan": plan},
        batch_size=1,
        batch_format="pandas",
        num_cpus=0.5,
    )
    scored = rows.map_batches(
        Scorer,
        fn_constructor_args=(plan.spec, output),
        batch_size=1,  # a shard; Ray Data takes no actors with a GPU without a number here
        batch_format="pyarrow",
        zero_copy_batch=True,
        compute=ray.data.ActorPoolStrategy(size=min(len(splits), scorers.most)),
        num_cpus=SCORER_CPUS,
        num_gpus=scorers.gpus,
    )
    parts: list[Part] = []
    done = 0
    for row in scored.iter_rows():
        parts.append(Part.from_json(json.loads(row["part"])))
        done += parts[-1].rows
        on_rows(done)
    parts.sort(key=lambda part: part.bucket)
    if not parts:
        raise InputError("input.path: the files hold no rows; there is nothing to answer")
    return parts


def _read_batch(batch: pd.DataFrame, plan: ScorePlan) -> Iterator[pa.Table]:
    for split, files in zip(batch["split"], batch["files"], strict=True):
        for shard in read_split(int(split), [int(index) for index in files], plan):
            yield _packed(shard)


def _packed(shard: pa.Table) -> pa.Table:
    """One row, so that no batch of rows cuts a shard in two."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, shard.schema) as writer:
        writer.write_table(shard)
    return pa.table({"shard": pa.array([sink.getvalue().to_pybytes()], pa.large_binary())})


def _unpacked(packed: pa.Scalar) -> pa.Table:
    return pa.ipc.open_stream(packed.as_buffer()).read_all()
