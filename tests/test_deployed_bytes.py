"""Real processes over real sockets: the bytes that a run counts are those between SuperNodes and SuperLink."""

import asyncio
import json
import os
import shutil
import subprocess
import sys
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from functools import partial
from pathlib import Path

import psutil
import pytest

from .conftest import ROOT
from .deployed import free_port, listens, started, until
from .relay import Pass, Relay

SITES, ROUNDS = 2, 3
BIN = Path(sys.executable).parent
OVERRIDES = (
    f"strategy=fedavg rounds={ROUNDS} sites={SITES} model=mlp_wide local.epochs=1 codec.up=int8 codec.down=int8 "
    "collect.timeout_s=100 track.plots=false log=quiet"
)
# What surrounds a message: Flower names each object by a hash, once where it lies and once in the list of all, and
# asks for each by itself.
AROUND = 4_000


class Proxy(Relay):
    """Hands HTTP/1.1 on between its own port and another one, and counts the bytes of bodies by path and direction."""

    def __init__(self, target: int) -> None:
        super().__init__(target)
        self.up: Counter[str] = Counter()
        self.down: Counter[str] = Counter()

    def _ways(self) -> tuple[Pass, Pass]:
        paths: deque[str] = deque()  # of requests whose response is still to come
        asked, answered = Bodies(self.up, paths, requests=True), Bodies(self.down, paths, requests=False)
        return partial(_pass, asked), partial(_pass, answered)


async def _pass(bodies: "Bodies", source: asyncio.StreamReader, to: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while data := await source.read(1 << 16):
            bodies.feed(data)
            to.write(data)
            await to.drain()
        to.write_eof()


class Bodies:
    """One direction of a connection, cut into heads and bodies."""

    def __init__(self, counted: Counter[str], paths: deque[str], *, requests: bool) -> None:
        self._counted, self._paths, self._requests = counted, paths, requests
        self._buffer, self._left, self._chunked, self._path = b"", 0, False, ""

    def feed(self, data: bytes) -> None:
        self._buffer += data
        while self._buffer:
            if self._left:
                taken = min(self._left, len(self._buffer))
                self._counted[self._path] += taken
                self._buffer, self._left = self._buffer[taken:], self._left - taken
            elif self._chunked:
                if not self._chunk():
                    return
            elif not self._head():
                return

    def _head(self) -> bool:
        head, end, rest = self._buffer.partition(b"\r\n\r\n")
        if not end:
            return False
        first, *lines = head.decode("latin-1").split("\r\n")
        fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        if self._requests:
            _, target, version = first.split(" ")
            assert version == "HTTP/1.1", f"the proxy reads HTTP/1.1, this is {first!r}"
            self._path = target
            self._paths.append(target)
        else:
            self._path = self._paths.popleft()
        self._chunked = fields.get("transfer-encoding", "") == "chunked"
        self._left = int(fields.get("content-length", 0))
        self._buffer = rest
        return True

    def _chunk(self) -> bool:
        line, end, rest = self._buffer.lstrip(b"\r\n").partition(b"\r\n")
        if not end:
            return False
        self._left = int(line.partition(b";")[0], 16)
        self._chunked, self._buffer = self._left > 0, rest if self._left else rest.removeprefix(b"\r\n")
        return True


@pytest.fixture
def environment(tmp_path: Path) -> Iterator[dict[str, str]]:
    """Of a home that is this test's own; every process that lives in it is gone afterwards."""
    found = os.environ | {
        "HOME": str(tmp_path / "home"),
        "FLWR_HOME": str(tmp_path / "flwr"),
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_TELEMETRY_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
        "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
    }
    found.pop("PYTHONPATH", None)
    (tmp_path / "home").mkdir()
    (tmp_path / "flwr").mkdir()
    yield found
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            if process.environ().get("FLWR_HOME") == found["FLWR_HOME"]:
                process.kill()


def checkout(folder: Path) -> Path:
    app = folder / "fl-distill"
    for name in ("conf", "fl_distill", "strategies"):
        shutil.copytree(ROOT / name, app / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, app / name)
    return app


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_counted_bytes_are_those_on_the_wire(environment: dict[str, str], tmp_path: Path) -> None:
    """Between a SuperLink and two SuperNodes; the model's part of the traffic, without the app's own files."""
    app, port = checkout(tmp_path), free_port()
    connection = f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    (tmp_path / "flwr" / "config.toml").write_text(connection, encoding="utf-8")
    link = started(tmp_path / "link.log", [BIN / "flower-superlink", "--insecure", "--port", str(port)], environment)
    with link as server, Proxy(port) as proxy:
        until(lambda: listens(port), "the SuperLink", 60, server)
        nodes = [
            started(
                tmp_path / f"node-{index}.log",
                [
                    *(BIN / "flower-supernode", "--insecure", "--superlink", f"127.0.0.1:{proxy.port}"),
                    *("--port", str(free_port()), "--node-config", f"partition-id={index} num-partitions={SITES}"),
                ],
                environment,
            )
            for index in range(SITES)
        ]
        with nodes[0], nodes[1]:
            done = subprocess.run(
                [BIN / "flwr", "run", ".", "here", "--stream", "--run-config", f'overrides="{OVERRIDES}"'],
                cwd=app,
                env=environment,
                capture_output=True,
                text=True,
                timeout=200,
                check=False,
            )
        logs = "".join(log.read_text(encoding="utf-8", errors="replace")[-3000:] for log in tmp_path.glob("*.log"))
    folders = list((tmp_path / "home" / ".fl-distill" / "runs").glob("*"))
    assert len(folders) == 1, done.stdout + done.stderr + logs
    check(folders[0], proxy, done.stdout + done.stderr + logs)


NODE = """
import sys
from pathlib import Path
from fl_distill.client_app import app
from fl_distill.runtime.link import linked
from fl_distill.runtime.node import Node
from fl_distill.runtime.patience import Reasons
folder = Path(sys.argv[2])
with linked(sys.argv[1], None, None, Reasons(print)) as link:
    Node(app, folder / "site.yaml", folder, folder / "online").run(link)
"""


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_counted_bytes_are_those_of_envelopes(environment: dict[str, str], tmp_path: Path) -> None:
    """Between a SuperLink and this package's own sites, which send each message as one value."""
    port, run = free_port(), tmp_path / "run"
    connection = f'[superlink]\ndefault = "here"\n[superlink.here]\naddress = "127.0.0.1:{port}"\ninsecure = true\n'
    (tmp_path / "flwr" / "config.toml").write_text(connection, encoding="utf-8")
    environment["PYTHONPATH"] = str(ROOT)
    link = started(tmp_path / "link.log", [BIN / "flower-superlink", "--insecure", "--port", str(port)], environment)
    with link as server, Proxy(port) as proxy, ExitStack() as stack:
        until(lambda: listens(port), "the SuperLink", 60, server)
        for index in range(SITES):
            (tmp_path / str(index)).mkdir()
            text = f"name: site-{index}\npart: {index}\npolicy: {{may_leave: [weights]}}\n"
            (tmp_path / str(index) / "site.yaml").write_text(text, encoding="utf-8")
            command = [sys.executable, "-c", NODE, f"127.0.0.1:{proxy.port}", str(tmp_path / str(index))]
            stack.enter_context(started(tmp_path / f"node-{index}.log", command, environment))
        words = [*OVERRIDES.split(), "runtime=superlink", "runtime.parts=true", f"hydra.run.dir={run}"]
        done = subprocess.run(
            [sys.executable, "-m", "fl_distill.cli", *words],
            env=environment,
            capture_output=True,
            text=True,
            timeout=200,
            check=False,
        )
    logs = "".join(log.read_text(encoding="utf-8", errors="replace")[-3000:] for log in tmp_path.glob("*.log"))
    assert done.returncode == 0, done.stdout + done.stderr + logs
    check(run, proxy, logs)


def check(folder: Path, proxy: Proxy, logs: str) -> None:
    rows = [json.loads(line) for line in (folder / "rounds.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == ROUNDS, logs
    assert not any(row["failures"] for row in rows), rows
    messages = SITES * (ROUNDS + 2)  # one a round, one that asks who is there, one that scores the result
    for direction, seen in (("up", proxy.up), ("down", proxy.down)):
        counted = sum(row[f"bytes_{direction}"] for row in rows)
        verb = "push" if direction == "up" else "pull"
        passed = sum(seen[f"/v1/fleet/{verb}-{what}"] for what in ("messages", "object"))
        assert counted <= passed <= 1.05 * counted + AROUND * messages, dict(seen)
