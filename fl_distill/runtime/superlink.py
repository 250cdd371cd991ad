"""A run on real sites: submitted to a SuperLink, followed from here, kept in the same folder as a simulation's.

The ServerApp runs beside the SuperLink and writes the run folder itself, so this command belongs on the same machine.
"""

import json
import os
import tempfile
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import ConfigError, RunStopped
from ..files import replace_with
from ..jobs import ORDERS
from ..locks import is_locked
from ..policy import checked, shared
from ..programs import flwr
from ..registered import LIST
from ..tracking import Observers, Summary
from ..tracking.relay import EVENTS, replay

LOOK_S = 0.1
LAST_WORDS_S = 90.0
"""For how long a run that continues waits for its earlier part to end."""
ASK_S = 10.0
"""Seconds without news after which the SuperLink is asked whether the run is still alive."""

_APP = f'''\
[project]
name = "fl-distill-run"
version = "{__version__}"
description = "What is installed, and nothing else"
license = "Apache-2.0"

[tool.flwr.app]
publisher = "fl-distill"

[tool.flwr.app.components]
serverapp = "run:server"
clientapp = "run:client"

[tool.flwr.app.config]
overrides = ""
job = ""
folder = ""
'''
_CODE = '''\
"""The installed fl-distill, as the app of a run: no code of its own travels."""

from fl_distill.client_app import app as client
from fl_distill.runtime.superlink_app import app as server

__all__ = ["client", "server"]
'''


@dataclass(frozen=True)
class Connection:
    """A SuperLink's Control API, spoken to by Flower's own command."""

    name: str
    """Of a connection in Flower's `config.toml`; "" for its default."""
    home: Path | None
    """Where that file lies; None for the user's own."""

    @staticmethod
    def of(text: str | None) -> "Connection":
        """A federation's folder, or the name of a connection of the user's own; None for the default one."""
        home, own = (
            Path(text or "") / "flwr",
            Path(os.environ.get("FLWR_HOME") or Path.home() / ".flwr") / "config.toml",
        )
        known = own.read_text(encoding="utf-8") if own.is_file() else ""
        if text and not (home / "config.toml").is_file() and f"[superlink.{text}]" not in known:
            raise ConfigError(
                f"runtime.connection={text} is no folder that `fl-distill federation new` made, "
                f"nor the name of a connection in {own}"
            )
        return (
            Connection("", home.resolve())
            if text and (home / "config.toml").is_file()
            else Connection(text or "", None)
        )

    def submit(self, app: Path, values: dict[str, str]) -> int:
        """Start a run of the app in a folder; returns its id."""
        config = app / "values.toml"  # on the command line Flower takes no quotation marks
        lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in values.items()]
        config.write_text("\n".join(lines), encoding="utf-8")
        answer = self._call("run", str(app), "--run-config", str(config))
        return int(answer["run-id"])

    def status(self, run: int) -> str:
        """Such as `running`, or `finished:completed`."""
        return str(self._call("list", "--run-id", str(run))["runs"][0]["status"])

    def stop(self, run: int) -> None:
        """End a run."""
        self._call("stop", str(run))

    def _call(self, verb: str, *arguments: str) -> dict[str, Any]:
        where = [self.name] if self.name else []
        words = [*where, *arguments] if verb == "list" else [*arguments[:1], *where, *arguments[1:]]
        try:
            answer, said = flwr(self.home, verb, *words)
        except TimeoutError as error:
            raise RunStopped(str(error)) from error
        if not answer:
            raise RunStopped(f"flwr {verb}: {said[-400:]}")
        return answer


def run_on_superlink(
    config: dict[str, Any],
    folder: Path,
    overrides: Sequence[str],
    observers: Observers,
    check_stop: Callable[[], None],
    resume: bool,
) -> Summary:
    """Submit, follow and return the summary; raises `RunStopped` when the run ended early."""
    _wait_for_the_last(folder / EVENTS, check_stop)
    connection = Connection.of(config["runtime"]["connection"])
    names = _list_of_sites(connection, bool(config["runtime"].get("parts")))
    orders = _orders(config, folder, overrides, resume) | {"sites": names}
    folder = folder.resolve()
    (folder / EVENTS).unlink(missing_ok=True)
    replace_with(folder / ORDERS, json.dumps(orders, indent=1).encode())
    with tempfile.TemporaryDirectory() as place:
        (Path(place) / "pyproject.toml").write_text(_APP, encoding="utf-8")
        (Path(place) / "run.py").write_text(_CODE, encoding="utf-8")
        values = {"overrides": orders["overrides"], "job": orders["job"], "folder": str(folder)}
        run = connection.submit(Path(place), values)
    try:
        _follow(folder / EVENTS, observers, lambda: connection.status(run), check_stop)
    except (KeyboardInterrupt, RunStopped):
        with suppress(RunStopped):  # it may be over, or the SuperLink gone
            connection.stop(run)
        raise
    finally:
        observers.close()
    summary: Summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    if summary["status"] != "finished":
        raise RunStopped(summary["reason"])
    return summary


def _wait_for_the_last(events: Path, check_stop: Callable[[], None]) -> None:
    """A ServerApp that was told to stop still writes its last words."""
    deadline = time.monotonic() + LAST_WORDS_S
    while is_locked(events):
        check_stop()
        if time.monotonic() > deadline:
            raise RunStopped(f"the run in {events.parent} is still going on: wait for it, or end it with `flwr stop`")
        time.sleep(LOOK_S)


def _orders(config: dict[str, Any], folder: Path, overrides: Sequence[str], resume: bool) -> dict[str, Any]:
    """What the ServerApp needs; a run that continues asks the sites in the words of the first time."""
    if resume:
        try:
            before: dict[str, Any] = json.loads((folder / ORDERS).read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"resume={folder} was no run on a SuperLink: {ORDERS} is missing") from error
        return {**before, "config": config, "resume": True}
    words = checked([text for text in overrides if shared(text)])
    return {"config": config, "overrides": words, "job": uuid.uuid4().hex, "resume": False}


def _list_of_sites(connection: Connection, parts: bool) -> str | None:
    """The operator's list of names and keys, in a federation's folder; sites that play parts bear the parts' names."""
    return None if connection.home is None or parts else str(connection.home.parent / LIST)


def _follow(events: Path, observers: Observers, status: Callable[[], str], check_stop: Callable[[], None]) -> None:
    """Replay what the ServerApp writes, until it says that it has finished or is gone without a word."""
    read, asked, gone = 0, time.monotonic(), False
    while True:
        check_stop()
        if events.exists():
            gone = not is_locked(events)
        elif time.monotonic() - asked > ASK_S:
            asked, gone = time.monotonic(), status().startswith("finished")
        lines, read = _new_lines(events, read)
        if "finished" in [replay(line, observers) for line in lines]:
            return
        if gone and not lines:
            raise RunStopped(f"the ServerApp is gone; `flwr log` may say why. Continue with resume={events.parent}")
        time.sleep(LOOK_S)


def _new_lines(path: Path, read: int) -> tuple[list[str], int]:
    """The whole lines after byte `read`, and where they end."""
    try:
        with path.open("rb") as file:
            file.seek(read)
            data = file.read()
    except FileNotFoundError:
        return [], read
    whole = data[: data.rfind(b"\n") + 1]
    return whole.decode().splitlines(), read + len(whole)
