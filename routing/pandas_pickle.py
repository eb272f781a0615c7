"""Read a pickled pandas table without executing what a pickle may name.

A pickle is a program: it names callables and calls them. RouterBench ships its table as one. Here every name is
looked up in an allow-list of the reconstruction functions of pandas and numpy (and the Arrow buffers behind pandas 3
strings); any other name is refused before it is imported or called. Old module paths are mapped to today's. Cost:
that of pickle. Anything else than such a table should come as CSV or Parquet.
"""

from __future__ import annotations

import io
import pickle
from typing import Any

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


def load_table(data: bytes) -> Any:
    """The DataFrame in a pickle. Raises RoutingError for any other content; nothing outside the allow-list runs."""
    import pandas as pd  # only this format needs it: half a second of import

    try:
        table = _TableUnpickler(io.BytesIO(data)).load()
    except RoutingError:
        raise
    except Exception as error:  # damaged bytes raise nearly anything inside pickle, numpy and pandas
        raise RoutingError(f"not readable as a pickled pandas table ({type(error).__name__})") from error
    if not isinstance(table, pd.DataFrame):
        raise RoutingError(f"the pickle holds a {type(table).__name__}, not a pandas table")
    return table
