"""Messages that keep to a number of bytes."""

from collections.abc import Mapping

from torch import Tensor

from .chain import Chain, chain
from .layout import CODED, layout, schema_of_tensors
from .rate import fitted
from .wire import Head, Packed, pack

_SAMPLE = 65536
_TRIES = 4


def pack_within(
    tensors: Mapping[str, Tensor],
    by: Chain,
    head: Head,
    base: Mapping[str, Tensor] | None = None,
    residual: Tensor | None = None,
    budget: int | None = None,
) -> Packed:
    """`pack` with the finest codec of the kind of `by` whose message has at most `budget` bytes (None: `by` itself).

    The codec is chosen on a sample, and again with less room while the whole message is too long. Raises ValueError
    that says the least possible where nothing fits.
    """
    if budget is None:
        return pack(tensors, by, head, base, residual)
    plan = layout(schema_of_tensors(tensors), by.keep)
    vector = plan.vector(CODED, tensors, base)
    if residual is not None and residual.shape == vector.shape:
        vector = vector + residual
    sample = vector[:: max(1, len(vector) // _SAMPLE)].contiguous()
    envelope = len(pack(tensors, _plain(by), head, base).data) - 2 * len(vector)
    room = budget - envelope
    for _ in range(_TRIES):
        packed = pack(tensors, _fit(by, sample, len(vector), room), head, base, residual)
        if len(packed.data) <= budget:
            return packed
        room -= max(len(packed.data) - budget, room // 50)
    raise ValueError(f"no codec like {by.text!r} keeps this message within {budget} bytes")


def _fit(by: Chain, sample: Tensor, numel: int, room: int) -> Chain:
    found = chain(fitted(by.text, sample, numel, room))
    if found is None:
        raise ValueError(f"no codec like {by.text!r} has {room} bytes")
    return found


def _plain(by: Chain) -> Chain:
    plain = chain(["keep", "float16"] if by.keep else ["float16"])
    return plain or by
