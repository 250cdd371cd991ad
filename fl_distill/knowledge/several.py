"""Several sites' numbers added in one pass over memory, by as many threads as torch uses; needs numba."""

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
"""Numbers that a thread takes at a time."""

Numbers = NDArray[np.float32]
Kernel = Callable[..., bool]


def available() -> bool:
    """Whether numba is installed and adds here as torch does, to the last bit."""
    return _kernel() is not None


def add_up(
    sums: Sequence[Numbers],
    sites: Sequence[Sequence[Numbers]],
    weights: Sequence[float],
    largest: float,
    *,
    afresh: bool = False,
) -> bool:
    """sums = sums + sum_k w_k x_k, in place; whether no site has a number that is NaN or beyond `largest`.

    Vectors of `sums` and of each site are of the same sizes; `afresh`: the sums are 0, whatever they hold. Each site's
    are added after those before it, which gives the bits that `sums.add_(x, alpha=w)` gives in torch. Up to `SITES`
    sites; raises RuntimeError where it is not `available`.
    """
    if (add := _kernel()) is None:
        raise RuntimeError("adding several sites at once needs numba: pip install 'fl-distill[fast]'")
    return _in_pieces(add, sums, sites, weights, largest, afresh)


def _in_pieces(
    add: Kernel,
    sums: Sequence[Numbers],
    sites: Sequence[Sequence[Numbers]],
    weights: Sequence[float],
    largest: float,
    afresh: bool,
) -> bool:
    # Who is missing says 0, with weight -0: that adds -0, of all numbers the one that changes none, not even a -0.
    zero, missing = np.zeros(_PIECE, np.float32), SITES - len(sites)
    factors = tuple(map(np.float32, [*weights, *[-0.0] * missing]))
    pieces = [(part, *row) for row in zip(sums, *sites, strict=True) for part in _parts(row[0].size)]
    pieces.sort(key=lambda piece: piece[0].start - piece[0].stop)  # small ones last, so that threads end together
    waiting = iter(pieces)  # a list's iterator can serve several threads

    def work(_: int) -> bool:
        good = True
        for part, total, *numbers in waiting:
            total = total[part]
            if afresh:
                total.fill(-0.0)
            parts = [x[part] for x in numbers] + [zero[: total.size]] * missing
            good &= add(total, tuple(map(_readable, parts)), factors, np.float32(largest))
        return good

    threads = torch.get_num_threads()
    if threads == 1:
        return work(0)
    with ThreadPoolExecutor(threads - 1) as others:
        results = others.map(work, range(threads - 1))
        return all([work(0), *results])


def _parts(size: int) -> Iterator[slice]:
    for first in range(0, size, _PIECE):
        yield slice(first, min(first + _PIECE, size))


def _readable(numbers: Numbers) -> Numbers:
    """A view, or a copy where a message put numbers where none may lie: one type for all that the kernel reads."""
    view = numbers.view() if numbers.flags.aligned else numbers.copy()
    view.flags.writeable = False
    return view


@lru_cache(maxsize=1)
def _kernel() -> Kernel | None:
    if find_spec("numba") is None:
        return None
    try:
        from .kernel import add
    except ImportError:  # it refuses versions of numpy that it does not know
        return None
    return add if _rounds_like_torch(add) else None


def _rounds_like_torch(add: Kernel) -> bool:
    draw = torch.Generator().manual_seed(0)
    total, *sites = torch.randn(1 + SITES, 1003, generator=draw).unbind()
    sums, weights = total.numpy().copy(), [0.1 + 3 * k for k in range(SITES)]
    good = _in_pieces(add, [sums], [[x.numpy()] for x in sites], weights, 100.0, False)
    for x, weight in zip(sites, weights, strict=True):
        total.add_(x, alpha=weight)
    return good and torch.equal(total.view(torch.int32), torch.from_numpy(sums).view(torch.int32))
