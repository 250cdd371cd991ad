"""Messages that keep to a number of bytes."""

from collections.abc import Mapping

from torch import Tensor

from ..errors import BadUpdate
from .chain import Chain, chain
from .layout import CODED, layout, schema_of_tensors
from .rate import fitted, sample
from .wire import Head, Packed, pack

_TRIES = 8
_MARGIN = 0.99


def pack_within(
    tensors: Mapping[str, Tensor],
    by: Chain,
    head: Head,
    base: Mapping[str, Tensor] | None = None,
    residual: Tensor | None = None,
    budget: int | None = None,
) -> Packed:
    """`pack` with the finest codec of the kind of `by` whose message has at most `budget` bytes (None: `by` itself).

    The codec is chosen on a sample, and again with less room while the whole message is too long. Raises `BadUpdate`
    that says the least possible where nothing fits.
    """
    if budget is None:
        return pack(tensors, by, head, base, residual)
    vector = layout(schema_of_tensors(tensors), by.keep).vector(CODED, tensors, base)
    if residual is not None and residual.shape == vector.shape:
        vector = vector + residual
    # What surrounds the coded numbers: the message in float16, less its two bytes a number.
    around = len(pack(tensors, _float16(by), head, base).data) - 2 * len(vector)
    room, seen = budget - around, sample(vector)
    for _ in range(_TRIES):
        try:
            packed = pack(tensors, _fit(by, seen, len(vector), room), head, base, residual)
        except ValueError as error:
            raise BadUpdate(
                f"bytes_per_round={budget} is too few, {around} go to what is not coded; of the rest: {error}"
            ) from error
        if (excess := len(packed.data) - budget) <= 0:
            return packed
        room = int(min(room - excess, room**2 / (room + excess)) * _MARGIN)
    raise BadUpdate(f"no codec like {by.text!r} keeps a message of {len(vector)} numbers within {budget} bytes")


def _fit(by: Chain, seen: Tensor, numel: int, room: int) -> Chain:
    return chain(fitted(by.text, seen, numel, max(1, room))) or by


def _float16(by: Chain) -> Chain:
    return chain("keep float16" if by.keep else "float16") or by
