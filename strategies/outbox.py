"""What leaves a server in one round: each record coded once, as a change and whole, when a site needs it so."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import final

from flwr.app import ArrayRecord
from torch import Tensor

from ..codec import Schema, decode, record_bytes, schema_of
from ..codec.budget import pack_within
from ..codec.chain import chain
from ..codec.frame import Head
from ..codec.layout import schema_id
from ..codec.ways import Codecs
from ..codec.wire import Packed
from ..seeds import derive
from .holdings import Held, Holdings

CODEC = "fl_distill.codec"
"""The record of a message that says how to code the answer, and of an answer that says what coding did."""

Tensors = Mapping[str, Tensor]


@dataclass
class Outgoing:
    """One record of a round, coded when first asked for."""

    record: ArrayRecord
    id: int
    change: Callable[[], ArrayRecord] | None
    whole: Callable[[], ArrayRecord]
    since: int = 0
    """The round of the model that `change` is against."""
    base: int = 0
    """That model."""

    def to(self, held: int | None) -> tuple[ArrayRecord, int]:
        """What a site receives that holds model `held`, and the round of the model that it is against; 0: whole."""
        return (self.change(), self.since) if self.change is not None and held == self.base else (self.whole(), 0)


@final
class Outbox:
    """Codes what leaves; sites in step share one change, and what it loses is part of the next round's."""

    def __init__(self, codecs: Codecs, seed: int, weights: bool, holdings: Holdings) -> None:
        self._codecs, self._seed, self._weights, self._holdings = codecs, seed, weights, holdings
        self._made: dict[int, dict[str, Outgoing]] = {}
        self.models: dict[int, tuple[ArrayRecord, Schema]] = {}
        """The models of this round, by what identifies them."""
        self.layers: dict[str, tuple[int, float]] = {}
        """Of the last record sent: tensor -> (its bytes, its normalised squared error)."""
        self.figures: dict[str, float] = {}
        """Of the last record sent: bits a number, and its error."""

    def begin(self) -> None:
        """A new round: nothing left yet."""
        self._made, self.models, self.figures = {}, {}, {}

    def end(self) -> None:
        """All left: only what answers may refer to stays."""
        self._made = {}

    def take(self, number: int, key: str, record: ArrayRecord, remember: bool) -> Outgoing:
        """A record on its way under a key; the same one where several sites receive it."""
        made = self._made.setdefault(id(record), {})
        if key not in made:
            made[key] = self._model(number, key, record, remember) if self._weights else self._knowledge(number, record)
        return made[key]

    def _knowledge(self, number: int, record: ArrayRecord) -> Outgoing:
        by = self._codecs.down.chain
        if by is None:
            return Outgoing(record, 0, None, lambda: record)
        head = Head(number, seed=derive(self._seed, CODEC, "down", number))
        packed = pack_within(decode(record), by, head, budget=self._codecs.down.bytes_per_round)
        if len(packed.data) >= record_bytes(record):
            return Outgoing(record, packed.head.becomes, None, lambda: record)
        self._note(packed)
        coded = packed.record()
        return Outgoing(record, packed.head.becomes, None, lambda: coded)

    def _model(self, number: int, key: str, record: ArrayRecord, remember: bool) -> Outgoing:
        """A model: its change against what sites in step hold, and itself for those who are not."""
        by, schema = self._codecs.down.chain, schema_of(record)
        stream = f"{key}/{schema_id(schema):016x}"
        if by is None:
            name = derive(self._seed, CODEC, stream, number)
            self.models[name] = record, schema
            return Outgoing(record, name, None, lambda: record)
        tensors, held = decode(record, schema), self._holdings.newest(stream)
        head = Head(number, seed=derive(self._seed, CODEC, "down", number))
        if by.delta and held is not None and (held.round < number or not remember):
            budget = self._codecs.down.bytes_per_round
            change = pack_within(tensors, by, replace(head, base=held.id), held.tensors, budget=budget)
            # Whole, it is what the change makes of the base: the next change shall fit all.
            whole = _Once(lambda: self._whole(change.tensors, change.head))
            made = Outgoing(record, change.head.becomes, _Once(lambda: change), whole, held.round, held.id)
            after = change
        else:
            after = self._whole(tensors, head)
            made = Outgoing(record, after.head.becomes, None, _Once(lambda: after))
        self._note(after)
        if by.delta and remember:
            self._holdings.advance(stream, Held(after.tensors, after.head.becomes, number))
        self.models[made.id] = record, schema
        return made

    def _whole(self, tensors: Tensors, head: Head) -> Packed:
        """A model for who holds nothing it could be a change of."""
        by = self._codecs.down.chain
        way = chain(self._codecs.full) if by is None or by.delta else by
        if way is None:
            raise ValueError("codec.full must be a codec: `fp16`, or another one without a base")
        budget = None if by is None or by.delta else self._codecs.down.bytes_per_round
        return pack_within(tensors, way, replace(head, base=0), budget=budget)

    def _note(self, packed: Packed) -> None:
        self.layers = dict(packed.layers)
        self.figures = {"nmse_down": packed.nmse, "bits_down": 8 * len(packed.data) / max(1, packed.numbers)}


class _Once:
    """A coded record, made when it is first asked for."""

    def __init__(self, make: Callable[[], Packed]) -> None:
        self._make = make
        self._record: ArrayRecord | None = None

    def __call__(self) -> ArrayRecord:
        if self._record is None:
            self._record = self._make().record()
        return self._record
