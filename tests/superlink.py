"""A SuperLink for tests of those that speak with one, without any process or network."""

from typing import Any

from flwr.app import Message
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.inflatable.inflatable_utils import ObjectUnavailableError

from fl_distill.runtime.flower_private import Gone, Lost, stamp


def sent_by(node: int, message: Message) -> Message:
    """The same message in the name of another node."""
    message.metadata.__dict__["_src_node_id"] = node
    return message


class Store:
    """Stands for a SuperLink as a site's line and a ServerApp's desk see it: messages, and objects that may be late."""

    node = 5

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.late: set[str] = set()
        self.calls: list[str] = []
        self.waiting: list[tuple[Message, Any]] = []
        self.never: set[str] = set()
        self.gone = False

    def add(self, message: Message) -> Message:
        stamp(message, message.object_id)
        self.waiting.append((message, get_object_tree(message)))
        self.objects |= {key: found.deflate() for key, found in get_all_nested_objects(message).items()}
        return message

    def next(self) -> tuple[Message, Any] | None:
        return self.waiting.pop(0) if self.waiting else None

    def heads(self, message_ids: list[str]) -> list[tuple[Message, Any]]:
        self.calls.append("look")
        found, self.waiting = self.waiting, []
        return found

    def pull(self, run: int, object_id: str) -> bytes:
        """An object, for a site or a ServerApp."""
        self.calls.append("pull")
        if self.gone:
            raise Gone
        if object_id in self.never:
            raise Lost(object_id, "it could not be found")
        if object_id in self.late:
            raise ObjectUnavailableError(object_id)
        return self.objects[object_id]

    def send(self, reply: Message, seconds: float) -> None:
        self.calls.append("send")

    def confirm(self, *what: Any) -> None:
        self.calls.append(f"confirm {what[-1] if len(what) == 2 else what[0].message_id}")
