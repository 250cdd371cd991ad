"""Several sites' numbers added in one pass over memory, by as many threads as torch uses; needs numba."""

import logging
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from importlib.util import find_spec

import numpy as np
import torch
from numpy.typing import NDArray

SITES = 8
"""How many sites one pass adds."""
WORTH = 1 << 27
"""Numbers of all sites from which on it is worth the second or two that numba takes once a process."""
_PIECE = 1 << 18
"""Numbers that a thread takes at a time: their sums stay in its cache, while all sites' are added."""

Numbers = NDArray[np.float32]
Kernel = Callable[..., bool]
log = logging.getLogger("fl_distill.server")


def available() -> bool:
    """Whether numba is installed and adds here as torch does, to the last bit."""
    return _kernel() is not None


def add_up(
    sums: Sequence[Numbers], sites: Sequence[Sequence[Numbers]], weights: Sequence[float], largest: float
) -> list[int]:
    """Fill the vectors of `sums` with sum_k w_k x_k; returns places of sites who may have sent bad numbers.

    Places are in order, and of a whole pass: `SITES` sites among which a number is NaN or beyond `largest`. Vectors
    are contiguous float32, those of a site of the sizes of `sums`. Each site's are added after those before it, which
    gives the bits that `sums.add_(x, alpha=w)` gives in torch. Raises ValueError where sizes differ, and RuntimeError
    where it is not `available`.
    """
    if (add := _kernel()) is None:
        raise RuntimeError("adding several sites at once needs numba: pip install 'fl-distill[fast]'")
    sizes = [vector.size for vector in sums]
    for place, site in enumerate(sites):
        if (found := [vector.size for vector in site]) != sizes:
            raise ValueError(f"site {place} has vectors of {found} numbers, expected {sizes}")
    return _in_pieces(add, sums, sites, weights, largest)


def _in_pieces(
    add: Kernel,
    sums: Sequence[Numbers],
    sites: Sequence[Sequence[Numbers]],
    weights: Sequence[float],
    largest: float,
) -> list[int]:
    # Who is missing in the last pass says 0, with weight -0: that adds -0, which changes no number, not even a -0.
    passes, zero, limit = range(0, len(sites), SITES), np.zeros(_PIECE, np.float32), np.float32(largest)
    padded = [*weights, *[-0.0] * SITES]
    factors = [tuple(map(np.float32, padded[first : first + SITES])) for first in passes]
    pieces = [(part, *row) for row in zip(sums, *sites, strict=True) for part in _parts(row[0].size)]
    pieces.sort(key=lambda piece: piece[0].start - piece[0].stop)  # small ones last, so that threads end together
    waiting = iter(pieces)  # a list's iterator can serve several threads

    def work(_: int) -> set[int]:
        suspects = set()
        for part, total, *numbers in waiting:
            total = total[part]
            total.fill(-0.0)
            missing = [_readable(zero, slice(total.size))] * SITES
            for first in passes:
                parts = [_readable(x, part) for x in numbers[first : first + SITES]]
                parts += missing[len(parts) :]
                if not add(total, tuple(parts), factors[first // SITES], limit):
                    suspects.add(first)
        return suspects

    threads = torch.get_num_threads()
    with ThreadPoolExecutor(threads) as pool:
        suspects = set[int]().union(*pool.map(work, range(threads)))
    return [place for first in sorted(suspects) for place in range(first, min(first + SITES, len(sites)))]


def _parts(size: int) -> Iterator[slice]:
    for first in range(0, size, _PIECE):
        yield slice(first, min(first + _PIECE, size))


def _readable(numbers: Numbers, part: slice) -> Numbers:
    """A part, copied where a message put numbers where none may lie: one type for all that the kernel reads."""
    view = numbers[part] if numbers.flags.aligned else numbers[part].copy()
    view.flags.writeable = False
    return view


@lru_cache(maxsize=1)
def _kernel() -> Kernel | None:
    if find_spec("numba") is None:
        return None
    try:
        from .kernel import add

        good = _rounds_like_torch(add)
    except Exception as error:  # whatever is wrong with it costs a round some time, and no more
        log.warning("numba is installed and does not work here: %s: %s", type(error).__name__, error)
        return None
    if not good:
        log.warning("numba is installed and rounds otherwise than torch here: it is not used")
    return add if good else None


def _rounds_like_torch(add: Kernel) -> bool:
    sites = torch.randn(SITES + 3, 1003, generator=torch.Generator().manual_seed(0))
    weights = [0.1 + 3 * k for k in range(len(sites))]
    sums, total = np.empty(1003, np.float32), sites[0] * weights[0]
    suspects = _in_pieces(add, [sums], [[x.numpy()] for x in sites], weights, 100.0)
    for x, weight in zip(sites[1:], weights[1:], strict=True):
        total.add_(x, alpha=weight)
    return not suspects and torch.equal(total.view(torch.int32), torch.from_numpy(sums).view(torch.int32))
