"""The wire form of coded tensors: one self-describing array of bytes a message; byte by byte in `docs/wire.md`."""

import math
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial

import torch
from flwr.app import Array, ArrayRecord
from torch import Tensor

from ..errors import BadUpdate
from ..seeds import derive
from .arrays import Schema
from .chain import Chain, chain
from .coder import About
from .decoding import LARGEST, check_numbers
from .floats import Float16
from .frame import LARGEST_NUMEL, VERSION, Head, head_bytes, parts_of, read_head, read_schema, sealed
from .layout import (
    CODED,
    HALF,
    RAW,
    Layout,
    Tensors,
    codable,
    form_bytes,
    layout,
    numbers_in,
    schema_bytes,
    schema_id,
    schema_of_tensors,
)

_FAMILY = "fl_distill.codec/"
STYPE = f"{_FAMILY}{VERSION}: this ClientApp needs mods=[fl_distill.mods.quantized]"
"""What Flower quotes, at the client and at the server, when an app without the mod takes a message for numbers."""
KEY = "packed"
_HALF = Float16()


@dataclass(frozen=True)
class Packed:
    """A coded message, and what its sender wants to know of it."""

    data: bytes
    head: Head
    _plan: Layout = field(repr=False)
    _norms: Sequence[float] = field(repr=False)
    """Of the coded tensors, as they were put in."""
    _error: float = field(repr=False)
    """Sum of squares of what is lost of them; NaN where it is not known."""
    _take: Callable[[], Tensors] = field(repr=False)
    _subtract: Callable[[], Tensor] = field(repr=False)

    # Found when they are first asked for: most senders need only a part of it, and each is as much work as to encode.

    @cached_property
    def tensors(self) -> Tensors:
        """What the receiver makes of it."""
        return self._take()

    @cached_property
    def lost(self) -> Tensor:
        """Of all coded tensors, end to end: what was put in minus what comes out."""
        return self._subtract()

    @property
    def nmse(self) -> float:
        """Normalised squared error of the coded tensors."""
        return self.error / self.energy if self.energy else 0.0

    @property
    def error(self) -> float:
        """Sum of squares of what is lost of the coded tensors."""
        return sum(norm**2 for norm in self._lost_norms) if math.isnan(self._error) else self._error

    @property
    def energy(self) -> float:
        """Sum of squares of the coded tensors, as they were put in."""
        return sum(norm**2 for norm in self._norms)

    @property
    def numbers(self) -> int:
        """How many numbers the message is about, coded or not."""
        return numbers_in(self._plan.schema)

    @cached_property
    def layers(self) -> Mapping[str, tuple[int, float]]:
        """Tensor -> (its bytes: exact where they are its own, else its part by numbers; its error as in `nmse`)."""
        plan, schema = self._plan, self._plan.schema
        found = {name: (form_bytes(schema[name]), 0.0) for name in plan.names(RAW)}
        found |= {name: (2 * math.prod(schema[name].shape), 0.0) for name in plan.names(HALF)}
        length = len(parts_of(self.data)[-1]) / max(1, len(self.lost))
        for name, gone, norm in zip(plan.names(CODED), self._lost_norms, self._norms, strict=True):
            found[name] = round(length * math.prod(schema[name].shape)), _ratio([gone], [norm])
        return {name: found[name] for name in schema}

    @cached_property
    def _lost_norms(self) -> list[float]:
        return self._plan.norms(CODED, self.lost)

    def record(self) -> ArrayRecord:
        """The message as Flower carries it: nothing that averages numbers can take it for numbers."""
        return ArrayRecord({KEY: Array("uint8", (len(self.data),), STYPE, self.data)})


def is_packed(record: ArrayRecord) -> bool:
    """Whether a record is a coded message, of whatever version."""
    return KEY in record and record[KEY].stype.startswith(_FAMILY)


def codes_anything(schema: Schema) -> bool:
    """Whether there is a tensor that a codec would change."""
    return any(codable(form) for form in schema.values())


def pack(
    tensors: Tensors, by: Chain, head: Head, base: Tensors | None = None, residual: Tensor | None = None
) -> Packed:
    """Code tensors, or where there is a `base` of the same form their change against it.

    `residual` is added to what is coded, where it is as long. Raises `BadUpdate` that names the tensor which holds NaN
    or infinity.
    """
    plan = layout(schema_of_tensors(tensors), by.keep)
    vector, half = plan.vector(CODED, tensors, base), plan.vector(HALF, tensors, base)
    if residual is not None and residual.shape == vector.shape:
        vector.add_(residual)
    norms = plan.norms(CODED, vector)
    _check(plan, tensors, [*norms, float(torch.linalg.vector_norm(half))])
    about = plan.about(CODED, head.seed)
    try:
        payload, lost = by.coder.measured(vector, about)
    except ValueError as error:
        raise BadUpdate(f"codec {by.text!r}: {error}") from error
    coded = plan.raw(tensors), _HALF.encode(half, plan.about(HALF)), payload
    sums = [zlib.crc32(part) for part in coded]
    head = replace(head, becomes=head.becomes or derive(head.base, head.round, *sums))
    own_schema = base is None or schema_of_tensors(base) != plan.schema
    names = schema_bytes(plan.schema) if own_schema else b""
    parts = (by.text.encode(), names, bytes(plan.modes.values()), *coded)
    front = b"".join((head_bytes(head, plan.schema, base is not None, [len(part) for part in parts]), *parts[:3]))
    data = sealed(front, coded, sums)
    take = partial(_take, data, by, plan, head.seed, base)
    return Packed(data, head, plan, norms, lost, take, partial(_subtract, data, by, about, vector))


def unpack(
    data: bytes,
    base: Callable[[Head], Tensors] | None = None,
    expected: Schema | None = None,
    limit: int = LARGEST_NUMEL,
) -> tuple[Head, dict[str, Tensor]]:
    """The tensors of a coded message.

    `base` finds the model that a change is against, or raises `BadUpdate`. Nothing is allocated before lengths, schema
    (`expected`, where the receiver knows it; else at most `limit` numbers), codec and check sum are in order.
    """
    head, is_change, digest = read_head(data)
    said, names, table, raw, _, payload = parts_of(data)
    by = _chain(said)
    held = _held(head, base) if is_change else None
    wanted = schema_of_tensors(held) if held is not None else expected
    schema = read_schema(names, limit) if held is None or names else schema_of_tensors(held)
    if schema_id(schema) != digest:
        raise BadUpdate("field schema: the message is about tensors of other names, shapes or dtypes than its base")
    if wanted is not None and _shapes(schema) != _shapes(wanted):
        raise BadUpdate("field schema: the tensors' names or shapes are not those that were expected")
    plan = layout(schema, by.keep)
    if bytes(plan.modes.values()) != bytes(table):
        raise BadUpdate("field table: which tensors are coded does not follow from the schema and the codec")
    about = plan.about(CODED, head.seed)
    if len(raw) != plan.raw_bytes:
        raise BadUpdate(f"field raw has {len(raw)} bytes, expected {plan.raw_bytes}")
    try:
        least, most = by.coder.lengths(about)
        if not least <= len(payload) <= most:
            raise BadUpdate(f"field coded has {len(payload)} bytes, expected {least} to {most}")
        return head, _take(data, by, plan, head.seed, held)
    except (ValueError, RuntimeError) as error:  # a codec that cannot be of such tensors
        raise BadUpdate(f"field coded: {str(error)[:300]}") from error


def _take(data: bytes, by: Chain, plan: Layout, seed: int, base: Tensors | None) -> dict[str, Tensor]:
    """The tensors of a message whose parts have the lengths that they should."""
    *_, raw, halves, payload = parts_of(data)
    coded = by.coder.decode(payload, plan.about(CODED, seed))
    return plan.tensors(raw, _HALF.decode(halves, plan.about(HALF)), coded, base)


def _subtract(data: bytes, by: Chain, about: About, vector: Tensor) -> Tensor:
    """`vector` less what the message says that it is, in place."""
    by.coder.add(parts_of(data)[-1], about, vector, -1.0)
    return vector


def _check(plan: Layout, tensors: Tensors, norms: Sequence[float]) -> None:
    """Raise `BadUpdate` where a tensor holds what does not travel; `norms` are those of what is made of them."""
    suspects = plan.names(RAW) if all(norm < LARGEST for norm in norms) else list(plan.modes)
    for name in suspects:
        if tensors[name].dtype.is_floating_point and tensors[name].numel():
            check_numbers(name, tensors[name])


def _held(head: Head, base: Callable[[Head], Tensors] | None) -> Tensors:
    if base is None:
        raise BadUpdate("the message is a change, and there is nothing here that it could change")
    return base(head)


def _shapes(schema: Schema) -> dict[str, tuple[int, ...]]:
    return {name: form.shape for name, form in schema.items()}


def _ratio(lost: Sequence[float], put_in: Sequence[float]) -> float:
    """Of the sums of squares of norms."""
    energy = math.fsum(norm**2 for norm in put_in)
    return math.fsum(norm**2 for norm in lost) / energy if energy else 0.0


def _chain(said: memoryview) -> Chain:
    try:
        by = chain(bytes(said).decode("ascii"))
    except ValueError as error:
        raise BadUpdate(f"field codec: {str(error)[:300]}") from error
    if by is None:
        raise BadUpdate("field codec is empty")
    return by
