"""Every private name of Flower that this project touches, in one place; only `flower_line` imports more of them.
`codec/records.py` sets what lies inside of public records.

`tests/test_flower_private.py` states what is expected of each and fails, naming it, when Flower moves it.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flwr.app import ConfigRecord, Error, Message, Metadata, RecordDict
from flwr.app.message import make_message
from flwr.common.constant import (
    NUM_PARTITIONS_KEY,
    PARTITION_ID_KEY,
    SUPERLINK_NODE_ID,
    ErrorCode,
)
from flwr.common.serde import message_from_proto
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.runtime_pb2 import PullAppMessagesRequest
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import iterate_object_tree
from flwr.supercore.inflatable.inflatable_protobuf_utils import make_pull_object_fn_protobuf
from flwr.supercore.inflatable.inflatable_utils import (
    ObjectPullError,
    inflate_object_from_contents,
    pull_objects,
)
from flwr.supercore.run import Run, RunNotRunningException
from flwr.supercore.task_identity import TaskIdentity

if TYPE_CHECKING:
    from flwr.superlink.grid import HttpGrid

__all__ = [
    "APP_CRASHED",
    "ENVELOPE",
    "NO_REPLY",
    "RAISED",
    "SUPERLINK",
    "UNAVAILABLE",
    "Damaged",
    "Desk",
    "Gone",
    "Late",
    "Lost",
    "Run",
    "compose",
    "copied",
    "empty_run",
    "fetch",
    "identity",
    "ids",
    "node_config",
    "objects",
    "stamp",
]

RAISED: int = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
APP_CRASHED: int = ErrorCode.CLIENT_APP_CRASHED
NO_REPLY: int = ErrorCode.REPLY_MESSAGE_UNAVAILABLE
UNAVAILABLE: int = ErrorCode.NODE_UNAVAILABLE
SUPERLINK: int = SUPERLINK_NODE_ID
"""Sender of errors that no node sent."""

_TASK_ID = 1
_claims = 0


@contextmanager
def identity(run_id: int) -> Iterator[None]:
    """Let `Message(content, dst_node_id, message_type)` work here, as in a process that Flower started.

    An identity that a Flower runtime has set stays as it is. Claims may nest and end in any order; the last
    one to end takes away what the first one set.
    """
    global _claims
    wanted = {"_task_id": _TASK_ID, "_run_id": run_id, "_node_id": SUPERLINK_NODE_ID}
    missing = {name: value for name, value in wanted.items() if getattr(TaskIdentity, name) is None}
    if not missing and _claims == 0:
        yield
        return
    for name, value in missing.items():
        setattr(TaskIdentity, name, value)
    _claims += 1
    try:
        yield
    finally:
        _claims -= 1
        if _claims == 0:
            for name in wanted:
                setattr(TaskIdentity, name, None)


def stamp(message: Message, message_id: str) -> None:
    """Set the id of `message`, which Flower leaves to the component that accepts it."""
    message.metadata.__dict__["_message_id"] = message_id


def compose(metadata: Metadata, body: RecordDict | Error) -> Message:
    """A message with exactly this metadata, whether an instruction or a reply."""
    if isinstance(body, Error):
        return make_message(metadata, error=body)
    return make_message(metadata, content=body)


def copied(metadata: Metadata) -> Metadata:
    """Metadata of its own with the same values."""
    copy = Metadata.__new__(Metadata)
    copy.__dict__.update(metadata.__dict__)
    return copy


def empty_run(run_id: int) -> Run:
    """Run information that holds nothing but its id."""
    return Run.create_empty(run_id)


def node_config(partition: int, partitions: int) -> dict[str, bool | float | int | str]:
    """The node configuration that Flower's simulation gives node `partition` of `partitions`."""
    return {PARTITION_ID_KEY: partition, NUM_PARTITIONS_KEY: partitions}


Gone = RunNotRunningException
"""Raised where a run has ended while somebody still works for it."""
Lost = ObjectPullError
"""Raised where what was announced did not arrive."""


class Late(Lost):
    """What was announced did not arrive so far, and may still be on its way."""

    def __init__(self) -> None:
        Exception.__init__(self, "it has not arrived so far")


class Damaged(Exception):
    """What arrived is no message."""


ENVELOPE = 3
"""Objects of a message with one record that has no parts."""
_AGAIN_S, _AGAIN_CAP_S = 0.05, 1.0
"""Pauses before an object is asked for again whose sender is still sending it; Flower begins with a second."""


def ids(tree: Any) -> list[str]:
    """The ids of a message's objects."""
    return [node.object_id for node in iterate_object_tree(tree)]


def fetch(
    head: Message, tree: Any, pull: Callable[[str], bytes], lone: str, *, patient: bool = True
) -> tuple[Message, list[str]]:
    """The message whose objects are those of `tree`, and the ids of those that there was no need to ask for.

    A message that holds one record with an entry `lone` and nothing else is known by its head and that record.
    """
    wanted, contents = ids(tree), {}
    if len(wanted) == ENVELOPE and len(tree.children) == len(tree.children[0].children) == 1:
        contents = objects(wanted[:1], pull, patient=patient)
        record = _inflated(wanted[0], contents)
        if isinstance(record, ConfigRecord) and lone in record:
            return compose(head.metadata, RecordDict({lone: record})), wanted[1:]
    contents |= objects([object_id for object_id in wanted if object_id not in contents], pull, patient=patient)
    whole = _inflated(tree.object_id, contents)
    if not isinstance(whole, Message):
        raise Damaged(f"it is a {type(whole).__name__}")
    # What a message says of itself nobody has compared with who sent it.
    return compose(head.metadata, whole.error if whole.has_error() else whole.content), []


def _inflated(object_id: str, contents: dict[str, bytes]) -> object:
    try:
        return inflate_object_from_contents(object_id, contents, keep_object_contents=True)
    except Exception as error:  # Flower checks little of what a node sends
        raise Damaged(f"{type(error).__name__}: {error}"[:200]) from error


def objects(wanted: list[str], pull: Callable[[str], bytes], *, patient: bool = True) -> dict[str, bytes]:
    """What the objects of these ids hold; raises `Lost` where one will not come.

    Waits for those that are still on their way, or raises `Late`.
    """
    refused: list[str] = []

    def asked(object_id: str) -> bytes:
        try:
            return pull(object_id)
        except Lost:
            refused.append(object_id)
            raise

    tries = None if patient else 1
    try:
        return pull_objects(
            wanted, asked, max_tries_per_object=tries, initial_backoff=_AGAIN_S, backoff_cap=_AGAIN_CAP_S
        )
    except Lost:
        if refused:
            raise
        raise Late from None


@dataclass(frozen=True)
class Desk:
    """Where a ServerApp fetches replies: its grid's own connection."""

    _grid: "HttpGrid"
    _node: Node = field(default_factory=lambda: Node(node_id=SUPERLINK_NODE_ID))

    @staticmethod
    def of(grid: Grid) -> "Desk | None":
        """That of a ServerApp which a SuperLink started."""
        from flwr.superlink.grid import HttpGrid  # a second of imports, which a simulation can do without

        return Desk(grid) if isinstance(grid, HttpGrid) else None

    def connections(self) -> dict[int, str]:
        """The nodes that are online, and since when."""
        return {node.node_id: node.last_activated_at for node in self._grid.get_nodes()}

    def heads(self, message_ids: Iterable[str]) -> list[tuple[Message, Any]]:
        """The heads of replies that nobody was handed yet, each with the tree of its objects."""
        found = self._grid._runtime_client.PullMessages(PullAppMessagesRequest(message_ids=message_ids))
        heads = map(message_from_proto, found.messages_list)
        return list(zip(heads, found.message_object_trees, strict=True))

    def pull(self, run: int, object_id: str) -> bytes:
        """One object of a reply."""
        return make_pull_object_fn_protobuf(self._grid._runtime_client.PullObject, self._node, run)(object_id)

    def confirm(self, reply: Metadata) -> None:
        """The SuperLink need not keep a reply's objects any more."""
        request = ConfirmMessageReceivedRequest(
            node=self._node, run_id=reply.run_id, message_object_id=reply.message_id
        )
        self._grid._runtime_client.ConfirmMessageReceived(request)
