"""Who may take part: what a node says of itself is checked before it is believed."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from fl_distill import __version__
from fl_distill.asked import Asked
from fl_distill.collect import Collector
from fl_distill.registered import Registered, nodes
from fl_distill.roster import Member, Roster
from fl_distill.rows import add_scores, open_row, site_entry
from fl_distill.runtime.flower_private import identity
from fl_distill.runtime.process_grid import ProcessGrid

from .nodes import Nodes

GOOD = {"name": "mercy", "version": __version__, "model": "mlp", "classes": ["a", "b"], "label-counts": [3, 4]}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({}, None),
        ({"name": "St. Mary's, ward 3 (é)"}, None),
        ({"name": "../../server"}, "rename the site"),
        ({"name": "server"}, "rename the site"),
        ({"name": ""}, "rename the site"),
        ({"name": "a\x1b[2J"}, "rename the site"),
        ({"label-counts": ["x", "y"]}, "label-counts"),
        ({"label-counts": [1, -1]}, "label-counts"),
        ({"label-counts": [1]}, "label-counts"),
        ({"version": "0.0"}, "install the same version"),
        ({"classes": ["a", "c"]}, "its classes are"),
    ],
)
def test_what_a_node_says_of_itself_is_checked(change: dict[str, Any], sentence: str | None) -> None:
    app = ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        return Message(RecordDict({"site": ConfigRecord({**GOOD, **change})}), reply_to=message)

    with ProcessGrid(app, nodes=1, workers=0) as grid:
        roster = Roster(grid, Collector(), ("a", "b"))
        roster.call()
    if sentence is None:
        assert [member.examples for member in roster.members] == [7]
    else:
        assert not roster.members
        assert sentence in " ".join(roster.refused.values())


def test_an_architecture_that_the_server_must_know_and_does_not_is_refused() -> None:
    app = ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        return Message(RecordDict({"site": ConfigRecord(GOOD)}), reply_to=message)  # type: ignore[arg-type]

    with ProcessGrid(app, nodes=1, workers=0) as grid:
        roster = Roster(grid, Collector(), ("a", "b"), models=["cnn"])
        roster.call()
    assert "its model is 'mlp', the server knows cnn" in " ".join(roster.refused.values())


def test_a_node_that_returns_is_admitted_again_and_a_double_once_the_first_is_gone() -> None:
    app = ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        return Message(RecordDict({"site": ConfigRecord(GOOD)}), reply_to=message)  # type: ignore[arg-type]

    with ProcessGrid(app, nodes=2, workers=0) as whole:
        first, second = sorted(whole.get_node_ids())

        def of(*nodes: int) -> list[int]:
            roster._grid = Asked(whole, nodes)
            roster.call()
            return [member.node for member in roster.members]

        roster = Roster(whole, Collector(), ("a", "b"))
        assert of(first) == [first]
        assert of() == []
        assert of(first) == [first]
        assert of(first, second) == [first]
        assert "another node is already site 'mercy'" in " ".join(roster.refused.values())
        assert of(second) == [second]


def test_a_node_that_returns_is_not_waited_for(grid: Nodes) -> None:
    """It may still be busy with work of before it went."""
    roster = met(grid, 5, 6)
    del grid.there[6]
    assert [member.node for member in after(roster)] == [5]
    grid.there[6] = "later"
    began = time.monotonic()
    for _ in range(3):
        assert [member.node for member in after(roster)] == [5]
    assert time.monotonic() - began < 1.0
    (question,) = grid.questions()
    grid.answer(question, about(6))
    assert roster.refresh() == {6}
    assert [member.node for member in roster.members] == [5, 6]
    assert roster.refresh() == set()
    assert grid.questions() == []


def test_a_member_that_has_connected_anew_stays_one_and_says_who_it_is_now(grid: Nodes) -> None:
    """Its process was restarted between two rounds: perhaps with another model."""
    roster = met(grid, 5, 6)
    grid.there[6] = "later"
    assert [member.model for member in after(roster)] == ["mlp", "mlp"]
    (question,) = grid.questions()
    grid.answer(question, about(6, model="cnn"))
    assert [member.model for member in after(roster)] == ["mlp", "cnn"]
    grid.there[6] = "later still"
    after(roster)
    (question,) = grid.questions()
    grid.answer(question, Error(1005, "the site was stopped while it worked"))
    assert [member.model for member in after(roster)] == ["mlp", "cnn"]
    assert not roster.refused


@pytest.mark.parametrize("refusal", [{"version": "0.0"}, None])
def test_a_site_that_was_refused_is_asked_again_when_it_comes_back(grid: Nodes, refusal: dict[str, str] | None) -> None:
    roster = met(grid, 5)
    grid.there[6] = "with a wrong site.yaml"
    wrong = Error(1004, "policy") if refusal is None else about(6, **refusal)
    rounds = 0
    while rounds < 10:
        after(roster)
        for question in grid.questions():
            grid.answer(question, wrong)
        rounds += 1
    assert len(roster.refused) == 1
    assert len([message for message in grid.asked if message.metadata.dst_node_id == 6]) <= 3, "not every round"
    grid.there[6] = "mended"
    after(roster)
    (question,) = grid.questions()
    grid.answer(question, about(6))
    assert [member.node for member in after(roster)] == [5, 6]
    assert not roster.refused


def test_a_site_that_was_asked_for_an_answer_is_told_of_with_it(grid: Nodes) -> None:
    roster = met(grid, 5, 6)
    roster.ask(6)
    (question,) = grid.questions()
    grid.expire(question)
    assert roster.refresh() == set(), "only it itself can say that it is free"
    roster.ask(6)
    grid.answer(grid.questions()[-1], about(6))
    assert roster.refresh() == {6}
    assert len(roster.members) == 2


def test_who_a_node_is_takes_no_longer_to_say_where_there_are_many(grid: Nodes) -> None:
    nodes = range(5, 1505)
    roster = met(grid, *nodes)
    began = time.monotonic()
    assert [roster.sender(node).name for node in nodes] * 40 == [
        roster.sender(node).name for _ in range(40) for node in nodes
    ]
    assert time.monotonic() - began < 0.8


@pytest.fixture
def grid() -> Iterator[Nodes]:
    with identity(7):
        yield Nodes()


def about(node: int, **change: str) -> RecordDict:
    return RecordDict({"site": ConfigRecord({**GOOD, "name": f"site-{node}", **change})})  # type: ignore[dict-item]


def met(grid: Nodes, *nodes: int) -> Roster:
    """A roster to which these nodes have said who they are."""
    roster = Roster(grid, Collector(timeout_s=5.0), ("a", "b"))
    grid.there = dict.fromkeys(nodes, "first")
    roster.refresh()
    for question in grid.questions():
        grid.answer(question, about(question.metadata.dst_node_id))
    assert roster.refresh() == set(nodes)
    return roster


def after(roster: Roster) -> list[Member]:
    roster.refresh()
    return roster.members


def test_a_name_belongs_to_the_key_that_it_was_registered_for(tmp_path: Path) -> None:
    app = ClientApp()

    @app.query()
    def query(message: Message, context: Context) -> Message:
        return Message(RecordDict({"site": ConfigRecord(GOOD)}), reply_to=message)  # type: ignore[arg-type]

    def admitted(registered: Registered) -> tuple[list[int], str]:
        roster = Roster(grid, Collector(), ("a", "b"), registered=registered)
        roster.call()
        return [member.node for member in roster.members], " ".join(roster.refused.values())

    def unreadable() -> dict[str, int]:
        raise ValueError("no JSON")

    def missing() -> dict[str, int]:
        return nodes(tmp_path / "sites.json")

    with ProcessGrid(app, nodes=2, workers=0) as grid:
        first, second = sorted(grid.get_node_ids())
        assert admitted(None)[0] == [first], "without a list the first one has it"
        members, said = admitted(lambda: {"mercy": second})
        assert members == [second]
        assert said == "it calls itself 'mercy', which is registered for another key"
        members, said = admitted(lambda: {"mercy": second, "clinic": first})
        assert members == [second]
        assert "its key is registered for 'clinic'" in said
        members, said = admitted(unreadable)
        assert not members
        assert "list of sites cannot be read (no JSON)" in said
        members, said = admitted(missing)
        assert not members
        assert "sites.json'): restore it" in said
        for listed in ({}, {"clinic": 1}):
            members, said = admitted(lambda listed=listed: listed)
            assert not members, "a name that is free is not for anyone to take"
            assert "the operator admits it with `fl-distill federation register`" in said


def test_the_list_is_read_as_it_is_now(tmp_path: Path) -> None:
    """A site that was removed and registered with a new key is known by it at once."""
    with pytest.raises(FileNotFoundError):
        nodes(tmp_path / "sites.json")
    for node in (5, 7):
        (tmp_path / "sites.json").write_text(json.dumps({"mercy": {"node_id": str(node), "key": "SHA256:x"}}))
        assert nodes(tmp_path / "sites.json") == {"mercy": node}
    (tmp_path / "sites.json").write_text('{"mercy": {}}')
    with pytest.raises(ValueError, match="without node_id"):
        nodes(tmp_path / "sites.json")


@pytest.mark.parametrize("bad", [[1, 2], -5, float("nan"), float("inf"), 0])
def test_scores_that_cannot_be_count_for_nothing(bad: Any) -> None:
    row = open_row(1)
    for name in ("good", "bad"):
        site_entry(row, name, "mlp", 5)
    good = {"score-validation-accuracy": 0.5, "score-validation-examples": 4, "score-local-accuracy": 0.25}
    add_scores(row, {"good": good, "bad": {**good, "score-validation-examples": bad}}, None)
    assert row["validation_accuracy"] == 0.5
    add_scores(
        row, {"good": good, "bad": {**good, "score-local-accuracy": 57.0, "score-validation-accuracy": 57}}, None
    )
    assert (row["validation_accuracy"], row["local_accuracy"]) == (0.5, 0.25)
