"""What one process tells, another hears; and it sees whether the first is still there."""

import json
from pathlib import Path
from typing import Any

from fl_distill.locks import is_locked, locked
from fl_distill.tracking import Observer, RunInfo, SiteInfo
from fl_distill.tracking.relay import EVENTS, Relay, replay


class Heard(Observer):
    def __init__(self) -> None:
        self.calls: list[Any] = []

    def started(self, run: RunInfo) -> None:
        self.calls.append(run)

    def site_replied(self, round: int, site: str, fault: str | None) -> None:
        self.calls.append((round, site, fault))

    def round_done(self, row: dict[str, Any]) -> None:
        self.calls.append(row)

    def finished(self, summary: dict[str, Any], status: Any) -> None:
        self.calls.append((summary, status))


def test_what_is_told_is_heard(tmp_path: Path) -> None:
    sites = {"a": SiteInfo("mlp", 7, (3, 4))}
    run = RunInfo(tmp_path, {"rounds": 2}, "x", sites, ("no", "yes"), 3, {"wandb": "id"})
    relay, heard = Relay(tmp_path), Heard()
    assert is_locked(tmp_path / EVENTS)
    relay.started(run)
    relay.site_replied(1, "a", None)
    relay.round_done({"round": 1, "sites": {}})
    relay.finished({"rounds": 1}, "stopped")
    relay.close()
    assert not is_locked(tmp_path / EVENTS)
    lines = (tmp_path / EVENTS).read_text(encoding="utf-8").splitlines()
    kinds = [replay(line, heard) for line in lines]
    assert kinds == ["started", "site_replied", "round_done", "finished"] == [next(iter(json.loads(x))) for x in lines]
    assert heard.calls == [run, (1, "a", None), {"round": 1, "sites": {}}, ({"rounds": 1}, "stopped")]


def test_a_new_writer_takes_the_place_of_the_old_file(tmp_path: Path) -> None:
    assert not is_locked(tmp_path / "x")
    (tmp_path / "x").write_text("of a process that died")
    assert not is_locked(tmp_path / "x")
    with locked(tmp_path / "x") as file:
        assert is_locked(tmp_path / "x")
        assert (tmp_path / "x").read_text() == ""
        file.write("new")
    assert (tmp_path / "x").read_text() == "new"
