"""A real SuperLink behind a real nginx, and real SuperNodes: who gets in, and what the rest of the world reaches."""

import os
import signal
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from fl_distill.deploy import certificates, federation, site, sites
from fl_distill.deploy.proxy import CALLS
from fl_distill.errors import ConfigError, FlDistillError
from fl_distill.programs import environment, program

from .conftest import ROOT
from .deployed import NGINX, free_port, listens, ours, started, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
PATIENCE_S = 150.0
needs_nginx = pytest.mark.skipif(NGINX is None, reason="nginx is not installed (Debian: nginx-light)")


@dataclass(frozen=True)
class Running:
    """A federation whose SuperLink answers, behind nginx where there is one."""

    folder: Path
    port: int
    superlink_port: int

    @property
    def address(self) -> str:
        """Where sites go."""
        return f"127.0.0.1:{self.port if NGINX else self.superlink_port}"

    def post(self, path: str, port: int, verb: str = "POST") -> str:
        """The status of a request with no content, its path sent exactly as it is, and who gave it: `404 nginx`."""
        context = ssl.create_default_context(cafile=self.folder / "ca.pem")
        plain = socket.create_connection(("127.0.0.1", port), 30)
        with plain, context.wrap_socket(plain, server_hostname="127.0.0.1") as secure:
            head = f"{verb} {path} HTTP/1.1\r\nHost: a\r\nContent-Type: application/protobuf\r\nContent-Length: 0"
            secure.sendall(f"{head}\r\nAccept: application/protobuf\r\nConnection: close\r\n\r\n".encode())
            answer = b"".join(iter(lambda: secure.recv(4096), b""))
            return answer.split()[1].decode() + " nginx" * (b"<center>nginx</center>" in answer)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """What `federation new` wrote, started as it says."""
    folder = tmp_path_factory.mktemp("deploy")
    port, inner = free_port(), free_port()
    federation.new(folder / "fed", ["fl.example.org"], port=port, superlink_port=inner)
    found = Running(folder / "fed", port, inner)
    with ExitStack() as stack:
        link = stack.enter_context(started(folder / "link.log", ours("federation", "start", str(found.folder))))
        until(lambda: listens(inner), "the SuperLink", PATIENCE_S, link, folder / "link.log")
        if NGINX:
            command = [NGINX, "-e", "stderr", "-p", str(found.folder), "-c", "nginx.conf", "-g", "daemon off;"]
            door = stack.enter_context(started(folder / "nginx.log", command))
            until(lambda: listens(port), "nginx", PATIENCE_S, door, folder / "nginx.log")
        yield found


def site_at(running: Running, folder: Path, name: str) -> Path:
    site.new(folder / name, name, running.address, running.folder / "ca.pem")
    return with_data(folder / name)


def with_data(folder: Path) -> Path:
    """The site as its owner leaves it: with a file of data."""
    settings, data = folder / "site.yaml", folder / "data.csv"
    data.write_text("a,y\n1,0\n", encoding="utf-8")
    text = settings.read_text(encoding="utf-8")
    assert "/path/to/data.csv" in text
    settings.write_text(text.replace("/path/to/data.csv", str(data)), encoding="utf-8")
    return folder


def refused(folder: Path) -> str:
    """What `site start` says when it is not let in."""
    done = subprocess.run(
        ours("site", "start", str(folder)),
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 1, done.stdout + done.stderr
    return done.stderr


def test_a_site_comes_in_when_registered_and_only_then(running: Running, tmp_path: Path) -> None:
    mercy, fed = site_at(running, tmp_path, "mercy"), running.folder
    assert "does not admit mercy" in refused(mercy)
    sites.register(fed, mercy / "key.pub", "mercy")
    assert sites.listed(fed)[0].split()[:2] == ["mercy", "registered"]
    with pytest.raises(ConfigError, match="is the key of mercy already"):
        sites.register(fed, mercy / "key.pub", "twin")
    log = tmp_path / "mercy.log"
    with started(log, ours("site", "start", str(mercy))) as node:
        until(lambda: sites.listed(fed)[0].split()[1] == "online", "the site", PATIENCE_S, node, log)
        assert "is online already" in refused(mercy), "two SuperNodes joined with one key"
        sites.remove(fed, "mercy")
        assert "has no sites yet" in sites.listed(fed)[0]
        removed = "it was removed by the operator, or this machine's clock is wrong; trying again for 120 s"
        until(lambda: removed in log.read_text(encoding="utf-8"), "a word on its removal", PATIENCE_S, node, log)
        node.send_signal(signal.SIGINT)  # that it ends by itself, test_site_joining shows without the wait
        assert node.wait(PATIENCE_S) == 0
    assert log.read_text(encoding="utf-8").count(removed) == 1
    assert not left_of(mercy), "something of the site's SuperNode still runs"
    with pytest.raises(FlDistillError, match="known to the SuperLink, of a site that was removed"):
        sites.register(fed, mercy / "key.pub", "mercy")


def left_of(folder: Path) -> list[str]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("FLWR_HOME") == str(folder / "flwr") and process.status() != "zombie":
                found.append(" ".join(process.cmdline()))
    return found


def test_a_site_with_another_authority_does_not_start(running: Running, tmp_path: Path) -> None:
    (tmp_path / "other.pem").write_bytes(certificates.authority("other").pem)
    site.new(tmp_path / "site", "clinic", running.address, tmp_path / "other.pem")
    with pytest.raises(ConfigError, match="dataset.path: there is no /path/to/data.csv"):
        site.start(tmp_path / "site")
    with_data(tmp_path / "site")
    with pytest.raises(ConfigError, match="did not sign .* ask the operator for ca.pem"):
        site.start(tmp_path / "site")


def test_nobody_registers_a_key_but_the_operator(running: Running, tmp_path: Path) -> None:
    """A SuperNode without a key of its own makes one and registers it, where a SuperLink allows that."""
    ca, port = str(running.folder / "ca.pem"), str(free_port())
    command = [program("flower-supernode"), "--root-certificates", ca, "--port", port]
    log = tmp_path / "node.log"
    with started(log, [*command, "--superlink", f"127.0.0.1:{running.superlink_port}"], environment(tmp_path)) as node:
        assert node.wait(PATIENCE_S) != 0
    assert "All SuperNodes must be registered via the CLI" in log.read_text(encoding="utf-8")


def test_secrets_of_a_running_federation_stay_the_operators(running: Running) -> None:
    for name in ("superlink.db", "superlink.log"):
        assert (running.folder / name).stat().st_mode & 0o077 == 0, name


CONTROL = ("list-runs", "start-run", "stop-run", "stream-logs", "list-nodes", "register-node", "pull-artifacts")
HIDDEN = [f"/v1/control/{call}" for call in CONTROL] + ["/v1/runtime/get-nodes", "/docs", "/openapi.json", "/"]
DETOURS = [
    "/v1/fleet/../control/list-runs",
    "/v1/fleet/%2e%2e/control/list-runs",
    "/v1/fleet/..%2fcontrol/list-runs",
    "//v1/control/list-runs",
    "/v1/fleet/get-run/../../control/list-runs",
    "/v1/control/list-runs/../../fleet/get-run",
    "/v1/control/list-runs%3f/../../fleet/get-run",
    "/V1/CONTROL/LIST-RUNS",
    "/v1/fleet/get-run%0d%0a",
]


@needs_nginx
def test_sites_reach_the_fleet_alone(running: Running) -> None:
    inside = {call: running.post(f"/v1/control/{call}", running.superlink_port) for call in CONTROL}
    assert inside["list-runs"] == inside["list-nodes"] == "200", "whoever reaches the SuperLink itself controls it"
    assert {path: running.post(path, running.port) for path in HIDDEN} == dict.fromkeys(HIDDEN, "404 nginx")
    through = {call: running.post(f"/v1/fleet/{call}", running.port) for call in CALLS}
    assert set(through.values()) == {"401"}, "without a signature the SuperLink itself says no"
    assert running.post("/v1/fleet/register-node", running.port) == "404 nginx"
    assert running.post("/v1/fleet/get-run", running.port, "GET") == "403 nginx"


@needs_nginx
@pytest.mark.parametrize("path", DETOURS)
def test_no_detour_leads_to_the_control_api(path: str, running: Running) -> None:
    assert running.post(path, running.port) in ("400 nginx", "401", "404 nginx")  # 401: as /v1/fleet/get-run, unsigned


@needs_nginx
def test_flowers_own_command_gets_nothing_through_the_proxy(running: Running, tmp_path: Path) -> None:
    text = (running.folder / "flwr" / "config.toml").read_text(encoding="utf-8")
    config = text.replace(str(running.superlink_port), str(running.port))
    (tmp_path / "config.toml").write_text(config, encoding="utf-8")

    def answer(home: Path, *words: str) -> str:
        command = [program("flwr"), *words, "federation", "--format", "json"]
        variables = environment(home)
        done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
        return done.stdout

    assert '"success": true' in answer(running.folder / "flwr", "list")
    for words in (["list"], ["stop", "1"]):
        said = answer(tmp_path, *words)
        assert '"success": false' in said
        assert "404 Not Found" in said


@needs_nginx
def test_plain_http_is_turned_away(running: Running) -> None:
    with socket.create_connection(("127.0.0.1", running.port), 30) as plain:
        plain.sendall(b"POST /v1/fleet/get-run HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n")
        assert plain.recv(4096).split()[1] == b"400"


OWN_DATA = """\
name: {name}
model: mlp
federation: {{address: "{address}", ca: ca.pem, key: key}}
dataset: {{path: data.csv, target: y, numeric: [a, b], labels: {{0: "no", 1: "yes"}}}}
public_dataset: data.csv
test_dataset: data.csv
policy: {{may_leave: [logits]}}
"""


def test_a_site_cannot_take_anothers_name(running: Running, tmp_path: Path) -> None:
    """South, which was admitted, calls itself north, which is not there at the moment."""
    table = "a,b,y\n" + "".join(f"{at / 99},{at % 7},{at % 2}\n" for at in range(100))
    for name in ("north", "south"):
        site.new(tmp_path / name, name, running.address, running.folder / "ca.pem")
        sites.register(running.folder, tmp_path / name / "key.pub", name)
        (tmp_path / name / "data.csv").write_text(table, encoding="utf-8")
    (tmp_path / "south" / "site.yaml").write_text(OWN_DATA.format(name="north", address=running.address))
    data = f"{tmp_path}/north/data.csv"
    words = ["runtime=superlink", f"runtime.connection={running.folder}", "dataset=csv", f"dataset.path={data}"]
    words += [
        "dataset.target=y",
        "dataset.standardise=none",
        "dataset.numeric=[a,b]",
        "dataset.labels={0:no,1:yes}",
        "model=mlp",
        "sites=1",
    ]
    words += [f"public_dataset={data}", f"test_dataset={data}", "strategy=fedmd", "strategy.warmup=0", "rounds=1"]
    run, log = tmp_path / "run", tmp_path / "south.log"
    with started(log, ours("site", "start", tmp_path / "south")) as node:
        until(lambda: "online" in str(sites.listed(running.folder)), "the site", PATIENCE_S, node, log)
        with started(tmp_path / "run.log", ours(*words, f"hydra.run.dir={run}")) as command:
            assert command.wait(PATIENCE_S) == 1
        said = (tmp_path / "run.log").read_text(encoding="utf-8")
        assert "it calls itself 'north', its key is registered for 'south'" in said, said
        (tmp_path / "south" / "site.yaml").write_text(OWN_DATA.format(name="south", address=running.address))
        with started(tmp_path / "again.log", ours(*words, f"hydra.run.dir={run}-2")) as command:
            assert command.wait(PATIENCE_S) == 0, (tmp_path / "again.log").read_text() + log.read_text()
    for name in ("north", "south"):
        sites.remove(running.folder, name)
