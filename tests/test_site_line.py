"""A site's line to a SuperLink that fails in every way: what is waited for, what is told, and how often."""

import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from flwr.proto.fleet_pb2 import ActivateNodeResponse, PullMessagesResponse
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatResponse

from fl_distill.deploy import certificates, keys
from fl_distill.runtime import flower_line
from fl_distill.runtime.faults import Gone, NotAdmitted, Unsigned, Untrusted
from fl_distill.runtime.flower_line import connected
from fl_distill.runtime.patience import Reasons

from .deployed import free_port

NODE = 77
CUT, SILENT = "cut", "silent"
NOT_ADMITTED = (412, b'{"code": 2004, "detail": "Failed to activate SuperNode."}')


class SuperLink(ThreadingHTTPServer):
    """Does what a script says, one connection after the other, and then what a SuperLink does.

    A line of the script is CUT at the handshake, SILENT where an answer is lost, or a status and a body.
    """

    def __init__(self, signed: certificates.Signed, folder: Path, *script: Any, port: int = 0) -> None:
        (folder / "server.pem").write_bytes(signed.pem + signed.key_pem)
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.context.load_cert_chain(folder / "server.pem")
        self.script, self.calls = [*script], list[str]()
        super().__init__(("127.0.0.1", port), _Answers)
        self.address = f"localhost:{self.server_port}"

    def finish_request(self, request: Any, client_address: Any) -> None:
        if self.script[:1] == [CUT]:
            self.script.pop(0)
            return
        with suppress(ssl.SSLError, OSError), self.context.wrap_socket(request, server_side=True) as secure:
            super().finish_request(secure, client_address)

    def handle_error(self, request: Any, client_address: Any) -> None:
        pass


class _Answers(BaseHTTPRequestHandler):
    server: SuperLink

    def do_POST(self) -> None:
        call = self.path.rpartition("/")[2]
        self.server.calls.append(call)
        self.rfile.read(int(self.headers["Content-Length"]))
        beside = call in ("send-node-heartbeat", "deactivate-node")
        said = self.server.script.pop(0) if self.server.script and not beside else None
        if said == SILENT:
            return
        status, body = said or (200, self._well(call))
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _well(self, call: str) -> bytes:
        answers: dict[str, Any] = {
            "activate-node": ActivateNodeResponse(node_id=NODE),
            "pull-messages": PullMessagesResponse(),
            "send-node-heartbeat": SendNodeHeartbeatResponse(success=True),
        }
        return bytes(answers[call].SerializeToString()) if call in answers else b""

    def log_message(self, *_: Any) -> None:
        pass


class Place:
    """A federation's CA, a site's key, and what a site has said."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.ca = folder, certificates.authority("test")
        (folder / "ca.pem").write_bytes(self.ca.pem)
        (folder / "key").write_bytes(keys.new_pair()[0])
        self.said = list[str]()
        self.running = list[SuperLink]()

    def superlink(self, *script: Any, port: int = 0, signed: certificates.Signed | None = None) -> SuperLink:
        found = SuperLink(signed or certificates.server(self.ca, ["localhost"]), self.folder, *script, port=port)
        threading.Thread(target=found.serve_forever, args=(0.02,), daemon=True).start()
        self.running.append(found)
        return found

    def line(self, address: str) -> Any:
        return connected(address, self.folder / "ca.pem", self.folder / "key", Reasons(self.said.append))


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setattr(flower_line, "growing", lambda *_: iter(lambda: 0.02, None))
    found = Place(tmp_path)
    yield found
    for link in found.running:
        link.shutdown()
        link.server_close()


def test_a_line_is_opened_over_all_that_passes_and_each_kind_is_said_once(place: Place) -> None:
    link = place.superlink(CUT, CUT, (502, b""), CUT, (503, b""), (504, b""), (502, b""))
    with place.line(link.address) as line:
        assert line.node == NODE
    kinds = [said.partition(")")[0].partition("(")[2] for said in place.said]
    assert len(kinds) == 5, place.said
    assert {kind[:3] for kind in kinds[1:4]} == {"502", "503", "504"}
    assert place.said[-1] == "that has passed: going on"
    assert link.calls[-1] == "deactivate-node"


def test_a_superlink_that_is_not_there_yet_is_waited_for(place: Place) -> None:
    port = free_port()
    starting = threading.Timer(0.3, lambda: place.superlink(port=port))
    starting.start()
    with place.line(f"localhost:{port}"):
        starting.join()
    assert len(place.said) == 2
    assert "Connection refused" in place.said[0]


def test_an_open_line_outlives_a_restart(place: Place) -> None:
    link = place.superlink()
    with place.line(link.address) as line:
        link.script += [CUT, (502, b""), CUT, SILENT]
        assert line.next() is None
        assert link.script == []
    assert link.calls.count("activate-node") == 1


@pytest.mark.parametrize(
    ("answer", "fault"), [(NOT_ADMITTED, NotAdmitted), ((401, b"{}"), Unsigned), ((403, b"{}"), Gone)]
)
def test_a_refusal_is_told_at_once(answer: Any, fault: type[BaseException], place: Place) -> None:
    link = place.superlink(answer)
    with pytest.raises(fault), place.line(link.address):
        pass
    assert link.calls == ["activate-node"]
    assert place.said == []


def test_a_node_that_may_be_online_itself_is_told_from_one_that_is_not_known(place: Place) -> None:
    for script, itself in (((NOT_ADMITTED,), False), ((SILENT, NOT_ADMITTED), True), ((CUT, NOT_ADMITTED), False)):
        with pytest.raises(NotAdmitted) as refused, place.line(place.superlink(*script).address):
            pass
        assert refused.value.perhaps_online is itself, script


def test_a_removed_site_hears_of_it_when_it_asks(place: Place) -> None:
    link = place.superlink()
    with place.line(link.address) as line:
        link.script.append((401, b"{}"))
        with pytest.raises(Unsigned):
            line.next()


@pytest.mark.parametrize("case", ["authority", "expired", "name"])
def test_a_certificate_that_does_not_count_is_told_at_once(
    case: str, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(certificates, "ALWAYS", ())
    past = datetime.now(UTC) - timedelta(days=3)
    signed = {
        "authority": lambda: certificates.server(certificates.authority("other"), ["localhost"]),
        "expired": lambda: certificates.server(place.ca, ["localhost"], 1, past),
        "name": lambda: certificates.server(place.ca, ["other.example"]),
    }[case]()
    with pytest.raises(Untrusted), place.line(place.superlink(signed=signed).address):
        pass


def test_nobody_waits_any_more_when_the_line_is_closed(place: Place) -> None:
    """A thread that still asks would hold up the end of the process."""
    link = place.superlink()
    with place.line(link.address) as line:
        link.script += [(502, b"")] * 10_000
        asking = threading.Thread(target=lambda: suppress_all(line.next))
        asking.start()
        time.sleep(0.1)
        assert asking.is_alive()
    asking.join(5)
    assert not asking.is_alive()


def suppress_all(call: Any) -> None:
    with suppress(Exception):
        call()
