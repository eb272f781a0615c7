"""What the judge said of the sample, read back from the run: for the accounting, and for routers that learn from the run."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from jobs.route.plan.entries import PilotEntry
from jobs.storage.keys import find_keys
from jobs.storage.store import Store

JUDGED = "_judged"
"""Column of the pilot's quality.parquet: the row's quality is the judge's. No model has a name like this."""


def judged_quality(store: Store, pilot: PilotEntry | None) -> pa.Table | None:
    """The rows that the judge of a pilot judged: row_key, and quality by model. None where it had none."""
    if pilot is None or pilot.judge is None:
        return None
    table = store.read_table(f"{pilot.folder}/quality.parquet")
    return table.filter(table[JUDGED]).drop_columns(JUDGED)


def judged_rows(
    table: pa.Table | None, row_key: NDArray[np.int64], names: Sequence[str]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """(k, m) the judge's quality of these rows, NaN where it has none, and (k,) which of them it judged.

    table: `judged_quality` of the run.
    """
    quality, judged = np.full((len(row_key), len(names)), np.nan), np.zeros(len(row_key), bool)
    if table is not None and len(table):
        at = find_keys(table["row_key"].to_numpy(), row_key)
        judged = at >= 0
        for j, name in enumerate(names):
            quality[judged, j] = table[name].to_numpy()[at[judged]]
    return quality, judged
