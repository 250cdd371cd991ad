"""A reply that does not get through is in nobody's way, and taken from nobody but the node that was asked."""

import logging
import time
from collections.abc import Iterator, Sequence

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Error, Message, RecordDict

from fl_distill.collect import Collector
from fl_distill.runtime.deployed import Deployed
from fl_distill.runtime.envelope import opened, sealed
from fl_distill.runtime.flower_private import SUPERLINK, identity, stamp

from .superlink import Store, sent_by

CONTENT = RecordDict({"config": ConfigRecord({"a": 1})})
WHOLE = RecordDict({"arrays": ArrayRecord({"w": Array("u1", (2,), "x", b"ab")}), "config": ConfigRecord({"a": 1})})


@pytest.fixture(autouse=True)
def run() -> Iterator[None]:
    with identity(7):
        yield


class Pushing:
    """What stands behind a `Deployed`: messages get numbers, and each node has its answer ready."""

    def __init__(self, store: Store, answers: dict[int, RecordDict]) -> None:
        self.store, self.answers, self.replies = store, answers, dict[int, Message]()

    def push_messages(self, messages: Sequence[Message]) -> list[str]:
        for message in messages:
            node = message.metadata.dst_node_id
            stamp(message, f"to {node}{message.metadata.group_id}")
            if node in self.answers:
                self.replies[node] = self.store.add(Message(self.answers[node], reply_to=message))
        return [message.metadata.message_id for message in messages]


def asked(answers: dict[int, RecordDict], ttl: float = 60.0) -> tuple[Store, Deployed, dict[int, Message]]:
    """A grid whose nodes 5 and 6 were asked, and the replies that it will find."""
    store = Store()
    pushing = Pushing(store, answers)
    grid = Deployed(pushing, store, lambda pause: None)  # type: ignore[arg-type]
    grid.push_messages([Message(RecordDict(), node, "train", ttl=ttl) for node in (5, 6)])
    return store, grid, pushing.replies


def senders(replies: Sequence[Message]) -> list[int]:
    return [reply.metadata.src_node_id for reply in replies]


def timely(grid: Deployed, numbers: list[str]) -> Sequence[Message]:
    began = time.monotonic()
    found = grid.pull_messages(numbers)
    assert time.monotonic() - began < 0.5
    return found


WANTED = ["to 5", "to 6"]


@pytest.mark.parametrize("content", [sealed(CONTENT), WHOLE])
def test_a_reply_that_is_late_comes_when_it_is_complete_and_nobody_waits_for_it(content: RecordDict) -> None:
    store, grid, replies = asked({5: content, 6: RecordDict()})
    store.late = {next(iter(replies[5].content.values())).object_id}
    assert senders(timely(grid, WANTED)) == [6]
    for _ in range(5):
        assert timely(grid, ["to 5"]) == []
    store.calls.clear()
    store.late = set()
    (reply,) = grid.pull_messages(["to 5"])
    assert opened(reply.content) == opened(content)
    assert "look" not in store.calls, "the SuperLink would say that there is no such message"


def test_what_has_arrived_of_a_reply_is_not_fetched_again() -> None:
    store, grid, replies = asked({5: WHOLE})
    store.late = {replies[5].metadata.message_id}
    assert grid.pull_messages(["to 5"]) == []
    store.calls.clear()
    store.late = set()
    assert len(grid.pull_messages(["to 5"])) == 1
    assert store.calls == ["pull", f"confirm {replies[5].metadata.message_id}"]


def test_a_reply_that_never_comes_is_a_fault() -> None:
    store, grid, _ = asked({5: sealed(CONTENT)})
    store.never = set(store.objects)
    (reply,) = grid.pull_messages(["to 5"])
    assert "did not arrive as a whole" in str(reply.error.reason)
    assert (senders([reply]), reply.metadata.reply_to_message_id) == ([5], "to 5")


def test_a_reply_that_is_not_there_in_time_is_a_fault() -> None:
    store, grid, _ = asked({5: sealed(CONTENT)}, ttl=0.4)
    store.late = set(store.objects)
    assert grid.pull_messages(["to 5"]) == []
    time.sleep(0.4)
    (reply,) = grid.pull_messages(["to 5"])
    assert "did not arrive in time" in str(reply.error.reason)
    assert not grid._arrivals._coming


def test_a_broken_upload_costs_a_round_its_grace_and_no_more() -> None:
    store, grid, _ = asked({})
    grid.grid = Broken(store, {5: sealed(CONTENT), 6: WHOLE})  # type: ignore[assignment]
    messages = [Message(RecordDict(), node, "train") for node in (5, 6)]
    began = time.monotonic()
    first, second = Collector(timeout_s=60, grace_s=0.3).collect(grid, messages)
    assert time.monotonic() - began < 2.0
    assert (first.node, first.fault) == (5, None)
    assert (second.node, second.fault) == (6, "no reply within 0.3 s of grace")
    assert second.owing, "it may still be sending"


class Broken(Pushing):
    """The objects of node 6 do not arrive."""

    def push_messages(self, messages: Sequence[Message]) -> list[str]:
        numbers = super().push_messages(messages)
        self.store.late = {self.replies[6].metadata.message_id}
        return numbers


def test_nothing_is_kept_of_a_reply_whose_sender_has_gone_on() -> None:
    store, grid, replies = asked({5: sealed(CONTENT)})
    store.late, first = set(store.objects), replies[5].metadata.message_id
    assert grid.pull_messages(["to 5"]) == []
    store.late = set()
    grid.push_messages([Message(RecordDict(), 5, "query", group_id=" again")])
    assert senders(grid.pull_messages(["to 5 again"])) == [5]
    assert grid.pull_messages(["to 5 again"]) == []
    assert f"confirm {first}" in store.calls


@pytest.mark.parametrize("sender", [6, SUPERLINK])
def test_an_answer_of_another_node_is_dropped(sender: int, caplog: pytest.LogCaptureFixture) -> None:
    store, grid, _ = asked({5: sealed(CONTENT)})
    sent_by(sender, store.waiting[0][0])
    with caplog.at_level(logging.WARNING):
        assert grid.pull_messages(["to 5"]) == []
    assert "what node 5 was asked: its answer is dropped" in caplog.text
    assert "pull" not in store.calls


def test_a_reply_cannot_say_that_it_is_anothers() -> None:
    store, grid, _ = asked({5: WHOLE, 6: WHOLE})
    (head, _), (_, tree) = store.waiting
    store.waiting = [(head, tree)]  # the objects are those of node 6's reply
    (reply,) = grid.pull_messages(WANTED)
    assert (senders([reply]), reply.metadata.reply_to_message_id) == ([5], "to 5")


def test_a_question_is_looked_for_at_once_and_makes_no_rhythm() -> None:
    """A round is not to wait for an answer that may come any time."""
    store, slept = Store(), list[float]()
    grid = Deployed(Pushing(store, {}), store, slept.append)  # type: ignore[arg-type]
    (work,) = grid.push_messages([Message(RecordDict(), 5, "train")])
    assert grid.pull_messages([work]) == []
    (question,) = grid.push_messages([Message(RecordDict(), 5, "query", group_id="roll-call")])
    assert grid.pull_messages([question]) == []
    assert slept[0] >= 0.05
    assert slept[1] == 0.0
    assert grid.pull_messages([question]) == []
    assert slept[2] >= 0.05, "now somebody waits"


def test_the_superlink_may_say_that_there_is_no_answer() -> None:
    store, grid, _ = asked({})
    question = Message(RecordDict(), 5, "train")
    stamp(question, "to 5")
    sent_by(SUPERLINK, store.add(Message(Error(5, "gone"), reply_to=question)))
    (found,) = grid.pull_messages(["to 5"])
    assert found.error.reason == "gone"
