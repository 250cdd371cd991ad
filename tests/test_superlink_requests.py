"""What a message costs between a site, a SuperLink and a ServerApp, and that nothing is confirmed too early."""

from collections.abc import Iterator
from typing import Any

import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, RecordDict

from fl_distill.asked import Asked, connections
from fl_distill.runtime import link as link_module
from fl_distill.runtime.deployed import Deployed
from fl_distill.runtime.envelope import Sealing, opened, sealed
from fl_distill.runtime.flower_private import identity, stamp
from fl_distill.runtime.link import Link

from .nodes import Nodes
from .superlink import Store

CONTENT = RecordDict({"config": ConfigRecord({"a": 1}), "arrays": ArrayRecord({"w": Array("u1", (2,), "x", b"ab")})})


@pytest.fixture(autouse=True)
def run() -> Iterator[None]:
    with identity(7):
        yield


def message(content: RecordDict, group: str = "", ttl: float | None = None) -> Message:
    return Message(content, 5, "train", group_id=group, ttl=ttl)


def received(link: Link) -> Message:
    found = link.receive(10**6, lambda head: None)
    assert isinstance(found, Message), found
    return found


def test_an_envelope_is_fetched_with_one_request_and_confirmed_when_the_next_was_answered() -> None:
    store = Store()
    link = Link(store)  # type: ignore[arg-type]
    first, second = store.add(message(sealed(CONTENT))), store.add(message(sealed(CONTENT), "again"))
    for asked in (first, second):
        found = received(link)
        assert opened(found.content) == CONTENT
        assert found.metadata.message_id == asked.metadata.message_id
        link.send(Message(RecordDict(), reply_to=found), 0.0)
    number = first.metadata.message_id
    assert store.calls == ["pull", "send", "pull", "send", f"confirm {number}"]


def test_a_plain_message_is_fetched_as_a_whole_and_confirmed_at_once() -> None:
    for content in (CONTENT, RecordDict({"config": ConfigRecord({"a": 1})}), RecordDict()):
        store = Store()
        asked = store.add(message(content))
        found = received(Link(store))  # type: ignore[arg-type]
        assert found.content == content
        count = len(store.objects)
        assert store.calls == ["pull"] * count + [f"confirm {asked.metadata.message_id}"]


def test_a_large_envelope_travels_in_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fl_distill.runtime.envelope.WHOLE", 10)
    store = Store()
    store.add(message(sealed(CONTENT)))
    assert opened(received(Link(store)).content) == CONTENT  # type: ignore[arg-type]
    assert store.calls.count("pull") == 5


def test_a_message_that_is_too_large_is_not_taken() -> None:
    store = Store()
    store.add(message(CONTENT))
    found = Link(store).receive(10, lambda head: None)  # type: ignore[arg-type]
    assert isinstance(found, tuple)
    assert "more than 10 bytes" in found[1]


def test_what_nothing_followed_is_confirmed_once_all_of_it_has_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """An object that arrives after its message was confirmed would be refused, and end the ServerApp that sends it."""
    store = Store()
    link = Link(store)  # type: ignore[arg-type]
    asked = store.add(message(sealed(CONTENT)))
    received(link)
    store.calls.clear()
    assert link.receive(10**6, lambda head: None) is None
    assert store.calls == [], "it was not long ago"
    monkeypatch.setattr(link_module, "SETTLED_S", 0.0)
    store.late = {asked.metadata.message_id}
    assert link.receive(10**6, lambda head: None) is None
    assert "confirm" not in " ".join(store.calls)
    store.late = set()
    assert link.receive(10**6, lambda head: None) is None
    assert store.calls[-1] == f"confirm {asked.metadata.message_id}"
    store.calls.clear()
    assert link.receive(10**6, lambda head: None) is None
    assert store.calls == []


def test_a_message_that_is_too_large_is_confirmed_once_all_of_it_has_come(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the SuperLink would keep it for as long as the run lasts."""
    monkeypatch.setattr(link_module, "SETTLED_S", 0.0)
    monkeypatch.setattr(link_module, "AT_ONCE", 1)
    store = Store()
    link = Link(store)  # type: ignore[arg-type]
    asked = store.add(message(CONTENT))
    assert isinstance(link.receive(10, lambda head: None), tuple)
    assert "confirm" not in " ".join(store.calls), "its sender may still send"
    looks = 0
    while f"confirm {asked.metadata.message_id}" not in store.calls:
        assert link.receive(10, lambda head: None) is None
        looks += 1
    assert 1 < looks <= len(store.objects), "other messages are looked for in between"
    assert store.calls.count("pull") <= len(store.objects) + 1


def test_a_message_that_is_too_large_is_confirmed_when_the_next_was_answered() -> None:
    store = Store()
    link = Link(store)  # type: ignore[arg-type]
    asked = store.add(message(CONTENT))
    assert isinstance(link.receive(10, lambda head: None), tuple)
    store.add(message(sealed(CONTENT)))
    link.send(Message(RecordDict(), reply_to=received(link)), 0.0)
    assert store.calls[-1] == f"confirm {asked.metadata.message_id}"


def test_what_never_comes_is_not_asked_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link_module, "SETTLED_S", 0.0)
    store = Store()
    link = Link(store)  # type: ignore[arg-type]
    asked = store.add(message(sealed(CONTENT), ttl=100.0))
    store.late = {asked.metadata.message_id}
    received(link)
    now = link_module.time.monotonic()
    for later, pulls in ((50.0, True), (101.0, True), (102.0, False), (500.0, False)):
        store.calls.clear()
        monkeypatch.setattr(link_module.time, "monotonic", lambda later=later: now + later)
        link.receive(10**6, lambda head: None)
        assert ("pull" in store.calls) is pulls, later
        assert "confirm" not in " ".join(store.calls)


def test_a_run_that_is_over_needs_no_confirmation(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    link = Link(store)  # type: ignore[arg-type]
    store.add(message(sealed(CONTENT)))
    received(link)
    monkeypatch.setattr(link_module, "SETTLED_S", 0.0)
    store.gone = True
    for _ in range(2):
        assert link.receive(10**6, lambda head: None) is None
    assert store.calls == ["pull", "pull"]


class Outbox:
    """The part of Flower's grid that sends: messages are numbered from 1."""

    def __init__(self) -> None:
        self.count = 0

    def push_messages(self, messages: list[Message]) -> list[str]:
        for message in messages:
            self.count += 1
            stamp(message, str(self.count))
        return [message.metadata.message_id for message in messages]


def replies(grid: Deployed, store: Store, content: RecordDict) -> Message:
    """The reply to one more message."""
    asked = message(RecordDict())
    grid.push_messages([asked])
    return store.add(Message(content, reply_to=asked))


def test_replies_are_confirmed_while_nothing_comes_and_their_senders_have_sent_more() -> None:
    store, slept = Store(), []
    grid = Deployed(Outbox(), store, slept.append)  # type: ignore[arg-type]
    first = replies(grid, store, sealed(CONTENT))
    (found,) = grid.pull_messages(["1"])
    assert opened(found.content) == CONTENT
    assert grid.pull_messages(["2"]) == []
    second = replies(grid, store, sealed(CONTENT))
    assert len(grid.pull_messages(["2"])) == 1
    assert grid.pull_messages(["3"]) == []
    assert store.calls == ["look", "pull", "look", "look", "pull", "look", f"confirm {first.metadata.message_id}"]
    assert second.metadata.message_id not in " ".join(store.calls)
    assert slept[1] == slept[3] == 0.0, "more may be there"
    assert min(slept[0], slept[2]) > 0.0


def test_a_plain_reply_is_confirmed_at_once() -> None:
    store = Store()
    grid = Deployed(Outbox(), store)  # type: ignore[arg-type]
    reply = replies(grid, store, CONTENT)
    (found,) = grid.pull_messages(["1"])
    assert found.content == CONTENT
    assert store.calls[-1] == f"confirm {reply.metadata.message_id}"


def test_who_connected_anew_is_known_through_everything_that_stands_before_the_superlink() -> None:
    nodes = Nodes(5, 6)
    whole = Sealing(Deployed(None, nodes))  # type: ignore[arg-type]
    assert connections(whole) == {5: "first", 6: "first"}
    nodes.there[6] = "second"
    assert connections(whole) == {5: "first", 6: "second"}
    assert connections(Asked(whole, [7])) == {7: ""}, "nodes of its own"
    assert connections(Unknowing(nodes)) == {5: "", 6: ""}


class Unknowing(Nodes):
    """As Flower's own grids."""

    def __init__(self, nodes: Nodes) -> None:
        super().__init__(*nodes.there)

    connections = None  # type: ignore[assignment]


def test_a_grid_that_flower_did_not_make_stays_as_it_is() -> None:
    grid: Any = object()
    assert Deployed.over(grid) is grid
