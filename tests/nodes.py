"""Nodes for tests of those that ask them: they connect, answer and go when a test says so."""

from collections.abc import Iterable, Mapping

from flwr.app import Error, Message, RecordDict

from fl_distill.asked import Passing
from fl_distill.runtime.flower_private import SUPERLINK, stamp

from .superlink import sent_by


class Nodes(Passing):
    """A grid without anything behind it. Use it inside `flower_private.identity`."""

    def __init__(self, *nodes: int) -> None:
        super().__init__(None)  # type: ignore[arg-type]
        self.there = dict.fromkeys(nodes, "first")
        self.asked: list[Message] = []
        self.waiting: list[Message] = []
        self._heard = 0

    def connections(self) -> Mapping[int, str]:
        return dict(self.there)

    def get_node_ids(self) -> Iterable[int]:
        return list(self.there)

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        for message in messages:
            stamp(message, str(len(self.asked)))
            self.asked.append(message)
        return [message.metadata.message_id for message in messages]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        wanted = set(message_ids)
        found = [reply for reply in self.waiting if reply.metadata.reply_to_message_id in wanted]
        self.waiting = [reply for reply in self.waiting if reply not in found]
        return found

    def questions(self) -> list[Message]:
        """What was asked since the last time."""
        found, self._heard = self.asked[self._heard :], len(self.asked)
        return found

    def answer(self, message: Message, body: RecordDict | Error) -> None:
        """The answer to a message arrives."""
        self.waiting.append(Message(body, reply_to=message))

    def expire(self, message: Message) -> None:
        """The infrastructure says that no answer to a message will come."""
        self.waiting.append(sent_by(SUPERLINK, Message(Error(3, "expired"), reply_to=message)))
