"""Checks that every builder shares: what input it takes, and which values make sense."""

import math
from collections.abc import Sequence
from typing import TypeVar

_T = TypeVar("_T")


def size(name: str, value: object) -> int:
    """`value` where it is an integer of at least 1; ValueError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
    return value


def sizes(name: str, values: object, count: int | None = None) -> list[int]:
    """`values` where it is a list of (`count`) integers of at least 1; ValueError otherwise."""
    wanted = "a list of integers" if count is None else f"a list of {count} integers"
    if isinstance(values, str) or not isinstance(values, Sequence) or count not in (None, len(values)):
        raise ValueError(f"{name} must be {wanted} of at least 1, got {values!r}")
    return [size(f"{name}[{i}]", value) for i, value in enumerate(values)]


def rate(name: str, value: object) -> float:
    """`value` where it is a number with 0 <= value < 1; ValueError otherwise."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
        raise ValueError(f"{name} must be a number from 0 up to, but not including, 1, got {value!r}")
    return float(value)


def choice(name: str, value: str, options: dict[str, _T]) -> _T:
    """The option called `value`; ValueError with the valid names otherwise."""
    if value not in options:
        raise ValueError(f"{name} must be one of {', '.join(options)}, got {value!r}")
    return options[value]


def flat(input_shape: Sequence[int]) -> int:
    """How many numbers one example holds, whatever its shape."""
    if not input_shape:
        raise ValueError("an example must hold at least one number, got the input shape ()")
    return math.prod(sizes("input_shape", input_shape))


def image(model: str, input_shape: Sequence[int], smallest: int = 1) -> tuple[int, int, int]:
    """(channels, height, width), where `input_shape` is an image of at least `smallest` pixels a side."""
    if len(input_shape) != 3:
        raise ValueError(
            f"{model} takes images of shape (channels, height, width), got {tuple(input_shape)}: "
            "mlp takes any shape, tabular takes tables"
        )
    channels, height, width = sizes("input_shape", input_shape)
    if min(height, width) < smallest:
        raise ValueError(f"{model} takes images of at least {smallest}x{smallest} pixels, got {height}x{width}")
    return channels, height, width


def patch_side(height: int, width: int) -> int:
    """A patch side that cuts an image into at most 8 x 8 patches: 2 for 8x8 digits, 4 for 28x28 and 32x32."""
    return max(2, math.ceil(max(height, width) / 8))


def padding_to(multiple: int, height: int, width: int) -> tuple[int, int, int, int]:
    """Zeros to add (left, right, top, bottom) so that both sides are multiples of `multiple`."""
    return (0, -width % multiple, 0, -height % multiple)
