"""The one Arrow type that holds all values of a column, whatever the pieces of the column hold, and pieces made to have it.

    pieces → what each holds (`Held`) → `widest` → `cast_to`

Types widen only where every value stays what it is: whole numbers to float64 up to 2^53, decimals to more digits, timestamps to a
finer unit, structs to all their fields. Where nothing else holds all values the column is text (`text.as_text`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from jobs.route.score.formats.arrow_values import is_bytes, is_text, leaves, python_values
from jobs.route.score.values.text import as_text, text_array

EXACT = 2**53
"""Whole numbers up to it are floats too."""
FIRST_DAY, LAST_DAY = -719_162, 2_932_896
"""That Python's dates can hold, since 1970."""
UNITS = ("s", "ms", "us", "ns")


@dataclass(frozen=True, slots=True)
class Held:
    """What a piece of a column holds: a type of `plain_type`'s, and where that decides what else can hold it, between which
    values."""

    type: pa.DataType
    low: int = -(2**63)
    high: int = 2**64 - 1

    @classmethod
    def of(cls, array: pa.Array) -> Held:
        kind = array.type
        if not pa.types.is_integer(kind) and not pa.types.is_timestamp(kind):
            return cls(kind)
        numbers = array if pa.types.is_integer(kind) else array.cast(pa.int64())
        low, high = pc.min_max(numbers).as_py().values()
        return cls(kind, *((0, 0) if low is None else (low, high)))


def widest(pieces: Iterable[Held]) -> pa.DataType:
    """The type that holds all of them; null where they hold nothing."""
    held = [piece for piece in pieces if not pa.types.is_null(piece.type)]
    kinds = list(dict.fromkeys(piece.type for piece in held))
    if len(kinds) <= 1:
        return kinds[0] if kinds else pa.null()
    low, high = min(piece.low for piece in held), max(piece.high for piece in held)
    if all(map(pa.types.is_integer, kinds)):
        return _integer(low, high)
    if all(pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in kinds):
        whole = [piece for piece in held if pa.types.is_integer(piece.type)]
        exact = all(piece.low >= -EXACT and piece.high <= EXACT for piece in whole)
        if whole:
            return pa.float64() if exact else pa.string()
    if all(map(pa.types.is_timestamp, kinds)) and len({kind.tz for kind in kinds}) == 1:
        return _timestamp(held)
    return reduce(_common, kinds) or pa.string()


def plain(array: pa.Array) -> pa.Array:
    """The array in its `plain_type`, or as text where Arrow cannot write it so, or Python not read it."""
    kind = plain_type(array.type)
    if _is_beyond(array):
        return text_array(array)
    try:
        array.validate(full=True)
        if array.type == kind:
            return array.cast(kind)  # equal, but for names in lists
        if not any(isinstance(leaf, pa.BaseExtensionType) for leaf in leaves(array.type)):
            return array.cast(kind)
    except pa.ArrowException:
        pass
    return _rebuilt(array, kind)


def _is_beyond(array: pa.Array) -> bool:
    """Whether it holds a day outside of the years 1 to 9999: a table with one of them is closed to data frames."""
    kind = array.type
    if not pa.types.is_date32(kind) and not pa.types.is_timestamp(kind):
        return False
    ticks = 1 if pa.types.is_date32(kind) else 86_400 * 1000 ** UNITS.index(kind.unit)
    low, high = (
        pc.min_max(array.cast(pa.int32()).cast(pa.int64()) if ticks == 1 else array.cast(pa.int64())).as_py().values()
    )
    return low is not None and (low < FIRST_DAY * ticks or high >= (LAST_DAY + 1) * ticks)


def plain_type(kind: pa.DataType) -> pa.DataType:
    """As Parquet, and whoever reads it, has it: no encodings, views or extensions, no field that may not be null."""
    if pa.types.is_dictionary(kind) or pa.types.is_run_end_encoded(kind):
        return plain_type(kind.value_type)
    if isinstance(kind, pa.BaseExtensionType):
        own = {pa.UuidType: pa.string(), pa.Bool8Type: pa.bool_()}
        return own.get(type(kind)) or plain_type(kind.storage_type)
    if is_text(kind):
        return pa.string()
    if is_bytes(kind):
        return kind if pa.types.is_fixed_size_binary(kind) else pa.binary()
    if pa.types.is_struct(kind):
        return pa.struct([(kind.field(i).name, plain_type(kind.field(i).type)) for i in range(kind.num_fields)])
    if pa.types.is_map(kind):
        return pa.map_(plain_type(kind.key_type), plain_type(kind.item_type))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(plain_type(kind.value_type), kind.list_size)
    return pa.list_(plain_type(kind.value_type)) if pa.types.is_nested(kind) and kind.num_fields == 1 else kind


def cast_to(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """A plain array as the type that `widest` found."""
    if array.type == kind:
        return array
    if pa.types.is_string(kind):
        return text_array(array)
    try:
        return array.cast(kind)
    except pa.ArrowException:
        return _rebuilt(array, kind)


def _rebuilt(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """By way of Python, a value at a time; as text where that does not do either."""
    try:
        return pa.array([_fitting(value, kind) for value in python_values(array)], kind)
    except (pa.ArrowException, TypeError, ValueError, OverflowError):
        return text_array(array)


def _fitting(value: Any, kind: pa.DataType) -> Any:
    """Where the type has text, as text."""
    if value is None:
        return None
    if pa.types.is_string(kind):
        return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else as_text(value)
    if pa.types.is_struct(kind):
        return {
            kind.field(i).name: _fitting(value[kind.field(i).name], kind.field(i).type) for i in range(kind.num_fields)
        }
    if pa.types.is_map(kind):
        return [(_fitting(key, kind.key_type), _fitting(each, kind.item_type)) for key, each in value]
    return [_fitting(each, kind.value_type) for each in value] if pa.types.is_nested(kind) else value


def _integer(low: int, high: int) -> pa.DataType:
    if high < 2**63:
        return pa.int64()
    return pa.uint64() if low >= 0 else pa.string()


def _timestamp(held: list[Held]) -> pa.DataType:
    """In the finest unit of those here, where it reaches as far as the values do."""
    unit = max((piece.type.unit for piece in held), key=UNITS.index)
    for piece in held:
        ticks = 1000 ** (UNITS.index(unit) - UNITS.index(piece.type.unit))
        if not (piece.low * ticks >= -(2**63) and piece.high * ticks < 2**63):
            return pa.string()
    return pa.timestamp(unit, held[0].type.tz)


def _common(one: pa.DataType | None, other: pa.DataType | None) -> pa.DataType | None:
    """The type that holds all that two types can; None where there is none."""
    if one is None or other is None:
        return None
    if one == other or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    same = (pa.types.is_signed_integer, pa.types.is_unsigned_integer, pa.types.is_floating)
    if any(test(one) and test(other) for test in same):
        return max(one, other, key=lambda kind: kind.bit_width)
    if pa.types.is_decimal(one) and pa.types.is_decimal(other):
        return _decimal(one, other)
    if is_bytes(one) and is_bytes(other):
        return pa.binary()
    return _nested(one, other)


def _decimal(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    scale = max(one.scale, other.scale)
    digits = max(one.precision - one.scale, other.precision - other.scale) + scale
    if digits > 76:
        return None
    return pa.decimal128(digits, scale) if digits <= 38 else pa.decimal256(digits, scale)


def _nested(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    if pa.types.is_struct(one) and pa.types.is_struct(other):
        fields: dict[str, pa.DataType | None] = {}
        for field in [kind.field(i) for kind in (one, other) for i in range(kind.num_fields)]:
            fields[field.name] = _common(fields.get(field.name, field.type), field.type)
        return None if None in fields.values() else pa.struct(list(fields.items()))
    if pa.types.is_map(one) and pa.types.is_map(other):
        key, item = _common(one.key_type, other.key_type), _common(one.item_type, other.item_type)
        return None if key is None or item is None else pa.map_(key, item)
    if all(pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind) for kind in (one, other)):
        value = _common(one.value_type, other.value_type)
        return None if value is None else pa.list_(value)
    return None
