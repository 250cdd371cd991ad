"""The record of a run: rounds.jsonl and summary.json survive crashes, and observers cannot harm a run."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fl_distill.errors import ConfigError
from fl_distill.tracking import Observer, Observers, RoundLog, RunInfo, read, write_json_atomic, write_summary

BLANK: dict[str, Any] = {
    "warnings": [],
    "entropy": None,
    "agreement": None,
    "gain": None,
    "alone_accuracy": None,
    "knowledge_down": 3,
    "knowledge_up": 2,
}


def row(number: int, **changes: Any) -> dict[str, Any]:
    site = {"model": "mlp", "examples": 9, "loss": 0.5, "test_accuracy": 0.8, "local_accuracy": 0.9}
    return (
        BLANK
        | {
            "sites": {"site-10": site | {"bytes_up": 1, "bytes_down": 2}, "site-2": {"bytes_up": 3, **site}},
            "failures": {"site-1": "late"},
            "server_accuracy": None,
            "validation_accuracy": 0.7,
            "local_accuracy": 0.9,
            "test_accuracy": 0.8,
            "bytes_down": 4,
            "bytes_up": 5,
            "wall_s": 0.25,
            "round": number,
        }
        | changes
    )


def test_a_line_has_the_keys_of_the_contract_in_their_order(tmp_path: Path) -> None:
    RoundLog(tmp_path).append(row(1))
    (line,) = (tmp_path / "rounds.jsonl").read_text().splitlines()
    assert list(json.loads(line)) == [
        "round",
        "wall_s",
        "bytes_up",
        "bytes_down",
        "knowledge_up",
        "knowledge_down",
        "test_accuracy",
        "alone_accuracy",
        "gain",
        "local_accuracy",
        "server_accuracy",
        "agreement",
        "entropy",
        "warnings",
        "validation_accuracy",
        "failures",
        "sites",
    ]
    assert list(json.loads(line)["sites"]) == ["site-2", "site-10"]
    assert list(json.loads(line)["sites"]["site-2"])[:3] == ["model", "examples", "loss"]


def test_the_same_round_gives_the_same_bytes_whatever_the_order_it_was_built_in(tmp_path: Path) -> None:
    one = row(1)
    other = dict(reversed(one.items())) | {"sites": dict(reversed(one["sites"].items()))}
    for name, given_row in (("a", one), ("b", other)):
        (tmp_path / name).mkdir()
        RoundLog(tmp_path / name).append(given_row)
    assert (tmp_path / "a/rounds.jsonl").read_bytes() == (tmp_path / "b/rounds.jsonl").read_bytes()


def test_numbers_that_json_does_not_know_become_null_or_plain(tmp_path: Path) -> None:
    RoundLog(tmp_path).append(
        row(
            1,
            test_accuracy=math.nan,
            local_accuracy=math.inf,
            server_accuracy=np.float32(0.5),
            bytes_up=np.int64(7),
        )
    )
    (back,) = read(tmp_path)
    assert back["test_accuracy"] is None
    assert back["local_accuracy"] is None
    assert (back["server_accuracy"], back["bytes_up"]) == (0.5, 7)


@pytest.mark.parametrize("key", ["bytes_up", "gain", "warnings"])
def test_a_row_without_a_key_of_the_contract_is_refused(tmp_path: Path, key: str) -> None:
    short = row(1)
    del short[key]
    with pytest.raises(ValueError, match=key):
        RoundLog(tmp_path).append(short)
    assert read(tmp_path) == []


@given(rounds=st.integers(0, 8), after=st.integers(-1, 10), torn=st.integers(0, 400))
def test_truncation_keeps_the_bytes_of_complete_early_rounds(
    tmp_path_factory: pytest.TempPathFactory, rounds: int, after: int, torn: int
) -> None:
    folder = tmp_path_factory.mktemp("run")
    log = RoundLog(folder)
    for number in range(1, rounds + 1):
        log.append(row(number))
    whole = log.path.read_bytes() if rounds else b""
    log.path.write_bytes(whole[: max(0, len(whole) - torn)])
    complete = [r["round"] for r in read(folder)]
    assert complete == list(range(1, len(complete) + 1))
    log.truncate(after)
    kept = [number for number in complete if number <= after]
    lines = whole.splitlines(keepends=True)
    assert log.path.read_bytes() == b"".join(lines[: len(kept)])
    log.append(row(len(kept) + 1))
    assert log.path.read_bytes() == b"".join(lines[: len(kept)]) + log.path.read_bytes().splitlines(True)[-1]
    assert [r["round"] for r in read(folder)] == [*kept, len(kept) + 1]
    assert os.listdir(folder) == ["rounds.jsonl"]


def test_a_torn_line_is_cut_off_before_the_next_is_written(tmp_path: Path) -> None:
    log = RoundLog(tmp_path)
    log.append(row(1))
    with log.path.open("ab") as file:
        file.write(b'{"round": 2, "wall_')
    assert [r["round"] for r in read(tmp_path)] == [1]
    log.append(row(2))
    assert [r["round"] for r in read(tmp_path)] == [1, 2]


def test_damage_further_up_is_named(tmp_path: Path) -> None:
    (tmp_path / "rounds.jsonl").write_text('{"round": 1}\nnonsense\n{"round": 3}\n')
    with pytest.raises(ConfigError, match=r"line 2.*nonsense"):
        read(tmp_path)


def test_nothing_to_truncate_and_nothing_to_read(tmp_path: Path) -> None:
    RoundLog(tmp_path).truncate(3)
    assert read(tmp_path) == []


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_reaches_the_caller(tmp_path: Path) -> None:
    (tmp_path / "rounds.jsonl").symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left"):
        RoundLog(tmp_path).append(row(1))


def test_a_missing_folder_reaches_the_caller_and_the_old_file_stays(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        RoundLog(tmp_path / "gone").append(row(1))
    write_json_atomic(tmp_path / "a.json", {"x": 1})
    with pytest.raises(TypeError):
        write_json_atomic(tmp_path / "a.json", {"x": object()})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}
    assert os.listdir(tmp_path) == ["a.json"]


def test_the_summary_is_ordered_strict_and_readable(tmp_path: Path) -> None:
    write_summary(tmp_path, {"sites": {"b": {}, "a": {}}, "test_accuracy": math.nan, "strategy": "fedavg", "x": 1})
    back = json.loads((tmp_path / "summary.json").read_text())
    assert list(back) == ["strategy", "test_accuracy", "x", "sites"]
    assert back["test_accuracy"] is None


class Broken(Observer):
    def __init__(self) -> None:
        self.calls: list[str] = []

    def round_done(self, row: dict[str, Any]) -> None:
        self.calls.append("round_done")
        raise RuntimeError("no more paper")

    def close(self) -> None:
        self.calls.append("close")
        raise RuntimeError("stuck")

    def state(self) -> dict[str, str]:
        return {"broken": "id-1"}


class Listener(Observer):
    def __init__(self) -> None:
        self.rounds: list[int] = []

    def round_done(self, row: dict[str, Any]) -> None:
        self.rounds.append(row["round"])


class Interrupting(Observer):
    def round_done(self, row: dict[str, Any]) -> None:
        raise KeyboardInterrupt


def test_a_broken_observer_is_reported_once_closed_and_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken, listener = Broken(), Listener()
    observers = Observers([broken, listener])
    observers.started(RunInfo(tmp_path, {}, "run", {}, tracker_ids={"other": "id-2"}))
    assert observers.state() == {"other": "id-2", "broken": "id-1"}
    for number in (1, 2):
        observers.round_done(row(number))
    assert observers.state() == {"other": "id-2", "broken": "id-1"}
    observers.close()
    assert listener.rounds == [1, 2]
    assert broken.calls == ["round_done", "close"]
    told = capsys.readouterr().err
    assert told.count("Broken") == 1
    assert "no more paper" in told


def test_an_interrupt_passes_through() -> None:
    with pytest.raises(KeyboardInterrupt):
        Observers([Interrupting()]).round_done(row(1))


def test_the_room_is_light_to_enter() -> None:
    heavy = ("rich", "wandb", "matplotlib", "torch", "flwr", "hydra")
    code = f"import fl_distill.tracking, sys; print([m for m in {heavy} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
