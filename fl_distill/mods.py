"""The site's half of quantized updates, as a Flower client mod: `ClientApp(mods=[quantized])`."""

import logging
import time
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol, final
from urllib.parse import quote

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Error, Message, MetricRecord, RecordDict
from torch import Tensor

from .codec import Schema, decode, encode, record_bytes, records_of, schema_of
from .codec.budget import pack_within
from .codec.chain import Chain, chain
from .codec.frame import Head
from .codec.nearest import within
from .codec.wire import KEY, codes_anything, is_packed, unpack
from .errors import BadUpdate
from .store import SiteStore
from .strategies.outbox import CODEC

Call = Callable[[Message, Context], Message]
Mod = Callable[[Message, Context, Call], Message]
Tensors = Mapping[str, Tensor]

BAD_CODE = 1003
"""Error code of a site that cannot decode what arrived, or cannot encode its answer."""
_ID = "fl_distill.id"


class Memory(Protocol):
    """What a site remembers from round to round, by kind."""

    def load(self, kind: str, number: int) -> Tensors | None:
        """What was saved of this kind in round `number`, or None."""

    def save(self, kind: str, number: int, tensors: Tensors, needed_from: int) -> None:
        """Remember; what no load of a round >= `needed_from` can ask for may be dropped."""


@final
class ContextMemory:
    """In the context that Flower keeps for a node: survives rounds, and restarts where Flower's state does."""

    def __init__(self, context: Context) -> None:
        self._state = context.state

    def load(self, kind: str, number: int) -> Tensors | None:
        """What was saved of this kind in round `number`, or None."""
        record = self._state.array_records.get(f"{CODEC}/{kind}/{number}")
        return None if record is None else decode(record)

    def save(self, kind: str, number: int, tensors: Tensors, needed_from: int) -> None:
        """Remember; drop older rounds than `needed_from`."""
        for key in [key for key in self._state.array_records if key.startswith(f"{CODEC}/{kind}/")]:
            if int(key.rpartition("/")[2]) < needed_from:
                del self._state[key]
        self._state[f"{CODEC}/{kind}/{number}"] = encode(tensors)


@final
class FileMemory:
    """In files of the site: survives whatever the file system survives."""

    def __init__(self, folder: Path, site: str) -> None:
        self._folder, self._site = folder, site

    def load(self, kind: str, number: int) -> Tensors | None:
        """What was saved of this kind in round `number`, or None where it is not there or damaged."""
        try:
            return self._store(kind).at(number)
        except (OSError, ValueError):
            return None

    def save(self, kind: str, number: int, tensors: Tensors, needed_from: int) -> None:
        """Remember; drop older rounds than `needed_from`."""
        self._store(kind).save(number, tensors, needed_from)

    def _store(self, kind: str) -> SiteStore:
        return SiteStore(self._folder, f"{self._site}/{kind}")


def quantizing(memory_of: Callable[[Context], Memory]) -> Mod:
    """A client mod that decodes what `Quantized` sends, and codes what the app answers as it was asked to."""

    def mod(message: Message, context: Context, call_next: Call) -> Message:
        orders = message.content.get(CODEC) if message.has_content() else None
        if not isinstance(orders, ConfigRecord):
            return call_next(message, context)
        try:
            site = _Site(dict(orders), memory_of(context))
            site.receive(message)
        except Exception as error:
            return Message(Error(BAD_CODE, _reason(error)), reply_to=message)
        reply = call_next(message, context)
        try:
            if reply.has_content():
                site.answer(reply)
        except Exception as error:
            return Message(Error(BAD_CODE, _reason(error)), reply_to=message)
        return reply

    return mod


quantized: Mod = quantizing(ContextMemory)
"""For any ClientApp: the two lines are `Quantized(strategy)` at the server and `mods=[quantized]` here."""


def _reason(error: Exception) -> str:
    """What may be told of an error: nothing of the site's own, such as a path."""
    if isinstance(error, BadUpdate):
        return str(error)
    logging.getLogger("fl_distill.site").debug("%s", "".join(traceback.format_exception(error)))
    told = f": {error.strerror}" if isinstance(error, OSError) else ""
    return f"coding at the site raised {type(error).__name__}{told}"


class _Site:
    """One message's worth of decoding and coding."""

    def __init__(self, orders: Mapping[str, Any], memory: Memory) -> None:
        self._orders, self._memory = orders, memory
        self._rows = {key[5:]: str(kind) for key, kind in orders.items() if key.startswith("rows/")}
        self._received: dict[str, ArrayRecord] = {}
        self._seconds = {"decode-s": 0.0, "encode-s": 0.0}

    def receive(self, message: Message) -> None:
        """Decode the message in place; remember the model where its next change will be against it."""
        began = time.perf_counter()
        records = dict(message.content)
        del records[CODEC]
        for key, record in records_of(message.content, ArrayRecord).items():
            if is_packed(record):
                head, tensors = unpack(record[KEY].data, partial(self._base, key))
                records[key] = encode(within(tensors, self._rows))
                if self._orders["remember"]:
                    self._remember(key, head, tensors)
        message.content = RecordDict(records)
        self._received = records_of(message.content, ArrayRecord)
        self._seconds["decode-s"] = time.perf_counter() - began

    def answer(self, reply: Message) -> None:
        """Code the reply in place."""
        began, numbers = time.perf_counter(), {"error": 0.0, "energy": 0.0, "numbers": 0, "coded-bytes": 0}
        records = dict(reply.content)
        for key, record in records_of(reply.content, ArrayRecord).items():
            if codes_anything(schema := schema_of(record)) and (way := self._way(key, schema)) is not None:
                records[key] = self._coded(key, record, way, numbers)
        self._seconds["encode-s"] = time.perf_counter() - began
        if numbers["numbers"]:
            records[CODEC] = MetricRecord({**numbers, **self._seconds})
        reply.content = RecordDict(records)

    def _coded(self, key: str, record: ArrayRecord, way: tuple[Chain, bool], numbers: dict[str, float]) -> ArrayRecord:
        (by, against), tensors = way, decode(record)
        base = decode(self._received[key]) if against else None
        kind, used = f"residual-{quote(key, safe='')}", int(self._orders["used"])
        # What was not said of other knowledge has no place in this; of changes it has.
        residual = by.residual and (against or key in self._orders["changes"])
        left = self._memory.load(kind, used) if residual and used else None
        head = Head(int(self._orders["round"]), self._orders[f"id/{key}"] if against else 0, 0, self._orders["seed"])
        budget = self._orders["budget"] - numbers["coded-bytes"] if self._orders["budget"] else None
        packed = pack_within(tensors, by, head, base, left["lost"] if left else None, budget)
        if base is None and not residual and len(packed.data) >= record_bytes(record):
            return record  # a few numbers are shorter as they are
        if residual:
            self._memory.save(kind, head.round, {"lost": packed.lost}, self._needed_from(used))
        numbers["error"] += packed.error
        numbers["energy"] += packed.energy
        numbers["numbers"] += packed.numbers
        numbers["coded-bytes"] += len(packed.data)
        return packed.record()

    def _way(self, key: str, schema: Schema) -> tuple[Chain, bool] | None:
        """The codec of a record, and whether its change travels; None where it goes as it is."""
        by, o = chain(self._orders["up"]), self._orders
        if by is None:
            return None
        received = schema_of(self._received[key]) if f"id/{key}" in o and key in self._received else {}
        same = {n: f.shape for n, f in schema.items()} == {n: f.shape for n, f in received.items()}
        if o["weights"] and by.delta and same:
            return by, True
        if o["weights"] and by.delta and key not in o["changes"]:
            whole = chain(o["full"])  # a model without a base
            return None if whole is None else (whole, False)
        return by, False

    def _base(self, key: str, head: Head) -> Tensors:
        kind, number = f"received-{quote(key, safe='')}", int(self._orders.get(f"held/{key}", 0))
        held = dict(self._memory.load(kind, number) or {})
        if _ID not in held or int(held.pop(_ID)) != head.base:
            raise BadUpdate(f"this site does not hold model {head.base:016x} of round {number}: send it whole")
        return held

    def _remember(self, key: str, head: Head, tensors: Tensors) -> None:
        kept = {**tensors, _ID: torch.tensor(head.becomes)}
        self._memory.save(f"received-{quote(key, safe='')}", head.round, kept, self._needed_from(head.round))

    def _needed_from(self, at_most: int) -> int:
        resumable = int(self._orders["needed-from"])
        return at_most if resumable < 0 else min(at_most, resumable)
