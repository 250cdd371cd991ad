"""Several sites' messages as one: the records that they share once, and answers one by one.

The head is JSON: `memory`, where the sender's shared memory and its bell are, or nothing; `places` of the buffers, in
the shared memory or in this message; `contents`, each the description of records and the numbers of its buffers;
`orders`, one for each site: metadata, number of the content, description of the site's state, the numbers of its
buffers, seed.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import astuple, dataclass
from functools import partial
from itertools import accumulate, pairwise
from typing import Any, final

from flwr.app import Array, ArrayRecord, Error, Message, RecordDict

from ..collect import never
from . import frames
from .bell import rope
from .ledger import Reader, Writer
from .shared import Address, Item, Library, Region, reached
from .tasks import States, Task

BUNDLE = "fl_distill.bundle"
SHARE_FROM = 512
"""Bytes from which a buffer goes through shared memory."""


class Unreachable(Exception):
    """The sender's memory cannot be reached from here: it is another machine, or another user's."""


# ---------------------------------------------------------------- from the server to a worker


def pack(
    tasks: Sequence[Task], states: States, library: Library, ledger: Reader | None, stay_s: float = 0.0
) -> tuple[bytes, list[Item]]:
    """A bundle, and what it borrows of the library; without a ledger all is inside.

    `stay_s`: how long the worker is to look for another one afterwards.
    """
    buffers: dict[int, int] = {}
    places: list[list[Any]] = []
    inline: list[bytes] = []
    borrowed: list[Item] = []

    def place(data: bytes) -> int:
        if (number := buffers.get(id(data))) is None:
            number = buffers[id(data)] = len(places)
            if ledger is None or len(data) < SHARE_FROM:
                places.append(["here", len(data)])
                inline.append(data)
            else:
                item = library.borrow(data)
                borrowed.append(item)
                places.append(["shared", item.offset, len(data)])
        return number

    contents: dict[int, int] = {}
    described: list[list[Any]] = []
    orders = []
    for task in tasks:
        if id(task.content) not in contents:
            contents[id(task.content)] = len(described)
            described.append([task.content.decode(), [place(data) for data in task.buffers]])
        state, state_buffers = states.get(task.node)
        numbers = [place(data) for data in state_buffers]
        fields = frames.metadata_fields(task.metadata)
        orders.append([fields, contents[id(task.content)], state.decode(), numbers, task.seed])
    files = (library.descriptor, ledger.descriptor, ledger.bell.descriptor) if ledger is not None else ()
    memory = [astuple(Address.of(file)) for file in files]
    head = {"memory": memory, "places": places, "contents": described, "orders": orders, "stay": stay_s}
    return _joined(frames.to_json(head), inline), borrowed


def content_of(bundle: bytes) -> RecordDict:
    """The bundle as the content of a message."""
    return RecordDict({BUNDLE: ArrayRecord({BUNDLE: Array("uint8", (len(bundle),), BUNDLE, bundle)})})


def bundle_of(content: RecordDict) -> bytes:
    """What `content_of` was given."""
    return content[BUNDLE][BUNDLE].data  # type: ignore[union-attr]


@dataclass(frozen=True)
class Order:
    """What one site is asked."""

    message: Message
    state: RecordDict
    seed: int


@final
class Bundle:
    """A bundle as a worker sees it.

    Raises `Unreachable` where the sender's memory is not this machine's, `Unwanted` where nobody waits any more.
    """

    def __init__(self, data: bytes) -> None:
        header, rest = _parts(data)
        head = frames.parse(header)
        self.ledger: Writer | None = None
        self.desk: Desk | None = None
        library: Region | None = None
        if head["memory"]:
            shared, ledger, bell = head["memory"]
            library = _reach(shared, writable=False)
            self.ledger = Writer(_reach(ledger, writable=True), rope(_address(bell)) or never)
            self.desk = Desk(self.ledger, library, head["stay"])
            self.ledger.begin(0)  # from here on it is this worker's turn: reading a large model takes a while
        self._buffers: list[bytes] = []
        at = 0
        for kind, *where in head["places"]:
            if kind == "shared" and library is not None:
                self._buffers.append(library.read(*where))
            else:
                self._buffers.append(rest[at : at + where[0]])
                at += where[0]
        self._contents = [(frames.parse(text.encode()), numbers) for text, numbers in head["contents"]]
        self._orders = head["orders"]

    def __len__(self) -> int:
        return len(self._orders)

    def orders(self) -> Iterator[Order]:
        """One after the other, each with records of its own. Raises `Unwanted` where the next must not be begun."""
        for at, (fields, content, state, numbers, seed) in enumerate(self._orders):
            if self.ledger is not None:
                self.ledger.begin(at)
            described, places = self._contents[content]
            message = frames.rebuild(fields, frames.restore(described, [self._buffers[n] for n in places]))
            held = frames.restore(frames.parse(state.encode()) or [], [self._buffers[n] for n in numbers])
            yield Order(message, held, seed)


@final
class Desk:
    """Where a worker looks for its next bundle."""

    def __init__(self, ledger: Writer, library: Region, stay_s: float) -> None:
        self._ledger, self._library, self._stay_s = ledger, library, stay_s
        self._taken = 0

    def next(self) -> bytes | None:
        """The next bundle, once it is there; None where there was none for as long as the worker is to stay."""
        if (found := self._ledger.posted(self._taken, self._stay_s)) is None:
            return None
        self._taken, place, length = found
        return self._library.read(place, length)


def _reach(fields: Sequence[Any], writable: bool) -> Region:
    if (found := reached(_address(fields), writable=writable)) is None:
        raise Unreachable
    return found


def _address(fields: Sequence[Any]) -> Address:
    machine, process, descriptor, (device, inode) = fields
    return Address(machine, process, descriptor, (device, inode))


# ---------------------------------------------------------------- from a worker to the server


def entry(number: int, reply: Message, state: RecordDict | None, seconds: float) -> tuple[bytes, list[bytes]]:
    """The answer to order `number`, and the site's state afterwards (None: as before): head and body."""
    content, buffers = frames.encode(reply.content) if reply.has_content() else (b"null", [])
    split, described = len(buffers), b"null"
    if state:
        described, more = frames.encode(state)
        buffers += more
    about = {
        "number": number,
        "seconds": seconds,
        "metadata": frames.metadata_fields(reply.metadata),
        "error": [reply.error.code, reply.error.reason] if reply.has_error() else None,
        "keep_state": state is None,
        "split": split,
        "lengths": [len(buffer) for buffer in buffers],
    }
    return b"[%b,%b,%b]" % (frames.to_json(about), content, described), buffers


@dataclass(frozen=True)
class Answer:
    """What `entry` was given; `state` is None where the site's stays as it was."""

    number: int
    reply: Message
    seconds: float
    state: tuple[Any, list[bytes]] | None


def read_entry(head: bytes, cut: Callable[[Sequence[int]], list[bytes]]) -> Answer:
    """The answer of an entry. Raises `FrameError` for one that makes no sense."""
    try:
        about, content, state = frames.parse(head)
        buffers = cut(about["lengths"])
        split, error = about["split"], about["error"]
        told = Error(*error) if error is not None else frames.restore(content, buffers[:split])
        kept = None if about["keep_state"] else (state, buffers[split:])
        return Answer(about["number"], frames.rebuild(about["metadata"], told), float(about["seconds"]), kept)
    except (LookupError, TypeError, ValueError) as error:
        raise frames.FrameError(f"an answer makes no sense: {type(error).__name__}: {error}") from error


def entries_as_records(entries: Sequence[tuple[bytes, Sequence[bytes]]]) -> RecordDict:
    """Entries that find no shared memory, as the content of a message."""
    if not entries:
        return RecordDict()
    sizes = [[len(head), sum(map(len, body))] for head, body in entries]
    return content_of(_joined(frames.to_json(sizes), [part for head, body in entries for part in (head, *body)]))


def entries_of(content: RecordDict) -> Iterator[tuple[bytes, Callable[[Sequence[int]], list[bytes]]]]:
    """What `entries_as_records` was given, as `Reader.entries` gives it."""
    if BUNDLE not in content:
        return
    header, rest = _parts(bundle_of(content))
    at = 0
    for head, body in frames.parse(header):
        first = at + head
        yield rest[at:first], partial(_parted, rest, first)
        at = first + body


def _parted(data: bytes, start: int, lengths: Sequence[int]) -> list[bytes]:
    return [data[first:last] for first, last in pairwise(accumulate(lengths, initial=start))]


def _joined(head: bytes, parts: Sequence[bytes]) -> bytes:
    return b"".join([len(head).to_bytes(8, "little"), head, *parts])


def _parts(data: bytes) -> tuple[bytes, bytes]:
    length = int.from_bytes(data[:8], "little")
    return data[8 : 8 + length], data[8 + length :]
