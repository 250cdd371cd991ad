"""A site's line to a SuperLink: Flower's own client, signatures and heartbeat, with a patience of our own.

Flower's patience ends the process at a handshake that was cut off, and tells it of a refusal by interrupting it. Beside
`flower_private` this is the one file that imports what Flower does not export.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Event
from typing import Any, Protocol, TypeVar

import httpx
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.app import Message
from flwr.app.message import remove_content_from_message
from flwr.common.constant import HEARTBEAT_DEFAULT_INTERVAL
from flwr.common.serde import message_from_proto, message_to_proto, run_from_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
    RegisterNodeFleetRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.node_pb2 import Node
from flwr.proto.run_pb2 import GetRunRequest
from flwr.supercore.constant import FLWR_PRIVATE_MAX_CONCURRENT_OBJ_PUSHES as PUSHES
from flwr.supercore.heartbeat import HeartbeatSender
from flwr.supercore.inflatable.inflatable_object import get_all_nested_objects, get_object_tree
from flwr.supercore.inflatable.inflatable_protobuf_utils import (
    make_confirm_message_received_fn_protobuf,
    make_pull_object_fn_protobuf,
    make_push_object_fn_protobuf,
)
from flwr.supercore.inflatable.inflatable_utils import push_objects
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import generate_key_pairs, public_key_to_bytes
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from .faults import Away, NotAdmitted, fault
from .flower_private import ENVELOPE, Run, stamp
from .patience import Reasons, growing

AGAIN_S = 0.1
"""The first pause after a request that failed: most often the other side has closed an idle connection."""

Asked = TypeVar("Asked")
Answer = TypeVar("Answer")


class Ask(Protocol):
    """Makes a call, again and again where that may help."""

    def __call__(self, call: Callable[[Asked], Answer], request: Asked) -> Answer:
        """The answer, or what `fault` says of the failure."""


@dataclass(frozen=True)
class Line:
    """What a node asks of a SuperLink."""

    node: int
    next: Callable[[], tuple[Message, Any] | None]
    """The head of a message that nobody was handed yet, and the tree of its objects."""
    _send: Callable[[Message, Any, float], tuple[set[str], str]]
    _get_run: Callable[[int], Run]
    pull: Callable[[int, str], bytes]
    _push: Callable[[int, str, str, bytes], None]
    confirm: Callable[[int, str], None]
    """The SuperLink need not keep a message's objects any more, and takes no more of them."""

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
            # What says most comes first, and sites that finish together do not wait for each other's locks.
            max_concurrent_pushes=1 if len(wanted) <= ENVELOPE else PUSHES,
        )

    def run_config(self, run: int) -> dict[str, Any]:
        """What the run was submitted with."""
        return dict(self._get_run(run).override_config)


@contextmanager
def connected(address: str, ca: Path | None, key: Path | None, reasons: Reasons) -> Iterator[Line]:
    """A node's line: over TLS where there is a `ca`, with a new key where there is no private `key`.

    Waits for a SuperLink that is not there, now or later. Raises a `Refusal` where waiting alone does not help.
    """
    over = Event()
    ask = partial(_patiently, reasons, over)
    private = generate_key_pairs()[0] if key is None else _private(key)
    public = public_key_to_bytes(private.public_key())
    signing = NodeAuthHttpInterceptor(private, private.public_key())
    versions = RuntimeVersionHttpInterceptor(component_name="SuperNode")
    trusted = ca.read_bytes() if ca else None
    with FleetHttpClient.from_server_address(address, ca is None, trusted, [versions, signing]) as client:
        if key is None:
            ask(client.RegisterNode, RegisterNodeFleetRequest(public_key=public))
        node = _activated(client, public, ask)
        with _beating(client, node):
            try:
                yield _line(client, node, ask)
            finally:
                over.set()  # whoever still waits in a thread of its own holds up the end of this process


def _private(path: Path) -> EllipticCurvePrivateKey:
    found = load_ssh_private_key(path.read_bytes(), None)
    if not isinstance(found, EllipticCurvePrivateKey):
        raise TypeError(f"{path} is no key of an elliptic curve")
    return found


def _patiently(reasons: Reasons, over: Event, call: Callable[[Asked], Answer], request: Asked) -> Answer:
    pauses = growing(AGAIN_S)
    while True:
        try:
            answer = call(request)
        except httpx.HTTPError as error:
            found = fault(error)
            if not isinstance(found, Away):
                raise found from error
            reasons.arose(found.kind, f"{found}; trying again until that has passed")
            if over.wait(next(pauses)):
                raise found from error
        else:
            reasons.passed()
            return answer


def _activated(client: FleetHttpClient, public: bytes, ask: Ask) -> Node:
    """The node of this key, online; where an answer was lost on its way, it may be the one that is online already."""
    lost = False

    def activate(request: ActivateNodeRequest) -> int:
        nonlocal lost
        try:
            return client.ActivateNode(request).node_id
        except (httpx.ReadTimeout, httpx.ReadError, httpx.RemoteProtocolError):
            lost = True
            raise

    wanted = ActivateNodeRequest(public_key=public, heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL)
    try:
        return Node(node_id=ask(activate, wanted))
    except NotAdmitted as refusal:
        refusal.perhaps_online = lost
        raise


@contextmanager
def _beating(client: FleetHttpClient, node: Node) -> Iterator[None]:
    """Say that the node lives, and in the end that it goes."""

    def beat() -> bool:
        asked = SendNodeHeartbeatRequest(node=node, heartbeat_interval=HEARTBEAT_DEFAULT_INTERVAL)
        try:
            return bool(client.SendNodeHeartbeat(asked).success)
        except Exception:  # whoever asks for the next message hears why
            return False

    sender = HeartbeatSender(beat)
    sender.start()
    try:
        yield
    finally:
        sender.stop()
        with suppress(httpx.HTTPError, RuntimeError):
            client.DeactivateNode(DeactivateNodeRequest(node_id=node.node_id))


def _line(client: FleetHttpClient, node: Node, ask: Ask) -> Line:
    def following() -> tuple[Message, Any] | None:
        found = ask(client.PullMessages, PullMessagesRequest(node=node))
        heads = map(message_from_proto, found.messages_list)
        return next(zip(heads, found.message_object_trees, strict=True), None)

    def send(reply: Message, tree: Any, seconds: float) -> tuple[set[str], str]:
        head = remove_content_from_message(reply) if reply.has_content() else reply
        told = PushMessagesRequest(
            node=node,
            messages_list=[message_to_proto(head)],
            message_object_trees=[tree],
            clientapp_runtime_list=[seconds],
        )
        answer = ask(client.PushMessages, told)
        return set(answer.objects_to_push), answer.session_id

    def get_run(run: int) -> Run:
        return run_from_proto(ask(client.GetRun, GetRunRequest(node=node, run_id=run)).run)

    def pull(run: int, object_id: str) -> bytes:
        return make_pull_object_fn_protobuf(partial(ask, client.PullObject), node, run)(object_id)

    def push(run: int, session: str, object_id: str, data: bytes) -> None:
        make_push_object_fn_protobuf(partial(ask, client.PushObject), node, run, session)(object_id, data)

    def confirm(run: int, number: str) -> None:
        make_confirm_message_received_fn_protobuf(partial(ask, client.ConfirmMessageReceived), node, run)(number)

    return Line(node.node_id, following, send, get_run, pull, push, confirm)
