"""A step of a codec: numbers to bytes and back, exactly checked on the way in."""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import ClassVar

from torch import Tensor

from ..errors import BadUpdate

Bytes = bytes | bytearray | memoryview


@dataclass(frozen=True)
class About:
    """What sender and receiver both know of a vector before any byte of it travels."""

    shapes: tuple[tuple[int, ...], ...]
    """Shapes of the tensors that lie in it, end to end."""
    seed: int = 0
    """64 bits from which rotations, dithers and random starts follow."""

    @property
    def numel(self) -> int:
        """How many numbers there are."""
        return sum(math.prod(shape) for shape in self.shapes)

    def flat(self, numel: int) -> "About":
        """The same for a vector of `numel` numbers without structure."""
        return replace(self, shapes=((numel,),))


class Coder(ABC):
    """Encodes vectors: float32, one-dimensional, contiguous, finite, on the CPU.

    `encode` is a function of its arguments alone, on every machine: no generator of a framework. `decode` raises
    `BadUpdate`, before it allocates what it cannot hold, for bytes that no `encode` of this vector gives.
    """

    word: ClassVar[str] = ""
    """Its name in the text of a chain, such as `rotate`; numbers may follow it, as in `uniform8x64`."""

    @abstractmethod
    def encode(self, x: Tensor, about: About) -> bytes:
        """The vector as bytes."""

    @abstractmethod
    def decode(self, data: Bytes, about: About) -> Tensor:
        """The vector that the bytes stand for: float32, (numel,), in memory of its own."""

    @abstractmethod
    def lengths(self, about: About) -> tuple[int, int]:
        """The least and the largest number of bytes that `encode` gives; equal where the numbers do not matter."""

    def add(self, data: Bytes, about: About, into: Tensor, weight: float) -> None:
        """`into` += `weight` * decoded, in place."""
        into.add_(self.decode(data, about), alpha=weight)

    def measured(self, x: Tensor, about: About) -> tuple[bytes, float]:
        """The bytes, and sum (x - decoded)^2; NaN where `encode` does not find it on its way."""
        return self.encode(x, about), math.nan

    def tiles(self, data: Bytes, about: About, most: float, start: int = 0) -> Iterator[tuple[int, Tensor]]:
        """Place and numbers of stretches of the vector that reach beyond number `start`; the next may overwrite one.

        `BadUpdate`, before the first, also where a number may be above `most`.
        """
        decoded = self.decode(data, about)
        if len(decoded) and max(-float(decoded.min()), float(decoded.max())) > most:
            raise BadUpdate(f"{self.word} holds a number above {most:.6g}")
        yield 0, decoded


class Grid(Coder):
    """The step that turns numbers into codes of few bits: the last one, or the last before an entropy coder."""


class Stage(Coder):
    """A step around another one, which encodes what this one makes of the vector."""

    def __init__(self, inner: Coder) -> None:
        self.inner = inner


class Transform(Stage):
    """A stage in front of the grid: a rotation, a selection, a factorisation."""


class Entropy(Stage):
    """A stage behind the grid: fewer bytes for the same codes."""


def check_length(data: Bytes, expected: int, what: str) -> None:
    """Raise `BadUpdate` unless there are `expected` bytes of `what`."""
    if len(data) != expected:
        raise BadUpdate(f"{what} has {len(data)} bytes, expected {expected}")


def words(kind: type[Coder]) -> dict[str, type[Coder]]:
    """Every final class below `kind`, by its word."""
    found: dict[str, type[Coder]] = {}
    for cls in kind.__subclasses__():
        found |= ({cls.word: cls} if cls.word else {}) | words(cls)
    return found
