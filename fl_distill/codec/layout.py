"""Which tensors of a model are coded, and how those that are lie end to end in one vector."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .arrays import BY_NAME, NAME_OF, Form, Schema
from .buffers import room
from .coder import About
from .decoding import check_numbers

RAW, HALF, CODED = 0, 1, 2
TINY = 64
"""Tensors with fewer numbers travel as they are."""

_STATISTICS = ("running_mean", "running_var")

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Layout:
    """How each tensor travels: as it is (integers, tiny ones), as float16 (vectors, edges kept), or coded."""

    schema: Schema
    modes: Mapping[str, int]

    def names(self, mode: int) -> list[str]:
        """The tensors of a mode, in order."""
        return [name for name, own in self.modes.items() if own == mode]

    def about(self, mode: int, seed: int = 0) -> About:
        """What both sides know of the vector of a mode."""
        return About(tuple(self.schema[name].shape for name in self.names(mode)), seed)

    @property
    def raw_bytes(self) -> int:
        """Bytes of the tensors that travel as they are."""
        return sum(form_bytes(self.schema[name]) for name in self.names(RAW))

    def vector(self, mode: int, tensors: Tensors, base: Tensors | None) -> Tensor:
        """The tensors of a mode, or their change against `base`, end to end in float32."""
        vector = room(sum(self._sizes(mode)))
        for name, part in zip(self.names(mode), self._parts(mode, vector), strict=True):
            tensor = tensors[name].detach().reshape(-1)
            if base is None:
                part.copy_(tensor)
            else:
                torch.sub(tensor.to(part), base[name].detach().reshape(-1).to(part), out=part)
        return vector

    def norms(self, mode: int, vector: Tensor) -> list[float]:
        """The norm of each tensor of a mode."""
        return [float(torch.linalg.vector_norm(part)) for part in self._parts(mode, vector)]

    def _sizes(self, mode: int) -> list[int]:
        return [math.prod(self.schema[name].shape) for name in self.names(mode)]

    def _parts(self, mode: int, vector: Tensor) -> tuple[Tensor, ...]:
        sizes = self._sizes(mode)
        return torch.split(vector, sizes) if sizes else ()

    def raw(self, tensors: Tensors) -> bytes:
        """The tensors that travel as they are, end to end: little-endian, in C order."""
        return b"".join(_bytes(tensors[name]) for name in self.names(RAW))

    def tensors(self, raw: bytes | memoryview, half: Tensor, coded: Tensor, base: Tensors | None) -> dict[str, Tensor]:
        """The inverse of `raw` and `vector`; takes over `half` and `coded`."""
        at = {RAW: 0, HALF: 0, CODED: 0}
        vectors = {HALF: half, CODED: coded}
        found = {}
        for name, mode in self.modes.items():
            form = self.schema[name]
            start = at[mode]
            at[mode] += form_bytes(form) if mode == RAW else math.prod(form.shape)
            if mode == RAW:
                found[name] = _from_bytes(name, raw[start : at[mode]], form)
                continue
            part = vectors[mode][start : at[mode]].reshape(form.shape)
            if base is not None:
                part = part.add_(base[name].detach().to(torch.float32))
            found[name] = part.to(BY_NAME[form.dtype])
            if found[name].numel():
                check_numbers(name, found[name])
        return found


def schema_of_tensors(tensors: Tensors) -> dict[str, Form]:
    """Names, shapes and dtypes of tensors."""
    return {name: Form(tuple(t.shape), NAME_OF[t.dtype]) for name, t in tensors.items()}


def layout(schema: Schema, keep: bool) -> Layout:
    """How tensors of this schema travel; with `keep`, first and last layer stay float16.

    Beside matrices, vectors are few and tender (biases, scales, running variances whose size would hide the weights
    from a common step): they travel as float16. Running statistics travel as they are:
    a variance must keep its sign.
    """
    modes = {name: CODED if codable(form) else RAW for name, form in schema.items()}
    matrices = [name for name, mode in modes.items() if mode == CODED and len(schema[name].shape) > 1]
    kept = {*matrices[:1], *matrices[-1:]} if keep else set()
    if matrices:
        kept |= {name for name, mode in modes.items() if mode == CODED} - {*matrices}
    modes |= {name: RAW for name in modes if name.endswith(_STATISTICS)}
    return Layout(
        schema, {**modes, **dict.fromkeys([name for name in modes if name in kept and modes[name] == CODED], HALF)}
    )


def codable(form: Form) -> bool:
    """Whether a codec changes such a tensor: it is floating, and not tiny."""
    return "float" in form.dtype and math.prod(form.shape) >= TINY


def schema_bytes(schema: Schema) -> bytes:
    """A schema as it travels: JSON, a list of [name, dtype, shape], without spaces."""
    return json.dumps([[n, f.dtype, list(f.shape)] for n, f in schema.items()], separators=(",", ":")).encode()


def schema_id(schema: Schema) -> int:
    """The first 64 bits of the SHA-256 of `schema_bytes`, read little-endian."""
    return int.from_bytes(hashlib.sha256(schema_bytes(schema)).digest()[:8], "little")


def numbers_in(schema: Schema) -> int:
    """How many numbers tensors of this schema hold."""
    return sum(math.prod(form.shape) for form in schema.values())


def form_bytes(form: Form) -> int:
    """Bytes of a tensor as it is."""
    return math.prod(form.shape) * int(BY_NAME[form.dtype].itemsize)


def _bytes(tensor: Tensor) -> bytes:
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().tobytes() if flat.numel() else b""


def _from_bytes(name: str, data: bytes | memoryview, form: Form) -> Tensor:
    dtype = BY_NAME[form.dtype]
    if not len(data):
        return torch.empty(form.shape, dtype=dtype)
    tensor = torch.frombuffer(bytearray(data), dtype=dtype).reshape(form.shape)
    if dtype.is_floating_point:
        check_numbers(name, tensor)
    return tensor
