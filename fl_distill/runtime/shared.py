"""Memory that processes of this machine share: files without a name, mapped by whoever holds a descriptor."""

import contextlib
import mmap
import os
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from pathlib import Path

from .frames import FrameError

_NAME = "fl-distill"
_GRAIN = 1 << 16
_ALIGN = 64


def anonymous_file() -> int:
    """A descriptor of an empty file that vanishes with its last user, whatever ends that user."""
    if hasattr(os, "memfd_create"):
        return os.memfd_create(_NAME)
    with tempfile.TemporaryFile() as file:
        return os.dup(file.fileno())


class Region:
    """A growing file, mapped as far as needed; one process at a time writes to a place, any other reads."""

    def __init__(self, descriptor: int, *, writable: bool) -> None:
        self._descriptor = descriptor
        self._access = mmap.ACCESS_WRITE if writable else mmap.ACCESS_READ
        self._map: mmap.mmap | None = None

    @property
    def descriptor(self) -> int:
        """Of the file; negative once it is closed."""
        return self._descriptor

    def write(self, offset: int, *parts: bytes) -> int:
        """Put the parts one behind the other at `offset`, and return where they end; the file grows when it has to."""
        end = offset + sum(map(len, parts))
        if end > offset:
            memory = self._mapped(end, grow=True)
            for part in parts:
                memory[offset : offset + len(part)] = part
                offset += len(part)
        return end

    def read(self, offset: int, length: int) -> bytes:
        """A copy of `length` bytes at `offset`. Raises `FrameError` when the file does not reach that far."""
        return self.cut(offset, [length])[0]

    def cut(self, offset: int, lengths: Sequence[int]) -> list[bytes]:
        """Copies of bytes that lie one behind the other at `offset`. Raises `FrameError` as `read` does."""
        if offset < 0 or min(lengths, default=0) < 0:
            raise FrameError(f"Expected places in shared memory, got offset {offset} and lengths {lengths!r:.60}.")
        ends = list(accumulate(lengths, initial=offset))
        if ends[-1] == offset:
            return [b""] * len(lengths)
        memory = self._mapped(ends[-1], grow=False)
        return [memory[start:end] for start, end in pairwise(ends)]

    def close(self) -> None:
        """Unmap and close the file here; other processes keep theirs."""
        if self._map is not None:
            self._map.close()
            self._map = None
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _mapped(self, end: int, *, grow: bool) -> mmap.mmap:
        if self._map is not None and end <= len(self._map):
            return self._map
        size = os.fstat(self._descriptor).st_size
        if end > size and grow:
            size = -(-end // _GRAIN) * _GRAIN
            os.ftruncate(self._descriptor, size)
        if end > size:
            raise FrameError(f"Expected {end} bytes in shared memory, found {size}.")
        if self._map is not None:
            self._map.close()
        self._map = mmap.mmap(self._descriptor, size, access=self._access)
        return self._map


@dataclass(frozen=True)
class Address:
    """Where a process has a file open: on this machine, since it started, as that process sees its neighbours."""

    machine: str
    process: int
    descriptor: int
    file: tuple[int, int]

    @classmethod
    def of(cls, descriptor: int) -> "Address":
        """The address of a file of this process."""
        about = os.fstat(descriptor)
        return cls(_machine(), os.getpid(), descriptor, (about.st_dev, about.st_ino))


def opened(address: Address, flags: int, kind: str) -> int | None:
    """A descriptor of another process's file; None where it is out of reach, or is not the one that was meant.

    `kind` is how the system's name for such a file begins.
    """
    path = f"/proc/{address.process}/fd/{address.descriptor}"
    try:
        about = os.stat(path)
        same = (about.st_dev, about.st_ino) == address.file and os.readlink(path).startswith(kind)
        if address.machine != _machine() or not same:
            return None
        found = os.open(path, flags)
        about = os.fstat(found)
        if (about.st_dev, about.st_ino) != address.file:  # another one by now
            os.close(found)
            return None
    except OSError:
        return None
    return found


def reached(address: Address, *, writable: bool) -> Region | None:
    """Another process's anonymous file, once `opened`, or None."""
    key = address, writable
    if key in _reached:
        _reached[key] = _reached.pop(key)  # the last to be dropped
        return _reached[key]
    if (found := opened(address, os.O_RDWR if writable else os.O_RDONLY, f"/memfd:{_NAME} ")) is None:
        return None
    while len(_reached) >= _MOST_REACHED:
        _reached.pop(next(iter(_reached))).close()
    _reached[key] = Region(found, writable=writable)
    return _reached[key]


_reached: dict[tuple[Address, bool], Region] = {}
_MOST_REACHED = 64


def _machine() -> str:
    """What only processes have in common that can reach each other's files by number."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"unknown {os.getpid()}"


@dataclass(slots=True)
class Item:
    """Bytes that lie in the library; `users` counts the messages on their way that need them."""

    data: bytes
    serial: int
    offset: int
    size: int
    users: int = 0


class Library:
    """The parent's side: each distinct `bytes` object is written once, however many messages carry it.

    Identity of the object decides, and the library holds it, so it can neither change nor give its identity
    away. What no message needs any longer stays until its place is wanted: the next round may need it again.
    """

    def __init__(self, on_evict: Callable[[int], None], growth: int = 1 << 25) -> None:
        self._growth = growth
        self.descriptor = anonymous_file()
        self._region = Region(self.descriptor, writable=True)
        self._on_evict = on_evict
        self._items: dict[int, Item] = {}
        self._by_identity: dict[int, Item] = {}
        self._idle: dict[int, Item] = {}
        self._free = [(0, 0)]
        self._serial = 0

    def borrow(self, data: bytes) -> Item:
        """The item that holds `data`, written now if it is not there yet; give it back with `release`."""
        item = self._by_identity.get(id(data))
        if item is None:
            item = self._add(data)
        item.users += 1
        self._idle.pop(item.serial, None)
        return item

    def release(self, items: Sequence[Item]) -> None:
        """One message less needs these."""
        for item in items:
            item.users -= 1
            if item.users == 0:
                self._idle[item.serial] = item

    def data(self, serial: int) -> bytes:
        """The bytes of an item in use. Raises `FrameError` when there is none of that number."""
        if serial not in self._items:
            raise FrameError(f"Expected the number of shared bytes in use, got {serial}.")
        return self._items[serial].data

    @property
    def size(self) -> int:
        """Bytes of the file, used or not."""
        return os.fstat(self.descriptor).st_size

    def close(self) -> None:
        """Give the memory back."""
        self._items.clear()
        self._by_identity.clear()
        self._idle.clear()
        self._region.close()

    def _add(self, data: bytes) -> Item:
        size = -(-len(data) // _ALIGN) * _ALIGN
        self._serial += 1
        item = Item(data, self._serial, self._allocate(size), size)
        self._region.write(item.offset, data)
        self._items[item.serial] = self._by_identity[id(data)] = item
        return item

    def _allocate(self, size: int) -> int:
        """First fit; then make room by forgetting what is idle, oldest first; then grow."""
        while (offset := self._first_fit(size)) is None:
            if self._idle:
                self._evict(next(iter(self._idle.values())))
            else:
                self._grow(size)
        return offset

    def _first_fit(self, size: int) -> int | None:
        for index, (offset, length) in enumerate(self._free):
            if length >= size:
                self._free[index : index + 1] = [(offset + size, length - size)] if length > size else []
                return offset
        return None

    def _evict(self, item: Item) -> None:
        del self._idle[item.serial], self._items[item.serial], self._by_identity[id(item.data)]
        self._give(item.offset, item.size)
        self._on_evict(item.serial)

    def _grow(self, size: int) -> None:
        end = self.size
        more = max(size, self._growth)
        os.ftruncate(self.descriptor, end + more)
        self._give(end, more)

    def _give(self, offset: int, length: int) -> None:
        """Return a range to the sorted free list, joined with its neighbours."""
        ranges: list[tuple[int, int]] = []
        for start, extent in sorted([*self._free, (offset, length)]):
            if ranges and sum(ranges[-1]) == start:
                ranges[-1] = (ranges[-1][0], ranges[-1][1] + extent)
            elif extent:
                ranges.append((start, extent))
        self._free = ranges


def close_quietly(*descriptors: int) -> None:
    """Close what is still open."""
    for descriptor in descriptors:
        with contextlib.suppress(OSError):
            os.close(descriptor)
