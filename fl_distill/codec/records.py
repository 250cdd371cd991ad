"""Flower's records made without its check of each item, which costs more than the rest of a small message.

Keys, scalars and records are checked as Flower does, all at once; the values of `make_arrays` are its caller's affair.
"""

from collections.abc import Mapping
from typing import Any, TypeVar

from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict

_KINDS = frozenset((ArrayRecord, MetricRecord, ConfigRecord))
_SCALARS: dict[type, frozenset[type]] = {
    MetricRecord: frozenset((int, float)),
    ConfigRecord: frozenset((int, float, str, bool, bytes)),
}
R = TypeVar("R", MetricRecord, ConfigRecord)
Record = ArrayRecord | MetricRecord | ConfigRecord


def make_array(dtype: str, shape: tuple[int, ...], stype: str, data: bytes) -> Array:
    """`Array(dtype, shape, stype, data)`. Raises TypeError for texts that are none and data that is not `bytes`."""
    if not (isinstance(dtype, str) and isinstance(stype, str) and isinstance(data, bytes)):
        raise TypeError(f"Expected str, str and bytes in an Array, got {dtype!r}, {stype!r} and {type(data)}.")
    array = Array.__new__(Array)
    array.__dict__.update(_is_dirty=True, dtype=dtype, shape=shape, stype=stype, data=data)
    return array


def make_arrays(arrays: dict[str, Array]) -> ArrayRecord:
    """`ArrayRecord(arrays)`, which keeps the dictionary. Raises TypeError for keys that are no texts."""
    _check_keys(arrays)
    record = ArrayRecord()
    record.__dict__.update(_data=arrays, _is_dirty=True)
    return record


def make_scalars(kind: type[R], values: dict[str, Any]) -> R:
    """`MetricRecord(values)` or `ConfigRecord(values)`, which keeps the dictionary where it holds no lists."""
    if not _SCALARS[kind].issuperset(map(type, values.values())):
        return kind(values)
    _check_keys(values)
    record = kind()
    record.__dict__["_data"] = values
    return record


def make_records(records: dict[str, Record]) -> RecordDict:
    """`RecordDict(records)`, which keeps the dictionary. Raises TypeError for what is no record."""
    _check_keys(records)
    if not _KINDS.issuperset(map(type, records.values())):
        return RecordDict(records)
    made = RecordDict()
    made.__dict__["_data"] = records
    return made


def _check_keys(items: Mapping[str, Any]) -> None:
    if not all(isinstance(key, str) for key in items):
        raise TypeError(f"Expected texts as keys of a record, got {list(items)!r}.")
