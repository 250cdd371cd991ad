"""What `runtime.flower_private` relies on. A failure here names what Flower has moved."""

import ast
import dataclasses
import inspect
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from flwr.app import ConfigRecord, Error, Message, Metadata, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.constant import SUPERLINK_NODE_ID, ErrorCode
from flwr.common.serde import message_to_proto
from flwr.proto.message_pb2 import PullObjectResponse
from flwr.proto.node_pb2 import NodeInfo
from flwr.proto.runtime_pb2 import GetNodesResponse, PullAppMessagesResponse
from flwr.serverapp import Grid
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.inflatable.inflatable_utils import ObjectUnavailableError
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import HttpGrid

import fl_distill.runtime.flower_private as private
from fl_distill.runtime.flower_line import Line

MOVED = "Flower changed: see fl_distill/runtime/flower_private.py. "
FIELDS = [
    "run_id",
    "message_id",
    "src_node_id",
    "dst_node_id",
    "reply_to_message_id",
    "group_id",
    "created_at",
    "ttl",
    "message_type",
    "src_task_id",
    "dst_task_id",
]


def identity_now() -> list[int | None]:
    return [getattr(TaskIdentity, name) for name in ("_task_id", "_run_id", "_node_id")]


@pytest.fixture(autouse=True)
def no_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, None)


def test_messages_need_an_identity_and_a_claim_gives_it() -> None:
    with pytest.raises(RuntimeError, match="not set"):
        Message(RecordDict(), 1001, "train")
    with private.identity(7):
        message = Message(RecordDict(), 1001, "train")
    assert message.metadata.run_id == 7, MOVED + "Message no longer takes its run from TaskIdentity."
    assert message.metadata.src_node_id == SUPERLINK_NODE_ID == 1, MOVED + "SUPERLINK_NODE_ID"
    assert message.metadata.message_id == "", MOVED + "Message now has an id of its own."
    assert identity_now() == [None, None, None]


def test_claims_nest_and_end_in_any_order() -> None:
    first, second = private.identity(1), private.identity(2)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    Message(RecordDict(), 1001, "train")
    second.__exit__(None, None, None)
    assert identity_now() == [None, None, None]


def test_an_identity_of_flowers_own_runtime_stays() -> None:
    TaskIdentity.task_id, TaskIdentity.run_id, TaskIdentity.node_id = 5, 6, 7
    with private.identity(1):
        assert identity_now() == [5, 6, 7]
    assert identity_now() == [5, 6, 7]


def test_claim_ends_after_an_exception() -> None:
    with pytest.raises(KeyError), private.identity(1):
        raise KeyError
    assert identity_now() == [None, None, None]


def test_stamp_sets_the_message_id() -> None:
    with private.identity(1):
        message = Message(RecordDict(), 1001, "train")
    private.stamp(message, "abc")
    assert message.metadata.message_id == "abc", MOVED + "Metadata keeps its message_id elsewhere."
    reply = Message(RecordDict(), reply_to=message)
    assert reply.metadata.reply_to_message_id == "abc"
    assert (reply.metadata.src_node_id, reply.metadata.dst_node_id) == (1001, SUPERLINK_NODE_ID)


def test_metadata_takes_the_fields_in_this_order() -> None:
    parameters = list(inspect.signature(Metadata).parameters)
    assert parameters == FIELDS, MOVED + f"Metadata's arguments are {parameters}."
    metadata = Metadata(1, "a", 2, 3, "b", "g", 4.5, 6.0, "train.distill", 8, None)
    assert [getattr(metadata, name) for name in FIELDS] == [
        1, "a", 2, 3, "b", "g", 4.5, 6.0, "train.distill", 8, None,
    ]  # fmt: skip


def test_compose_keeps_metadata_and_body() -> None:
    metadata = Metadata(1, "a", 2, 3, "b", "g", 4.5, 6.0, "query", 8, 9)
    content = RecordDict({"c": ConfigRecord({"k": 1})})
    message = private.compose(metadata, content)
    assert message.content is content, MOVED + "make_message"
    assert message.metadata is metadata, MOVED + "make_message"
    failed = private.compose(metadata, Error(3, "why"))
    assert failed.has_error(), MOVED + "make_message"
    assert (failed.error.code, failed.error.reason) == (3, "why")


def test_copied_metadata_is_equal_and_its_own() -> None:
    metadata = Metadata(1, "a", 2, 3, "b", "g", 4.5, 6.0, "query", 8, 9)
    copy = private.copied(metadata)
    assert vars(copy) == vars(metadata), MOVED + "Metadata has other attributes."
    copy.ttl = 1.0
    assert metadata.ttl == 6.0


def test_error_codes() -> None:
    assert [private.RAISED, private.APP_CRASHED, private.NO_REPLY, private.UNAVAILABLE] == [
        ErrorCode.CLIENT_APP_RAISED_EXCEPTION,
        ErrorCode.CLIENT_APP_CRASHED,
        ErrorCode.REPLY_MESSAGE_UNAVAILABLE,
        ErrorCode.NODE_UNAVAILABLE,
    ]
    assert private.SUPERLINK == SUPERLINK_NODE_ID
    assert len({private.RAISED, private.APP_CRASHED, private.NO_REPLY, private.UNAVAILABLE}) == 4


def test_empty_run() -> None:
    run = private.empty_run(9)
    assert isinstance(run, Run)
    assert run.run_id == 9
    assert dataclasses.is_dataclass(run)


def test_node_config_is_that_of_flowers_simulation() -> None:
    assert private.node_config(2, 10) == {"partition-id": 2, "num-partitions": 10}, MOVED + "node_config keys"


def test_grid_asks_for_what_process_grid_has() -> None:
    asked = {"set_run", "run", "create_message", "get_node_ids"}
    asked |= {"push_messages", "pull_messages", "send_and_receive"}
    assert Grid.__abstractmethods__ == asked, MOVED + f"Grid now asks for {sorted(Grid.__abstractmethods__)}."


def test_who_pulls_waits_for_objects_that_are_on_their_way() -> None:
    left = ["late", "later"]

    def pull(object_id: str) -> bytes:
        if left:
            left.pop()
            raise ObjectUnavailableError(object_id)
        return b"x"

    assert private.objects(["a"], pull) == {"a": b"x"}, MOVED + "pull_objects"
    left.append("again")
    with pytest.raises(private.Late):
        private.objects(["a"], pull, patient=False)


def test_a_site_sends_first_what_says_most() -> None:
    pushed: list[str] = []
    with private.identity(7):
        asked = Message(RecordDict(), 1001, "train")
    private.stamp(asked, "abc")
    record = ConfigRecord({"k": b"v"})
    reply = Message(RecordDict({"c": record}), reply_to=asked)
    none: Any = None
    line = Line(
        *(5, none, lambda reply, tree, seconds: (set(ids(tree)), "session"), none, none),
        lambda run, session, object_id, data: pushed.append(object_id),
        none,
    )
    line.send(reply, 0.5)
    assert pushed == [record.object_id, reply.content.object_id, reply.metadata.message_id], MOVED + "push_objects"


def ids(tree: Any) -> list[str]:
    return [tree.object_id, *(found for child in tree.children for found in ids(child))]


class Client:
    """Stands for Flower's client of the Runtime API: one reply of three objects."""

    def __init__(self, reply: Message) -> None:
        self.reply, self.pulled, self.confirmed = reply, 0, ""
        self.objects = {key: found.deflate() for key, found in get_all_nested_objects(reply).items()}

    def PullMessages(self, request: Any) -> PullAppMessagesResponse:  # noqa: N802
        head = message_to_proto(remove_content_from_message(self.reply))
        return PullAppMessagesResponse(messages_list=[head], message_object_trees=[get_object_tree(self.reply)])

    def PullObject(self, request: Any) -> PullObjectResponse:  # noqa: N802
        self.pulled += 1
        data = self.objects.get(request.object_id)
        return PullObjectResponse(
            object_found=data is not None, object_available=bool(data), object_content=data or b""
        )

    def GetNodes(self, request: Any) -> GetNodesResponse:  # noqa: N802
        return GetNodesResponse(nodes=[NodeInfo(node_id=1001, last_activated_at="12:30")])

    def ConfirmMessageReceived(self, request: Any) -> None:  # noqa: N802
        self.confirmed = request.message_object_id


def test_replies_are_fetched_over_the_connection_of_flowers_own_grid() -> None:
    with private.identity(7):
        asked = Message(RecordDict(), 1001, "train")
    private.stamp(asked, "abc")
    reply = Message(RecordDict({"only": ConfigRecord({"only": b"v"})}), reply_to=asked)
    private.stamp(reply, reply.object_id)
    grid, client = HttpGrid(insecure=True, token="none"), Client(reply)
    grid._client = client  # type: ignore[assignment]
    desk = private.Desk.of(grid)
    assert desk is not None
    ((head, tree),) = desk.heads(["abc"])
    pull = partial(desk.pull, 7)
    found, unasked = private.fetch(head, tree, pull, "only")
    assert (found.content, found.metadata.src_node_id) == (reply.content, 1001), MOVED + "HttpGrid"
    assert (client.pulled, len(unasked)) == (1, 2)
    desk.confirm(found.metadata)
    assert client.confirmed == reply.metadata.message_id
    whole, unasked = private.fetch(head, tree, pull, "other")
    assert (whole.content, unasked) == (reply.content, [])
    client.objects = dict.fromkeys(client.objects, b"")
    with pytest.raises(private.Late):
        private.fetch(head, tree, pull, "only", patient=False)
    client.objects.clear()
    with pytest.raises(private.Lost) as never:
        private.fetch(head, tree, pull, "only")
    assert not isinstance(never.value, private.Late), MOVED + "PullObject no longer says what will never come."
    assert desk.connections() == {1001: "12:30"}, MOVED + "HttpGrid.get_nodes"
    assert private.Desk.of(None) is None  # type: ignore[arg-type]


def test_no_other_file_of_the_runtime_imports_private_names() -> None:
    public = {"flwr.app", "flwr.clientapp", "flwr.serverapp", "flwr.serverapp.strategy", "flwr.simulation"}
    for path in sorted(Path(private.__file__).parent.glob("*.py")):
        tree = ast.parse(path.read_text())
        modules = {node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and not node.level}
        modules |= {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
        strange = {name for name in modules if name.split(".")[0] == "flwr"} - public
        assert not strange or path.name in ("flower_private.py", "flower_line.py"), (
            f"{path.name} imports {sorted(strange)}"
        )
