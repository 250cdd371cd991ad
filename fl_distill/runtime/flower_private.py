"""Every private name of Flower that this project touches, in one place; no other file imports one.

`tests/test_flower_private.py` states what is expected of each and fails, naming it, when Flower moves it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flwr.app import Array, Error, Message, Metadata, RecordDict
from flwr.app.message import make_message
from flwr.common.constant import (
    NUM_PARTITIONS_KEY,
    PARTITION_ID_KEY,
    SUPERLINK_NODE_ID,
    ErrorCode,
)
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree, iterate_object_tree
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents, pull_objects, push_objects
from flwr.supercore.run import Run, RunNotRunningException
from flwr.supercore.task_identity import TaskIdentity

__all__ = [
    "APP_CRASHED",
    "NO_REPLY",
    "RAISED",
    "UNAVAILABLE",
    "Gone",
    "Link",
    "Run",
    "compose",
    "empty_run",
    "identity",
    "linked",
    "make_array",
    "node_config",
    "stamp",
]

RAISED: int = ErrorCode.CLIENT_APP_RAISED_EXCEPTION
APP_CRASHED: int = ErrorCode.CLIENT_APP_CRASHED
NO_REPLY: int = ErrorCode.REPLY_MESSAGE_UNAVAILABLE
UNAVAILABLE: int = ErrorCode.NODE_UNAVAILABLE

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


def make_array(dtype: str, shape: tuple[int, ...], stype: str, data: bytes) -> Array:
    """`Array(dtype, shape, stype, data)` in a tenth of the time, which counts with many arrays a message."""
    if not (isinstance(dtype, str) and isinstance(stype, str) and isinstance(data, bytes)):
        raise TypeError(f"Expected str, str and bytes in an Array, got {dtype!r}, {stype!r} and {type(data)}.")
    array = Array.__new__(Array)
    array.__dict__.update(_is_dirty=True, dtype=dtype, shape=shape, stype=stype, data=data)
    return array


def empty_run(run_id: int) -> Run:
    """Run information that holds nothing but its id."""
    return Run.create_empty(run_id)


def node_config(partition: int, partitions: int) -> dict[str, bool | float | int | str]:
    """The node configuration that Flower's simulation gives node `partition` of `partitions`."""
    return {PARTITION_ID_KEY: partition, NUM_PARTITIONS_KEY: partitions}


Gone = RunNotRunningException
"""Raised where a run has ended while somebody still works for it."""


@dataclass(frozen=True)
class Link:
    """A node's connection to a SuperLink: Flower's own transport, authentication and heartbeat."""

    node: int
    _receive: Callable[[], Any]
    _send: Callable[..., Any]
    _get_run: Callable[[int], Run]
    _pull: Callable[[int, str], bytes]
    _push: Callable[[int, str, str, bytes], None]
    _confirm: Callable[[int, str], None]

    def receive(self, largest: int, note: Callable[[Message], None]) -> Message | tuple[Message, str] | None:
        """The next message, if there is one; or the head of one that cannot be had, and why.

        `note` hears the head before anything else is fetched. Raises `Gone` where its run has ended.
        """
        if (found := self._receive()) is None:
            return None
        head, tree = found
        note(head)
        run, number, arrived = head.metadata.run_id, head.metadata.message_id, 0

        def pull(object_id: str) -> bytes:
            nonlocal arrived
            if arrived > largest:
                raise OverflowError
            data = self._pull(run, object_id)
            arrived += len(data)
            return data

        ids = [node.object_id for node in iterate_object_tree(tree)]
        try:
            contents = pull_objects(ids, pull_object_fn=pull)
            whole: Message = inflate_object_from_contents(tree.object_id, contents)  # type: ignore[assignment]
        except OverflowError:
            return head, f"the message has more than {largest} bytes"
        except Gone:
            raise
        except Exception as error:
            return head, f"the message could not be fetched ({type(error).__name__})"
        stamp(whole, tree.object_id)
        self._confirm(run, number)
        return whole

    def send(self, reply: Message, seconds: float) -> None:
        """Send a reply to a message that took `seconds` to work on."""
        stamp(reply, reply.object_id)
        tree, run = get_object_tree(reply), reply.metadata.run_id
        objects = get_all_nested_objects(reply)
        wanted, session = self._send(reply, tree, seconds)
        push_objects(
            objects,
            lambda object_id, data: self._push(run, session, object_id, data),
            object_ids_to_push=wanted,
        )

    def run_config(self, run: int) -> dict[str, Any]:
        """What the run was submitted with."""
        return dict(self._get_run(run).override_config)


@contextmanager
def linked(address: str, ca: Path | None, key: Path | None) -> Iterator[Link]:
    """A node's connection: over TLS where there is a `ca`, authenticated where there is a private `key`.

    Waits for a SuperLink that is not there. Raises SystemExit when it refuses this node.
    """
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
    from cryptography.hazmat.primitives.serialization import load_ssh_private_key
    from flwr.supernode.fleet_http_connection import http_request_response

    keys = None
    if key is not None:
        private = load_ssh_private_key(key.read_bytes(), None)
        if not isinstance(private, EllipticCurvePrivateKey):
            raise TypeError(f"{key} is no key of an elliptic curve")
        keys = private, private.public_key()
    with http_request_response(address, ca is None, ca.read_bytes() if ca else None, keys) as parts:
        node, receive, send, get_run, _, pull, push, confirm = parts
        yield Link(node, receive, send, get_run, pull, push, confirm)
