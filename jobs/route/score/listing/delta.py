"""The live files of a Delta table, through the `deltalake` package (an extra: `pip install headgate[delta]`).

The newest version is read: removed and replaced files are left out, and a later version is another input. What rests on more
than a list of files is refused: deletion vectors (rows removed within a file), column mapping (columns with other names in the
files), partition columns that the folders' names do not hold.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import unquote, urlsplit

import pyarrow as pa

from jobs.errors import InputError
from jobs.route.score.listing.partitions import folder_columns
from jobs.storage.filesystems import s3_endpoint
from jobs.storage.manifest import InputFile

REWRITE = "write its rows to a folder of their own and name that"
NEEDS = f'install what reads it (pip install "headgate[delta]"), or {REWRITE}'


def live_files(uri: str) -> list[InputFile]:
    """Files of the table's newest version, by name. Raises InputError for a table that they alone do not make up."""
    try:
        from deltalake import DeltaTable
        from deltalake.exceptions import DeltaError
    except ImportError:
        raise InputError(
            f"input.path: {uri} is a Delta table, whose files also hold rows that were removed; {NEEDS}"
        ) from None
    try:
        table = DeltaTable(uri, storage_options=_options(uri))
        rows = _rows(table.get_add_actions(flatten=True), "path", "size_bytes", "modification_time")
        why = _beyond_files(table, [path for path, *_ in rows])
    except (DeltaError, OSError) as error:
        said = str(error).strip().partition("\n")[0][:160]  # a trace of the library's own follows
        raise InputError(f"input.path: {uri}: not readable as a Delta table ({said}); {REWRITE}") from None
    if why:
        raise InputError(f"input.path: {uri} is a Delta table with {why}; {REWRITE}")
    # The log's paths are URLs; those of a shallow clone are whole ones.
    found = [InputFile(_joined(uri, unquote(path)), size, ms * 10**6) for path, size, ms in rows]
    return sorted(found, key=lambda file: file.uri)


def _options(uri: str) -> dict[str, str]:
    """What object_store has to know beside the environment, where it finds keys and region by itself."""
    endpoint = s3_endpoint() if uri.startswith("s3://") else ""
    if not endpoint:
        return {}
    return {"AWS_ENDPOINT_URL": endpoint, "AWS_ALLOW_HTTP": str(urlsplit(endpoint).scheme == "http").lower()}


def _beyond_files(table: Any, paths: list[str]) -> str:
    """What of the table its files do not say, "" for nothing."""
    if table.metadata().configuration.get("delta.columnMapping.mode", "none") != "none":
        return "renamed columns (delta.columnMapping.mode)"
    if "deletionVectors" in (table.protocol().reader_features or []):
        try:
            marked = any(batch.num_rows for batch in table.deletion_vectors())
        except Exception:  # noqa: BLE001 - there are some, and they cannot be read
            marked = True
        if marked:
            return "deletion vectors (run REORG TABLE … APPLY (PURGE) on it)"
    for name in table.metadata().partition_columns:
        if any(name not in folder_columns(unquote(path)) for path in paths):
            return f"a partition column {name!r} that is not in its folders' names"
    return ""


def _rows(actions: Any, *names: str) -> list[tuple[Any, ...]]:
    table = pa.table(actions)
    return list(zip(*(table[name].to_pylist() for name in names), strict=True))


def _joined(root: str, path: str) -> str:
    return path.removeprefix("file://") if "://" in path or path.startswith("/") else f"{root.rstrip('/')}/{path}"
