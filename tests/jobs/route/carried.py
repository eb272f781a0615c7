"""What becomes of ids and kept columns on their way from input files to responses/, without Ray: tests write files and look."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from jobs.route.account.column_types import input_types
from jobs.route.score import stage
from jobs.route.score.entries import Part
from jobs.route.score.files import list_files
from jobs.route.score.stage import plan_score, read_split
from jobs.spec.loader import parse_spec
from jobs.storage.store import Store

MODELS = {"a": {"engine": "vllm", "source": "s"}, "b": {"engine": "openai"}}


@dataclass
class Carried:
    """All shards of an input, and the columns of responses/ that come from it."""

    scored: pa.Table
    """Those columns of scored/ that have one type."""
    id: pa.ChunkedArray
    keep: dict[str, pa.ChunkedArray]

    @property
    def errors(self) -> list[str]:
        return list(self.scored["input_error"].to_pylist())


def carried(folder: Path, spec: dict[str, Any], shard_rows: int | None = None, **more: Any) -> Carried:
    """The files in `folder`/in. spec: the job's `input` but its path. shard_rows: few, so that there are many parts."""
    data = {"output": str(folder / "out"), "router": "random", "models": MODELS, "weak": "a", "strong": "b"}
    spec = {"path": str(folder / "in"), **spec}
    job = parse_spec({**data, "input": spec, "policy": {"strong_share": 0.5}, **more})
    files = list_files(job.input)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(stage, "SHARD_ROWS", shard_rows or stage.SHARD_ROWS)
        shards = list(read_split(0, range(len(files)), plan_score(job, files)))
    store, parts = Store(job.output), []
    for number, shard in enumerate(shards):
        name = f"scored/part-{number:010d}.parquet"
        store.write_table(name, shard)
        parts.append(Part(bucket=number, name=name, rows=len(shard)))
    types = input_types(store, parts, len(job.input.keep))
    tables = [store.read_table(part.name) for part in parts]
    columns = list(zip(*(types.kept(table) for table in tables), strict=True))
    return Carried(
        pa.concat_tables([table.drop_columns(["id", "keep"]) for table in tables]),
        pa.chunked_array([types.ids(table) for table in tables], types.id),
        {name: pa.chunked_array(each) for name, each in zip(job.input.keep, columns, strict=True)},
    )


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_parquet(path: Path, **columns: pa.Array | list[Any]) -> None:
    """With a prompt `q` a row, unless it is given."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = len(next(iter(columns.values())))
    pq.write_table(pa.table({"q": [f"what is {i}" for i in range(rows)], **columns}), path)
