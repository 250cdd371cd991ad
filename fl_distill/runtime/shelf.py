"""Arrays that many messages share, written once where every process of this machine can read them."""

import os
from collections.abc import Sequence
from typing import Any

from flwr.app import Array, ArrayRecord

from .frames import Buffers, pack_arrays, unpack_arrays

Place = list[Any]
"""Process, descriptor, serial number and table: all that a reader needs."""

WORTH_IT = 1 << 15
"""Bytes from which a record is shared rather than sent with each message."""


class Shelf:
    """The writer's side: records in anonymous memory files, until nobody needs them any more."""

    def __init__(self) -> None:
        self._places: dict[int, tuple[ArrayRecord, Place]] = {}
        self._serial = 0

    def put(self, record: ArrayRecord) -> Place | None:
        """Where this record lies now; None when it is too small, or this system has no such files."""
        if id(record) in self._places:
            return self._places[id(record)][1]
        if not hasattr(os, "memfd_create") or sum(len(a.data) for a in record.values()) < WORTH_IT:
            return None
        buffers: Buffers = []
        table = pack_arrays(record, buffers)
        descriptor = os.memfd_create("fl-distill", os.MFD_CLOEXEC)
        for buffer in buffers:
            _write(descriptor, buffer)
        self._serial += 1
        place = [os.getpid(), descriptor, self._serial, table, [len(b) for b in buffers]]
        self._places[id(record)] = (record, place)  # holding the record keeps its id its own
        return place

    def clear(self) -> None:
        """Give the memory back; nothing may still be read from here."""
        for _, place in self._places.values():
            os.close(place[1])
        self._places.clear()


class Reader:
    """A worker's side: the last record read, since a round's messages share one."""

    def __init__(self) -> None:
        self._serial = -1
        self._arrays: dict[str, Array] = {}

    def get(self, place: Sequence[Any]) -> ArrayRecord:
        """The record at a place, in a container of its own."""
        process, descriptor, serial, table, lengths = place
        if serial != self._serial:
            self._arrays = dict(unpack_arrays(table, _read(f"/proc/{process}/fd/{descriptor}", lengths)))
            self._serial = serial
        return ArrayRecord(self._arrays)


def _write(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _read(path: str, lengths: Sequence[int]) -> Buffers:
    buffers, offset = [], 0
    descriptor = os.open(path, os.O_RDONLY)
    try:
        for length in lengths:
            data = os.pread(descriptor, length, offset)
            while len(data) < length:
                more = os.pread(descriptor, length - len(data), offset + len(data))
                if not more:
                    raise EOFError("a shared record is shorter than its table says")
                data += more
            buffers.append(data)
            offset += length
    finally:
        os.close(descriptor)
    return buffers
