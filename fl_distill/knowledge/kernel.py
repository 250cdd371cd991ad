"""Several sites' numbers looked at and added in one pass over memory, compiled by numba."""

import numba
import numpy as np

from .several import SITES, Numbers


# `contract` makes a product and its sum one rounding, as in torch; nothing else may change the order of sums.
@numba.njit(nogil=True, fastmath={"contract"})
def add(sums: Numbers, sites: tuple[Numbers, ...], weights: tuple[np.float32, ...], largest: np.float32) -> bool:
    """sums = ((sums + w_1 x_1) + w_2 x_2) + ..., in place; whether no x_k has NaN or a number beyond `largest`."""
    bad = False
    for at in range(sums.size):
        total = sums[at]
        for k in range(SITES):
            number = sites[k][at]
            bad |= not abs(number) <= largest
            total += weights[k] * number
        sums[at] = total
    return not bad
