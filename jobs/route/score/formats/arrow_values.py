"""What an Arrow array holds, as Python values that say the same: nothing is rounded, cut off or refused.

Numbers, text, dates and lists are Python's own; bytes that are UTF-8 are text, others stay bytes. Where Python's own type would
lose something (nanoseconds of a time of day) or cannot hold it (the year 10000), the value is text in ISO form. Cost: that of
Arrow's own conversion, but for columns with such values, which are gone through one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

DURATION_DIGITS = {"s": 0, "ms": 3, "us": 6, "ns": 9}


def python_values(array: pa.Array) -> list[Any]:
    """(n,) Python values, None for null."""
    kind = array.type
    if pa.types.is_dictionary(kind):
        return python_values(array.dictionary_decode())
    if pa.types.is_run_end_encoded(kind):
        return python_values(pc.run_end_decode(array))
    if isinstance(kind, pa.BaseExtensionType) and not isinstance(kind, pa.UuidType | pa.Bool8Type):
        return python_values(array.storage)
    if is_text(kind):
        return _of_bytes(array, _decoded)
    if is_bytes(kind):
        return _of_bytes(array, _decoded_hash if pa.types.is_fixed_size_binary(kind) else _decoded)
    try:
        if not any(map(_is_delicate, leaves(kind))):
            return list(array.to_pylist())
    except (ValueError, OverflowError, pa.ArrowException):
        pass  # of one value or more
    if pa.types.is_nested(kind):
        return _nested(array)
    return [_value(scalar) for scalar in array]


def is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_bytes(kind: pa.DataType) -> bool:
    variable = pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind)
    return bool(variable or pa.types.is_fixed_size_binary(kind))


def leaves(kind: pa.DataType) -> Iterator[pa.DataType]:
    """The types in a nested type that are not nested themselves; of another type, itself."""
    if pa.types.is_nested(kind):
        for i in range(kind.num_fields):
            yield from leaves(kind.field(i).type)
    else:
        yield kind


def objects_of(value: Any) -> Any:
    """`value` with the maps in it, which Arrow gives as lists of pairs, as objects; one that has a key twice stays as it is."""
    if isinstance(value, dict):
        return {key: objects_of(each) for key, each in value.items()}
    if not isinstance(value, list):
        return value
    keys = [each[0] for each in value if isinstance(each, tuple)]
    if keys and len(set(keys)) == len(value) and all(isinstance(key, str) for key in keys):
        return {key: objects_of(each) for key, each in value}
    return [objects_of(each) for each in value]


def _is_delicate(kind: pa.DataType) -> bool:
    """Whether Arrow's own conversion may lose something of it, or gives what is no text."""
    coded = pa.types.is_dictionary(kind) or isinstance(kind, pa.BaseExtensionType)
    return is_bytes(kind) or coded or kind == pa.time64("ns")


def _of_bytes(array: pa.Array, decoded: Callable[[list[bytes | None]], list[Any]]) -> list[Any]:
    return decoded(array.cast(pa.large_binary()).to_pylist())


def _decoded(raw: list[bytes | None]) -> list[str | bytes | None]:
    """One value that is not UTF-8 stays bytes, and its neighbours are text."""
    return [None if each is None else _text(each) for each in raw]


def _decoded_hash(raw: list[bytes | None]) -> list[str | bytes | None]:
    """Of a fixed size: codes and hashes, of which one that happens to be UTF-8 is no text among others that are not."""
    texts = _decoded(raw)
    return texts if all(text is None or (isinstance(text, str) and text.isprintable()) for text in texts) else list(raw)


def _text(raw: bytes) -> str | bytes:
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        return raw


def _nested(array: pa.Array) -> list[Any]:
    """Of a struct, a list or a map, by its children."""
    valid = array.is_valid().to_pylist()
    kind = array.type
    if pa.types.is_struct(kind):
        names = [kind.field(i).name for i in range(kind.num_fields)]
        rows = zip(*(python_values(child) for child in array.flatten()), strict=True)
        return [dict(zip(names, row, strict=True)) if ok else None for ok, row in zip(valid, rows, strict=True)]
    if pa.types.is_map(kind):
        pairs = pa.struct([pa.field("key", kind.key_type), pa.field("value", kind.item_type)])
        lists = python_values(array.cast(pa.list_(pairs)))
        return [None if each is None else [(pair["key"], pair["value"]) for pair in each] for each in lists]
    if pa.types.is_union(kind):
        return [_value(scalar) for scalar in array]
    items = iter(python_values(array.flatten()))
    lengths = pc.list_value_length(array).to_pylist()
    return [[next(items) for _ in range(length)] if ok else None for ok, length in zip(valid, lengths, strict=True)]


def _value(scalar: pa.Scalar) -> Any:
    """One value that is not nested."""
    if scalar.type == pa.time64("ns"):
        return scalar.as_py() if not scalar.is_valid or scalar.value % 1000 == 0 else scalar.cast(pa.string()).as_py()
    try:
        return scalar.as_py()
    except (ValueError, OverflowError, pa.ArrowException):
        return _iso(scalar)


def _iso(scalar: pa.Scalar) -> str:
    """A date, a time or a duration beyond what Python can hold, or in a zone that this machine does not know: then of UTC."""
    kind = scalar.type
    if pa.types.is_duration(kind):
        return iso_duration(scalar.value, DURATION_DIGITS[kind.unit])
    if pa.types.is_timestamp(kind):
        return f"{np.datetime64(scalar.value, kind.unit)}{'Z' if kind.tz else ''}"
    return str(np.datetime64(scalar.value, "D") if pa.types.is_date32(kind) else scalar.cast(pa.string()).as_py())


def iso_duration(ticks: int, digits: int) -> str:
    """ISO 8601, in seconds alone: `PT90.5S`. digits: ticks are of so many decimal places of a second."""
    whole, part = divmod(abs(ticks), 10**digits)
    fraction = f".{part:0{digits}d}".rstrip("0") if part else ""
    return f"{'-' if ticks < 0 else ''}PT{whole}{fraction}S"
