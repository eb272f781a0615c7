"""Read a pickled pandas table without executing what a pickle may name.

A pickle is a program: it names callables and calls them. RouterBench ships its table as one. Here every name is
looked up in an allow-list of the reconstruction functions of pandas and numpy (and the Arrow buffers behind pandas 3
strings); any other name is refused before it is imported or called. Old module paths are mapped to today's. Cost:
that of pickle. No code of the file runs; its data is still trusted to be well formed, and a crafted array could crash
the process.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

import numpy as np
import pyarrow as pa

from routing.errors import RoutingError

# Exact names, never whole modules: numpy and pandas hold functions that open files and evaluate text.
ALLOWED = {
    ("builtins", "slice"): ("builtins", "slice"),
    ("builtins", "bytearray"): ("builtins", "bytearray"),
    ("__builtin__", "slice"): ("builtins", "slice"),
    ("__builtin__", "bytearray"): ("builtins", "bytearray"),
    ("_codecs", "encode"): ("_codecs", "encode"),
    ("numpy", "dtype"): ("numpy", "dtype"),
    ("numpy", "ndarray"): ("numpy", "ndarray"),
    **{
        (f"numpy.{core}.{module}", name): (f"numpy._core.{module}", name)
        for core in ("core", "_core")
        for module, name in (("multiarray", "_reconstruct"), ("multiarray", "scalar"), ("numeric", "_frombuffer"))
    },
    ("pandas", "DataFrame"): ("pandas", "DataFrame"),
    ("pandas", "Index"): ("pandas", "Index"),
    ("pandas", "RangeIndex"): ("pandas", "RangeIndex"),
    ("pandas", "StringDtype"): ("pandas", "StringDtype"),
    ("pandas.arrays", "ArrowStringArray"): ("pandas.arrays", "ArrowStringArray"),
    ("pandas.core.frame", "DataFrame"): ("pandas", "DataFrame"),
    ("pandas.core.indexes.base", "Index"): ("pandas", "Index"),
    ("pandas.core.indexes.base", "_new_Index"): ("pandas.core.indexes.base", "_new_Index"),
    # pandas 1 had an index class per number type; they are plain Index since 2.0.
    ("pandas.core.indexes.numeric", "Int64Index"): ("pandas", "Index"),
    ("pandas.core.indexes.range", "RangeIndex"): ("pandas", "RangeIndex"),
    ("pandas.core.internals.managers", "BlockManager"): ("pandas.core.internals.managers", "BlockManager"),
    ("pandas._libs.internals", "_unpickle_block"): ("pandas._libs.internals", "_unpickle_block"),
    ("pyarrow.lib", "_restore_array"): ("pyarrow.lib", "_restore_array"),
    ("pyarrow.lib", "py_buffer"): ("pyarrow.lib", "py_buffer"),
    ("pyarrow.lib", "type_for_alias"): ("pyarrow.lib", "type_for_alias"),
}


class _TableUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        target = ALLOWED.get((module, name))
        if target is None:
            raise RoutingError(
                f"refused: the pickle names {module}.{name}, which no pandas table needs;"
                " convert it to CSV or Parquet where it is trusted"
            )
        return super().find_class(*target)


def load_table(data: bytes) -> pa.Table:
    """The columns of a pickled DataFrame, without its index; cells that are neither text nor numbers become text.

    Raises RoutingError for any other content; nothing outside the allow-list runs.
    """
    import pandas as pd  # only this format needs it: half a second of import

    try:
        frame = _TableUnpickler(io.BytesIO(data)).load()
    except RoutingError:
        raise
    except Exception as error:  # damaged bytes raise nearly anything inside pickle, numpy and pandas
        raise RoutingError(f"not readable as a pickled pandas table ({type(error).__name__})") from error
    if not isinstance(frame, pd.DataFrame):
        raise RoutingError(f"the pickle holds a {type(frame).__name__}, not a pandas table")
    names = [str(name) for name in frame.columns]
    if len(set(names)) != len(names):
        raise RoutingError("a column is there more than once; keep one")
    columns = [frame.iloc[:, j].astype(object).tolist() for j in range(len(names))]
    return pa.table([pa.array(_plain(values), from_pandas=True) for values in columns], names)


def _plain(values: list[Any]) -> list[Any]:
    """Cells of a pickled column: lists and other objects as their text, so that a column has one type."""
    plain = (str, int, float, bool, type(None), np.number, np.bool_)
    if all(isinstance(value, plain) for value in values) and not any(isinstance(value, str) for value in values):
        return values
    return [None if value is None or value != value else str(value) for value in values]
