"""Every private name of Flower that this project touches, in one place; no other file imports one.

`tests/test_flower_private.py` states what is expected of each and fails, naming it, when Flower moves it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from flwr.app import Array, Error, Message, Metadata, RecordDict
from flwr.app.message import make_message
from flwr.common.constant import (
    NUM_PARTITIONS_KEY,
    PARTITION_ID_KEY,
    SUPERLINK_NODE_ID,
    ErrorCode,
)
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

__all__ = [
    "APP_CRASHED",
    "NO_REPLY",
    "RAISED",
    "UNAVAILABLE",
    "Run",
    "compose",
    "empty_run",
    "identity",
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
