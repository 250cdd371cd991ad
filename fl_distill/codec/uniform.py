"""Evenly spaced levels with a scale a block: the nearest, one at random, or with a dither that is taken off again.

`uniform` and `stochastic`: scale s = max |x| / q, q = 2^(bits - 1) - 1, rounded up to a bfloat16, which makes it larger
by 1/128 at most; level l = round(x / s), or round(x / s + d) with the dither d of `counter`, in -q .. q; the code is
l + 2^(bits - 1), so that code 0 is not used; decoded s l. The error is at most s / 2; with dither it is below s and has
mean 0, to s / 512 since dithers are bytes.

`dither`: s = 2 max |x| / (2^bits - 1), rounded up likewise; code c = round(x / s + (2^bits - 1) / 2 + d), all 2^bits of
them; decoded s (c - (2^bits - 1) / 2 - d). The error is s / 2 at most, and even in distribution whatever x is.

A block of zeros has scale 0. Any other scale is at least 2^-126, so that where x is a denormal number the error is at
most 2^-127, if that is more; and at most what leaves every decoded number finite: what would need a larger one, and is
beyond 2^126, is clipped. Wire form: see `blocks`.

Sources: Alistarh et al. 2017 (QSGD), arXiv 1610.02132; Roberts 1962 and Schuchman 1964 for subtractive dither.
"""

import math
from abc import ABC, abstractmethod
from typing import final

import numpy as np
import torch
from torch import Tensor

from .blocks import Blocks, Quantized
from .coder import About
from .counter import dithers
from .packing import Raw
from .scales import TINY, rounded_up


class _Symmetric(Blocks, ABC):
    """Levels -q .. q, zero among them."""

    lowest = 1

    def __init__(self, bits: int = 8, block: int = 64) -> None:
        super().__init__(bits, block, 2, 8, 2 ** (bits - 1) - 1 if bits in range(2, 9) else 1)

    @abstractmethod
    def round(self, levels: Tensor, about: About, first: int) -> None:
        """Numbers from number `first` to whole ones, in place."""

    def quantize(self, x: Tensor, about: About, first: int, scratch: Tensor, codes: Tensor) -> Quantized:
        """s = max |x| / q."""
        scales = scaled(x, 2 ** (self.bits - 1) - 1, self.limit, scratch)
        self.round(scratch, about, first)
        shifted(scratch, self.bits, codes)
        return scales, math.nan

    def units(self, codes: Raw, about: About, first: int, out: Tensor) -> None:
        """The levels."""
        levels = np.subtract(codes, np.uint8(1 << self.bits - 1)).view(np.int8)
        out.view(-1).copy_(torch.from_numpy(levels))


@final
class Uniform(_Symmetric):
    """2^bits - 1 levels around 0 up to a block's largest number, the nearest of them."""

    word = "uniform"

    def round(self, levels: Tensor, about: About, first: int) -> None:
        """To the nearest, a tie to the even one."""
        levels.round_()


@final
class Stochastic(_Symmetric):
    """2^bits - 1 levels around 0, one of the two next to a number by chance: right on average."""

    word = "stochastic"

    def round(self, levels: Tensor, about: About, first: int) -> None:
        """round(x + d)."""
        flat = levels.view(-1)
        flat.add_(dithers(about.seed, first, len(flat))).round_()


@final
class Dither(Blocks):
    """2^bits levels, shifted by a dither that the receiver takes off: right on average, with an error of its own."""

    word = "dither"

    def __init__(self, bits: int = 8, block: int = 64) -> None:
        super().__init__(bits, block, 1, 8, 2 ** (bits - 1) if isinstance(bits, int) and 0 < bits <= 8 else 1)
        self.middle = ((1 << self.bits) - 1) / 2

    def quantize(self, x: Tensor, about: About, first: int, scratch: Tensor, codes: Tensor) -> Quantized:
        """s = max |x| / middle."""
        scales = scaled(x, self.middle, self.limit, scratch)
        flat = scratch.view(-1)
        # From -2^(bits - 1), since the conversion to int8 is fast and the one to uint8 is not.
        shift = self.middle - (1 << self.bits - 1)
        flat.add_(dithers(about.seed, first, len(flat)).add_(shift)).round_()
        shifted(scratch, self.bits, codes)
        return scales, math.nan

    def units(self, codes: Raw, about: About, first: int, out: Tensor) -> None:
        """c - middle - d."""
        flat = out.view(-1)
        flat.copy_(torch.from_numpy(codes.copy())).sub_(dithers(about.seed, first, len(codes)).add_(self.middle))


def scaled(x: Tensor, top: float, limit: float, out: Tensor) -> Tensor:
    """x / s into `out`, |x / s| <= top, and s: max |x| / top rounded up; (R, B), (R, B) -> (R,).

    s is a bfloat16 from 2^-126 to `limit`, or 0 where all of x is.
    """
    largest = torch.abs(x, out=out).amax(1)
    scales = rounded_up(largest / top)
    least, most = torch.aminmax(scales)
    usual = float(least) >= TINY and float(most) < limit  # nothing left to do: each small operation takes its time
    if not usual:
        scales.clamp_(TINY, limit)
    torch.mul(x, scales.reciprocal()[:, None], out=out)
    if not usual:
        out.clamp_(-top, top)
        scales.mul_(largest.sign_())
    return scales


def shifted(levels: Tensor, bits: int, codes: Tensor) -> None:
    """Whole numbers from -2^(bits - 1) to codes from 0: (R, B) float32 -> (R * B,) uint8."""
    # By way of int8: the conversion to uint8 is twenty times slower.
    codes.view(torch.int8).copy_(levels.view(-1))
    raw = codes.numpy()
    np.add(raw, np.uint8(1 << bits - 1), out=raw)
