"""The Arrow type of a column of PostgreSQL: the one that Arrow finds for its values, for when there are none.

May import storage's module of SQL.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from dagengine.storage.external_sql import Column

if TYPE_CHECKING:
    import pyarrow

_NUMERIC: Final = 1700
_NUMERICS: Final = 1231
_ZONED: Final = 1184
_ZONEDS: Final = 1185

_ALIASES: Final = (  # Arrow's name; numbers of the types and, in the same order, of arrays of them
    ("bool", (16,), (1000,)),
    ("int64", (20, 21, 23, 26), (1016, 1005, 1007, 1028)),
    ("double", (700, 701), (1021, 1022)),
    # text, varchar, bpchar, name, "char", and what becomes text: json, jsonb, uuid, xml, money
    ("string", (25, 1043, 1042, 19, 18, 114, 3802, 2950, 142, 790), (1009, 1015, 1014, 1003, 1002)),
    ("binary", (17,), (1001,)),
    ("date32", (1082,), (1182,)),
    ("time64[us]", (1083,), (1183,)),
    ("timestamp[us]", (1114,), (1115,)),
    ("duration[us]", (1186,), (1187,)),
)
_ONES: Final = {number: alias for alias, ones, _ in _ALIASES for number in ones}
_ARRAYS: Final = {number: alias for alias, _, arrays in _ALIASES for number in arrays}


def arrow_type(column: Column) -> pyarrow.DataType | None:
    """None: not known."""
    if column.type is None:
        return None
    import pyarrow

    if column.type in _ONES:
        return pyarrow.type_for_alias(_ONES[column.type])
    if column.type in _ARRAYS:
        return pyarrow.list_(pyarrow.type_for_alias(_ARRAYS[column.type]))
    if column.type in (_ZONED, _ZONEDS):
        zoned = pyarrow.timestamp("us", tz=column.zone)
        return zoned if column.type == _ZONED else pyarrow.list_(zoned)
    precision, scale = column.precision or 0, column.scale or 0
    if column.type in (_NUMERIC, _NUMERICS) and 0 < precision <= 76 and scale <= precision:
        number = (pyarrow.decimal128 if precision <= 38 else pyarrow.decimal256)(precision, scale)
        return number if column.type == _NUMERIC else pyarrow.list_(number)
    return None
