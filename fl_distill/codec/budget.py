"""Messages that keep to a number of bytes."""

from collections.abc import Mapping

import torch
from torch import Tensor

from ..errors import BadUpdate
from .arrays import BY_NAME, Schema
from .chain import Chain, chain
from .frame import Head
from .layout import CODED, layout, schema_of_tensors
from .rate import SAMPLE, TooFew, adjustable, fitted, sample
from .wire import Packed, pack

_TRIES = 8
_MARGIN = 0.99

Tensors = Mapping[str, Tensor]


def pack_within(
    tensors: Tensors,
    by: Chain,
    head: Head,
    base: Tensors | None = None,
    residual: Tensor | None = None,
    budget: int | None = None,
) -> Packed:
    """`pack` with the finest codec of the kind of `by` whose message has at most `budget` bytes (None: `by` itself).

    The codec is chosen on a sample, and again with less room while the whole message is too long. Raises `BadUpdate`
    that says the least possible where nothing fits.
    """
    if budget is None:
        return pack(tensors, by, head, base, residual)
    if not adjustable(by.text):
        return _as_it_is(pack(tensors, by, head, base, residual), by, budget)
    vector = layout(schema_of_tensors(tensors), by.keep).vector(CODED, tensors, base)
    if residual is not None and residual.shape == vector.shape:
        vector = vector + residual
    around = _around(tensors, by, head, base, len(vector))
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


def fewest(schema: Schema, by: Chain, against: bool) -> tuple[int, int]:
    """The least bytes of a message about tensors of a schema, whatever they say, and how many are not for coding them.

    `against`: the message is a change. What the tensors say may cost a few more bytes.
    """
    zeros: Tensors = {name: torch.zeros(form.shape, dtype=BY_NAME[form.dtype]) for name, form in schema.items()}
    numel = layout(schema, by.keep).about(CODED).numel
    around = _around(zeros, by, Head(), zeros if against else None, numel)
    if not adjustable(by.text):
        return len(pack(zeros, by, Head(), zeros if against else None).data), around
    try:
        fitted(by.text, torch.zeros(min(numel, SAMPLE)), numel, 1)
    except TooFew as short:
        return around + short.needed, around
    return around + 1, around


def _as_it_is(packed: Packed, by: Chain, budget: int) -> Packed:
    if len(packed.data) > budget:
        raise BadUpdate(
            f"bytes_per_round={budget} is too few: {by.text!r}, which has no bits to choose, needs {len(packed.data)}"
        )
    return packed


def _around(tensors: Tensors, by: Chain, head: Head, base: Tensors | None, coded: int) -> int:
    """Bytes around the coded numbers: of the message in float16, less its two a number, with the codec's own name."""
    half = chain("keep float16" if by.keep else "float16") or by
    return len(pack(tensors, half, head, base).data) - 2 * coded - len(half.text) + len(by.text)


def _fit(by: Chain, seen: Tensor, numel: int, room: int) -> Chain:
    return chain(fitted(by.text, seen, numel, max(1, room))) or by
