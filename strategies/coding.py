"""The server's half of quantized updates: what leaves is coded once, what comes back is decoded one by one."""

import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import final

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from torch import Tensor

from ..codec import Schema, decode, encode, records_of, schema_of
from ..codec.frame import Head
from ..codec.layout import numbers_in
from ..codec.nearest import within
from ..codec.ways import Codecs, Way
from ..codec.wire import KEY, codes_anything, is_packed, unpack
from ..errors import BadUpdate, ConfigError
from ..seeds import derive
from .affordable import budget_faults
from .holdings import Holdings
from .outbox import CODEC, Outbox, Outgoing

LARGEST_REPLY = 2**26
"""Numbers that one reply may hold beside those that were asked for: 256 MiB of float32."""
_TOLD = ("numbers", "coded-bytes", "error", "energy", "encode-s", "decode-s")
Tensors = Mapping[str, Tensor]


@final
class Coding:
    """Codes what a server sends, decodes what it receives, and remembers what each site holds.

    Downlink: sites that hold the model of the last round get its change, encoded once; the others get it whole. What
    the codec lost of one round is part of the next round's change. Uplink: a site's change is added to the model that
    the server holds, so that no loss of the downlink enters it. A site's residual counts from the last round whose
    reply was used.

    `weights`: whether models travel; knowledge has no base, and is coded as it is. `changes`: records of replies that
    are changes themselves, such as gradients. `rows`: tensors whose rows lie in a set (see `codec.nearest`). `name_of`
    gives the name under which a node is known.
    """

    def __init__(
        self,
        codecs: Codecs,
        *,
        seed: int = 0,
        weights: bool = True,
        changes: Sequence[str] = (),
        rows: Mapping[str, str] | None = None,
        name_of: Callable[[int], str] = str,
    ) -> None:
        self._codecs, self._seed, self._weights, self._changes = codecs, seed, weights, tuple(changes)
        self._name_of, self._rows = name_of, dict(rows or {})
        self._holdings = Holdings()
        self._outbox = Outbox(codecs, seed, weights, self._holdings)
        self._afforded = False
        self._asked: dict[str, dict[str, int]] = {}
        self.told: dict[str, dict[str, float]] = {}
        """What sites say of their coding in this round."""
        self.plain: set[str] = set()
        """Who answered as if they had never heard of a codec, so far."""
        self.spent: dict[str, float] = {}
        """Seconds of encoding and decoding at the server, and the error of what it sent, in this round."""

    @property
    def layers(self) -> dict[str, tuple[int, float]]:
        """Of the last model sent: tensor -> (its bytes, its normalised squared error)."""
        return self._outbox.layers

    # ------------------------------------------------------------ out

    def outgoing(self, number: int, messages: Iterable[Message], needed_from: int = -1) -> list[Message]:
        """The messages of round `number`, coded; records that several sites receive are coded once.

        `needed_from`: sites forget what no later round than this can need; -1: nobody goes back. Raises `ConfigError`
        where a budget is too small for any message about these models.
        """
        if not self._codecs.any:
            return list(messages)
        self._asked, self.told = {}, {}
        self._holdings.begin()
        self._outbox.begin()
        self.spent = {"encode_s": 0.0, "decode_s": 0.0}
        began = time.perf_counter()
        coded, messages = [], list(messages)
        self._afford(messages)
        for message in messages:
            remember = message.metadata.message_type.startswith("train")
            records = records_of(message.content, ArrayRecord)
            made = {
                key: self._outbox.take(number, key, record, remember)
                for key, record in records.items()
                if codes_anything(schema_of(record))
            }
            message.content = self._content(number, message, made, remember, needed_from)
            coded.append(message)
        self._outbox.end()
        self.spent |= self._outbox.figures
        self.spent["encode_s"] = time.perf_counter() - began
        return coded

    def _afford(self, messages: Sequence[Message]) -> None:
        """Raise `ConfigError`, before the first message leaves, where no message can be as short as was asked for."""
        if self._weights and not self._afforded:
            by_site = {self._name_of(message.metadata.dst_node_id): message for message in messages}
            if faults := budget_faults(self._codecs, by_site, self._changes):
                raise ConfigError(faults)
        self._afforded = True

    def _content(
        self, number: int, message: Message, made: Mapping[str, Outgoing], remember: bool, needed_from: int
    ) -> RecordDict:
        node = message.metadata.dst_node_id
        name = self._name_of(node)
        records = dict(message.content)
        about: dict[str, object] = {"round": number, "seed": derive(self._seed, CODEC, "up", number, name)}
        for key, out in made.items():
            records[key], since = out.to(self._holdings.holds(name, key))
            about |= {f"id/{key}": out.id, f"held/{key}": since}
        self._asked[name] = {key: out.id for key, out in made.items()}
        if remember:
            self._holdings.sent(name, self._asked[name])
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
            **{f"rows/{tensor}": kind for tensor, kind in self._rows.items()},
            "remember": bool(remember and self._weights and down is not None and down.delta),
            "used": self._holdings.last_used(name),
            "needed-from": needed_from,
        }

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
                records[key] = encode(within(tensors, self._rows))
            elif expected is not None and self._codes_changes(name) and schema_of(record) == expected:
                self.plain.add(name)
        reply.content = RecordDict(records)
        self._holdings.heard(name)
        if isinstance(said, MetricRecord) and all(_figure(said.get(key)) for key in _TOLD):
            self.told[name] = {key: float(str(said[key])) for key in _TOLD}
        self.spent["decode_s"] += time.perf_counter() - began
        return reply

    def _base(self, head: Head) -> Tensors:
        if head.base not in self._outbox.models:
            raise BadUpdate(f"its change is against model {head.base:016x}, which was not sent in this round")
        return decode(*self._outbox.models[head.base])

    def _expected(self, name: str, key: str) -> Schema | None:
        of = self._asked.get(name, {}).get(key)
        return self._outbox.models[of][1] if of in self._outbox.models else None

    def _codes_changes(self, name: str) -> bool:
        """Whether a site's change of what it received travels coded, however short it is."""
        by = self._way_up(name).chain
        return by is not None and by.delta and self._weights

    def _way_up(self, name: str) -> Way:
        return self._codecs.sites.get(name, self._codecs.up)

    def used(self, number: int, nodes: Iterable[int]) -> None:
        """The replies of these nodes entered the result of round `number`: their residuals are what they said."""
        self._holdings.use(number, map(self._name_of, nodes))

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
        return self._holdings.state() if self._codecs.any else {}

    def restore(self, state: Tensors) -> None:
        """Take back what `state` gave."""
        if state:
            self._holdings.restore(state)


def _figure(value: object) -> bool:
    return isinstance(value, int | float) and math.isfinite(value) and value >= 0
