"""The server's half of quantized updates: what leaves is coded once, what comes back is decoded one by one."""

import json
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import final

import torch
from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from torch import Tensor

from ..codec import Schema, decode, encode, record_bytes, records_of, schema_of
from ..codec.budget import pack_within
from ..codec.chain import chain
from ..codec.layout import numbers_in, schema_id
from ..codec.ways import Codecs, Way
from ..codec.wire import KEY, Head, Packed, codes_anything, is_packed, unpack
from ..errors import BadUpdate
from ..seeds import derive

CODEC = "fl_distill.codec"
"""The record of a message that says how to code the answer, and of an answer that says what coding did."""
LARGEST_REPLY = 2**26
"""Numbers that one reply may hold beside those that were asked for: 256 MiB of float32."""
_TOLD = ("numbers", "coded-bytes", "error", "energy", "encode-s", "decode-s")
Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class _Held:
    """A model that sites hold, as the codec left it."""

    tensors: Tensors
    id: int
    round: int


@dataclass
class _Outgoing:
    """One record of a round, coded when first asked for."""

    record: ArrayRecord
    id: int
    change: Callable[[], ArrayRecord] | None
    whole: Callable[[], ArrayRecord]
    since: int = 0
    """The round of the model that `change` is against."""
    base: int = 0
    """That model."""


@final
class Coding:
    """Codes what a server sends, decodes what it receives, and remembers what each site holds.

    Downlink: sites that hold the model of the last round get its change, encoded once; the others get it whole. What
    the codec lost of one round is part of the next round's change. Uplink: a site's change is added to the model that
    the server holds, so that no loss of the downlink enters it. A site's residual counts from the last round whose
    reply was used.

    `weights`: whether models travel; knowledge has no base, and is coded as it is. `changes`: records of replies that
    are changes themselves, such as gradients. `name_of` gives the name under which a node is known.
    """

    def __init__(
        self,
        codecs: Codecs,
        *,
        seed: int = 0,
        weights: bool = True,
        changes: Sequence[str] = (),
        name_of: Callable[[int], str] = str,
    ) -> None:
        self._codecs, self._seed, self._weights, self._changes = codecs, seed, weights, tuple(changes)
        self._name_of = name_of
        self._streams: dict[str, _Held] = {}
        self._holds: dict[str, dict[str, int]] = {}
        self._used: dict[str, int] = {}
        self._sent: dict[int, tuple[ArrayRecord, Schema]] = {}
        self._asked: dict[str, dict[str, int]] = {}
        self._pending: dict[str, dict[str, int]] = {}
        self.layers: dict[str, tuple[int, float]] = {}
        """Of the last model sent: tensor -> (its bytes, its normalised squared error)."""
        self.told: dict[str, dict[str, float]] = {}
        """What sites say of their coding in this round."""
        self.plain: set[str] = set()
        """Who answered as if they had never heard of a codec, so far."""
        self.spent: dict[str, float] = {}
        """Seconds of encoding and decoding at the server, and the error of what it sent, in this round."""

    # ------------------------------------------------------------ out

    def outgoing(self, number: int, messages: Iterable[Message], needed_from: int = -1) -> list[Message]:
        """The messages of round `number`, coded; records that several sites receive are coded once.

        `needed_from`: sites forget what no later round than this can need; -1: nobody goes back.
        """
        if not self._codecs.any:
            return list(messages)
        done: dict[int, dict[str, _Outgoing]] = {}
        self._sent, self._asked, self._pending, self.told = {}, {}, {}, {}
        self.spent = {"encode_s": 0.0, "decode_s": 0.0}
        began = time.perf_counter()
        coded = []
        for message in messages:
            remember = message.metadata.message_type.startswith("train")
            records = records_of(message.content, ArrayRecord)
            made = {
                key: done.setdefault(id(record), {}).get(key) or self._outgoing(number, key, record, remember, done)
                for key, record in records.items()
                if codes_anything(schema_of(record))
            }
            message.content = self._content(number, message, made, remember, needed_from)
            coded.append(message)
        self.spent["encode_s"] = time.perf_counter() - began
        return coded

    def _outgoing(
        self, number: int, key: str, record: ArrayRecord, remember: bool, done: dict[int, dict[str, _Outgoing]]
    ) -> _Outgoing:
        made = self._model(number, key, record, remember) if self._weights else self._knowledge(number, record)
        done[id(record)][key] = made
        return made

    def _knowledge(self, number: int, record: ArrayRecord) -> _Outgoing:
        by = self._codecs.down.chain
        if by is None:
            return _Outgoing(record, 0, None, lambda: record)
        head = Head(number, seed=derive(self._seed, CODEC, "down", number))
        packed = pack_within(decode(record), by, head, budget=self._codecs.down.bytes_per_round)
        if len(packed.data) >= record_bytes(record):
            return _Outgoing(record, packed.head.becomes, None, lambda: record)
        self._note(packed)
        coded = packed.record()
        return _Outgoing(record, packed.head.becomes, None, lambda: coded)

    def _model(self, number: int, key: str, record: ArrayRecord, remember: bool) -> _Outgoing:
        """A model: its change against what sites in step hold, and itself for those who are not."""
        by, schema = self._codecs.down.chain, schema_of(record)
        stream = f"{key}/{schema_id(schema):016x}"
        if by is None:
            name = derive(self._seed, CODEC, stream, number)
            self._sent[name] = record, schema
            return _Outgoing(record, name, None, lambda: record)
        tensors, held = decode(record, schema), self._streams.get(stream)
        head = Head(number, seed=derive(self._seed, CODEC, "down", number))
        if by.delta and held is not None and (held.round < number or not remember):
            budget = self._codecs.down.bytes_per_round
            change = pack_within(tensors, by, replace(head, base=held.id), held.tensors, budget=budget)
            # Whole, it is what the change makes of the base: the next change shall fit all.
            whole = _Once(lambda: self._whole(change.tensors, change.head))
            made = _Outgoing(record, change.head.becomes, _Once(lambda: change), whole, held.round, held.id)
            after = change
        else:
            after = self._whole(tensors, head)
            made = _Outgoing(record, after.head.becomes, None, _Once(lambda: after))
        self._note(after)
        if by.delta and remember and (held is None or held.round < number):
            self._streams[stream] = _Held(after.tensors, after.head.becomes, number)
        self._sent[made.id] = record, schema
        return made

    def _whole(self, tensors: Tensors, head: Head) -> Packed:
        """A model for who holds nothing it could be a change of."""
        by = self._codecs.down.chain
        way = chain(self._codecs.full) if by is None or by.delta else by
        if way is None:
            raise ValueError("codec.full must be a codec: `fp16`, or another one without a base")
        budget = None if by is None or by.delta else self._codecs.down.bytes_per_round
        return pack_within(tensors, way, replace(head, base=0), budget=budget)

    def _content(
        self, number: int, message: Message, made: Mapping[str, _Outgoing], remember: bool, needed_from: int
    ) -> RecordDict:
        node = message.metadata.dst_node_id
        name = self._name_of(node)
        holds = self._holds.get(name, {})
        records = dict(message.content)
        about: dict[str, object] = {"round": number, "seed": derive(self._seed, CODEC, "up", number, name)}
        for key, out in made.items():
            in_step = out.change is not None and holds.get(key) == out.base
            records[key] = out.change() if out.change is not None and in_step else out.whole()
            about |= {f"id/{key}": out.id, f"held/{key}": out.since if in_step else 0}
        self._asked[name] = {key: out.id for key, out in made.items()}
        if remember:
            self._holds.pop(name, None)  # until its reply says that it got this round's
            self._pending[name] = self._asked[name]
        about |= self._orders(name, needed_from, remember)
        return RecordDict({**records, CODEC: ConfigRecord(about)})  # type: ignore[arg-type]

    def _orders(self, name: str, needed_from: int, remember: bool) -> dict[str, object]:
        """What a site needs to know to code its reply."""
        down = self._codecs.down.chain
        way = self._way_up(name)
        return {
            "up": way.codec,
            "budget": way.bytes_per_round or 0,
            "full": self._codecs.full,
            "weights": self._weights,
            "changes": list(self._changes),
            "remember": bool(remember and self._weights and down is not None and down.delta),
            "used": self._used.get(name, 0),
            "needed-from": needed_from,
        }

    def _note(self, packed: Packed) -> None:
        self.layers = dict(packed.layers)
        self.spent |= {"nmse_down": packed.nmse, "bits_down": 8 * len(packed.data) / max(1, packed.numbers)}

    # ------------------------------------------------------------ in

    def incoming(self, reply: Message) -> Message:
        """The reply with its tensors decoded; raises `BadUpdate` where they cannot be."""
        if not self._codecs.any or not reply.has_content():
            return reply
        began = time.perf_counter()
        name = self._name_of(reply.metadata.src_node_id)
        records, room = dict(reply.content), LARGEST_REPLY
        said = records.pop(CODEC, None)
        for key, record in records_of(reply.content, ArrayRecord).items():
            expected = self._expected(name, key)
            if is_packed(record):
                limit = room if expected is None else max(room, numbers_in(expected))
                _, tensors = unpack(record[KEY].data, self._base, expected, limit)
                room -= 0 if expected is not None else sum(tensor.numel() for tensor in tensors.values())
                records[key] = encode(tensors)
            elif expected is not None and self._codes_changes(name) and schema_of(record) == expected:
                self.plain.add(name)
        reply.content = RecordDict(records)
        if name in self._pending:
            self._holds[name] = self._pending.pop(name)
        if isinstance(said, MetricRecord) and all(_figure(said.get(key)) for key in _TOLD):
            self.told[name] = {key: float(str(said[key])) for key in _TOLD}
        self.spent["decode_s"] += time.perf_counter() - began
        return reply

    def _base(self, head: Head) -> Tensors:
        if head.base not in self._sent:
            raise BadUpdate(f"its change is against model {head.base:016x}, which was not sent in this round")
        return decode(*self._sent[head.base])

    def _expected(self, name: str, key: str) -> Schema | None:
        of = self._asked.get(name, {}).get(key)
        return self._sent[of][1] if of in self._sent else None

    def _codes_changes(self, name: str) -> bool:
        """Whether a site's change of what it received travels coded, however short it is."""
        by = self._way_up(name).chain
        return by is not None and by.delta and self._weights

    def _way_up(self, name: str) -> Way:
        return self._codecs.sites.get(name, self._codecs.up)

    def used(self, number: int, nodes: Iterable[int]) -> None:
        """The replies of these nodes entered the result of round `number`: their residuals are what they said."""
        for node in nodes:
            self._used[self._name_of(node)] = number

    def figures(self) -> dict[str, float]:
        """Of the last round: bits a number, normalised squared error and seconds, up in the mean over sites."""
        total = {key: sum(said[key] for said in self.told.values()) for key in _TOLD}
        if not total["numbers"]:
            return dict(self.spent)
        return {
            **self.spent,
            "bits_up": 8 * total["coded-bytes"] / total["numbers"],
            "nmse_up": total["error"] / total["energy"] if total["energy"] else 0.0,
            "site_encode_s": total["encode-s"] / len(self.told),
            "site_decode_s": total["decode-s"] / len(self.told),
        }

    # ------------------------------------------------------------ between rounds

    def state(self) -> dict[str, Tensor]:
        """What must survive a restart: the models that sites hold, and who holds which."""
        if not self._codecs.any:
            return {}
        streams = {name: [held.id, held.round] for name, held in self._streams.items()}
        notes = json.dumps({"streams": streams, "holds": self._holds, "used": self._used}).encode()
        state = {f"{name}/{key}": t for name, held in self._streams.items() for key, t in held.tensors.items()}
        return {"notes": torch.frombuffer(bytearray(notes), dtype=torch.uint8), **state}

    def restore(self, state: Tensors) -> None:
        """Take back what `state` gave."""
        if not state:
            return
        notes = json.loads(state["notes"].numpy().tobytes())
        self._holds, self._used = notes["holds"], notes["used"]
        for name, (identity, number) in notes["streams"].items():
            own = {key.removeprefix(f"{name}/"): t for key, t in state.items() if key.startswith(f"{name}/")}
            self._streams[name] = _Held(own, identity, number)


class _Once:
    """A coded record, made when it is first asked for."""

    def __init__(self, make: Callable[[], Packed]) -> None:
        self._make = make
        self._record: ArrayRecord | None = None

    def __call__(self) -> ArrayRecord:
        if self._record is None:
            self._record = self._make().record()
        return self._record


def _figure(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value >= 0
