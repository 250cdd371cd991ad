"""Nodes are asked who they are without anybody waiting, and only what they say themselves counts."""

from collections.abc import Iterator

import pytest
from flwr.app import ConfigRecord, Error, RecordDict

from fl_distill import rollcall
from fl_distill.rollcall import RollCall
from fl_distill.runtime.flower_private import identity

from .nodes import Nodes

CONTENT = RecordDict({"site": ConfigRecord({"name": "mercy"})})


@pytest.fixture(autouse=True)
def run() -> Iterator[None]:
    with identity(7):
        yield


def test_an_answer_is_heard_once_whenever_it_comes() -> None:
    grid = Nodes(5, 6)
    calls = RollCall(grid, 60)
    calls.ask([5, 6])
    first, second = grid.questions()
    assert calls.answers([5, 6]) == {}
    grid.answer(second, CONTENT)
    assert {node: answer.content for node, answer in calls.answers([5, 6]).items()} == {6: CONTENT}
    grid.answer(first, Error(1, "not now"))
    assert [answer.has_error() for answer in calls.answers([5, 6]).values()] == [True], "it says so itself"
    assert calls.answers([5, 6]) == {}
    assert grid.questions() == []


def test_that_a_question_has_expired_is_no_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = Nodes(5)
    calls = RollCall(grid, 60)
    calls.ask([5])
    (question,) = grid.questions()
    grid.expire(question)
    assert calls.answers([5]) == {}
    assert grid.questions() == [], "not at once: it is busy"
    monkeypatch.setattr(rollcall, "AGAIN_S", -1.0)
    assert calls.answers([5]) == {}
    (again,) = grid.questions()
    grid.answer(again, CONTENT)
    assert list(calls.answers([5])) == [5]


def test_a_silent_node_is_asked_anew_and_may_answer_either_question(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = Nodes(5)
    calls = RollCall(grid, 60)
    calls.ask([5])
    monkeypatch.setattr(rollcall, "AGAIN_S", -1.0)
    calls.answers([5])
    first, _ = grid.questions()
    grid.answer(first, CONTENT)
    assert list(calls.answers([5])) == [5]


def test_an_answer_to_an_earlier_question_does_not_answer_a_later_one() -> None:
    grid = Nodes(5)
    calls = RollCall(grid, 60)
    calls.ask([5])
    calls.ask([5])
    before, after = grid.questions()
    grid.answer(before, CONTENT)
    assert calls.answers([5]) == {}
    grid.answer(after, CONTENT)
    assert list(calls.answers([5])) == [5]


def test_nobody_waits_for_a_node_that_is_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rollcall, "AGAIN_S", -1.0)
    grid = Nodes(5)
    calls = RollCall(grid, 60)
    calls.ask([5])
    (question,) = grid.questions()
    assert calls.answers([]) == {}
    grid.answer(question, CONTENT)
    assert calls.answers([5]) == {}
    assert grid.questions() == []
