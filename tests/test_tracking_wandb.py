"""W&B for real: offline folders that are read back record by record, and a service that is not there."""

import json
import os
import struct
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fl_distill.tracking.wandb import WandbObserver, has_credentials, history

SCRIPT = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from fl_distill.tracking import RunInfo, SiteInfo
    from fl_distill.tracking.wandb import WandbObserver

    folder, known, ending = Path(sys.argv[1]), sys.argv[2], sys.argv[3]
    entry = {"model": "mlp", "loss": 0.25, "test_accuracy": 0.8, "local_accuracy": None}
    row = {"wall_s": 1.5, "bytes_up": 25, "bytes_down": 10, "test_accuracy": 0.8,
           "local_accuracy": 0.7, "server_accuracy": float("nan"), "failures": {"b/1": "late"},
           "alone_accuracy": 0.75, "gain": 0.05, "agreement": 0.5, "entropy": None, "knowledge_up": 20,
           "knowledge_down": 0, "warnings": ["few examples"], "codec": {"bits_up": 8.25, "nmse_up": 0.125},
           "sites": {"a": entry | {"alone_accuracy": 0.75}}}
    config, sites = {"rounds": 2, "strategy": {"mu": 0.5}}, {"a": SiteInfo("mlp", 5)}
    ids = {"wandb": known} if known else {}
    info = RunInfo(folder, config, "fedavg-digits-0", sites, tracker_ids=ids)
    observer = WandbObserver("proj", group="grp", job_type="sweep", tags=("t1",))
    observer.started(info)
    for number in (1, 2):
        observer.round_done(row | {"round": number})
    if ending == "finished":
        group = {"sites": 1, "alone_accuracy": 0.75, "gain": float("nan"), "worst": 0.8}
        summary = {"test_accuracy": 0.8, "selected": {"round": 1}, "sites": {}, "architectures": {"mlp": group},
                   "codec": {"bits_up": 8.25, "layers": {"w.bias": [64, 0.0], "w.weight": [400, 0.125]}}}
        observer.finished(summary, "finished")
    observer.close()
    print(observer.state()["wandb"])
    """
)


def run(folder: Path, known: str = "", ending: str = "finished", **environment: str) -> tuple[str, str]:
    clean = {key: value for key, value in os.environ.items() if not key.startswith("WANDB")}
    home = folder / "home"
    home.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, str(folder), known, ending],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        env=clean | {"HOME": str(home)} | environment,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), done.stderr


def records(folder: Path) -> Iterator[Any]:
    """Every protocol buffer in the newest run file: W&B uses LevelDB's log format, in blocks of 32 KiB."""
    from wandb.proto import wandb_internal_pb2

    newest = max((folder / "wandb").glob("*run-*/run-*.wandb"))
    data, at, payload = newest.read_bytes(), 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
            continue
        length, kind = struct.unpack_from("<HB", data, at + 4)
        payload += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            record = wandb_internal_pb2.Record()  # type: ignore[attr-defined]
            record.ParseFromString(payload)
            payload = b""
            yield record


def logged(record: Any) -> dict[str, Any]:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str, str]:
    folder = tmp_path_factory.mktemp("run")
    for name in ("plots/accuracy.png", "models/server.safetensors", "models/a.safetensors"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x" * 100)
    from PIL import Image

    Image.new("RGB", (4, 4)).save(folder / "plots/accuracy.png")
    known, told = run(folder)
    return folder, known, told


def test_without_a_key_the_run_is_offline_without_a_question(offline: tuple[Path, str, str]) -> None:
    folder, known, told = offline
    (kept,) = (folder / "wandb").glob(f"offline-run-*-{known}")
    assert told.splitlines() == [f"W&B is offline; upload later with: wandb sync {kept}"]


def test_the_folder_holds_the_round_metrics(offline: tuple[Path, str, str]) -> None:
    rounds = [logged(record) for record in records(offline[0]) if record.WhichOneof("record_type") == "history"]
    rounds = [line for line in rounds if "wall_s" in line]
    assert [line["round"] for line in rounds] == [1, 2]
    assert rounds[0]["test_accuracy"] == 0.8
    assert rounds[0]["sites/a/loss"] == 0.25
    assert rounds[0]["failures"] == 1
    assert "server_accuracy" not in rounds[0]
    told = {key: rounds[0].get(key) for key in ("alone_accuracy", "gain", "agreement", "entropy", "knowledge_up")}
    assert list(told.values()) == [0.75, 0.05, 0.5, None, 20]
    assert (rounds[0]["sites/a/alone_accuracy"], rounds[0]["warnings"]) == (0.75, 1)
    assert "sites/a/local_accuracy" not in rounds[0]
    assert (rounds[0]["codec/bits_up"], rounds[0]["codec/nmse_up"]) == (8.25, 0.125)


def test_the_folder_holds_the_run_its_config_and_its_files(offline: tuple[Path, str, str]) -> None:
    folder, known, _ = offline
    seen: dict[str, list[Any]] = {}
    for record in records(folder):
        seen.setdefault(record.WhichOneof("record_type"), []).append(record)
    opened = seen["run"][0].run
    assert (opened.run_id, opened.project, opened.run_group, opened.job_type) == (
        known,
        "proj",
        "grp",
        "sweep",
    )
    assert (opened.display_name, list(opened.tags)) == ("fedavg-digits-0", ["t1"])
    config = {item.key: json.loads(item.value_json) for item in opened.config.update}
    assert config["strategy"] == {"mu": 0.5}
    assert {metric.metric.step_metric for metric in seen["metric"]} >= {"round"}
    kinds = {record.artifact.type: [e.path for e in record.artifact.manifest.contents] for record in seen["artifact"]}
    assert (kinds["plots"], kinds["model"]) == (["accuracy.png"], ["server.safetensors"])
    summary = {item.key or ".".join(item.nested_key) for record in seen["summary"] for item in record.summary.update}
    assert {"test_accuracy", "selected.round", "status", "architectures.mlp.alone_accuracy"} <= summary
    assert not [key for key in summary if "layers" in key and "w." in key]
    assert seen["exit"][0].exit.exit_code == 0


def table_of(folder: Path, name: str) -> dict[str, Any]:
    (file,) = (folder / "wandb").glob(f"*run-*/files/media/table/{name}*.json")
    found: dict[str, Any] = json.loads(file.read_text())
    return found


def test_the_tensors_of_the_last_message_down_are_a_table(offline: tuple[Path, str, str]) -> None:
    table = table_of(offline[0], "layers_table")
    assert table["columns"] == ["tensor", "bytes", "nmse"]
    assert table["data"] == [["w.weight", 400, 0.125], ["w.bias", 64, 0.0]]


def test_the_architectures_are_a_table(offline: tuple[Path, str, str]) -> None:
    table = table_of(offline[0], "architectures_table")
    assert table["columns"] == ["architecture", "sites", "alone_accuracy", "gain", "worst"]
    assert table["data"] == [["mlp", 1, 0.75, None, 0.8]]


def test_a_resumed_run_keeps_its_id_and_a_crash_is_told(tmp_path: Path) -> None:
    known, _ = run(tmp_path, known="abc123", ending="crash")
    assert known == "abc123"
    seen = {record.WhichOneof("record_type"): record for record in records(tmp_path)}
    assert seen["exit"].exit.exit_code == 1
    assert next(r for r in records(tmp_path) if r.WhichOneof("record_type") == "run").run.run_id == "abc123"


def test_a_service_that_cannot_be_reached_costs_seconds_and_nothing_else(tmp_path: Path) -> None:
    began = time.monotonic()
    known, told = run(tmp_path, WANDB_API_KEY="a" * 40, WANDB_BASE_URL="http://127.0.0.1:9")
    assert time.monotonic() - began < 25
    assert "W&B cannot be reached" in told
    assert list((tmp_path / "wandb").glob(f"offline-run-*-{known}"))


def test_a_key_that_is_none_is_no_crash_and_online_without_a_key_no_question(tmp_path: Path) -> None:
    assert "kept offline" in run(tmp_path / "a", WANDB_API_KEY="short")[1]
    assert "W&B is offline" in run(tmp_path / "b", WANDB_MODE="online")[1]


def test_disabled_leaves_nothing(tmp_path: Path) -> None:
    assert "W&B is disabled" in run(tmp_path, WANDB_MODE="disabled")[1]
    assert not (tmp_path / "wandb").exists()


def test_keys_are_found_in_the_environment_and_in_netrc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    netrc = tmp_path / "netrc"
    monkeypatch.setenv("NETRC", str(netrc))
    assert not has_credentials("https://api.wandb.ai")
    netrc.write_text("machine api.wandb.ai login user password " + "a" * 40)
    assert has_credentials("https://api.wandb.ai")
    assert not has_credentials("http://elsewhere:8080")
    netrc.write_text("nonsense")
    assert not has_credentials("https://api.wandb.ai")
    monkeypatch.setenv("WANDB_API_KEY", "key")
    assert has_credentials("http://elsewhere:8080")


def test_an_observer_that_never_started_closes() -> None:
    observer = WandbObserver()
    observer.close()
    assert observer.state() == {}


def test_a_map_in_a_row_becomes_flat_keys_and_an_empty_one_none() -> None:
    row = {"failures": {}, "warnings": ["a", "b"], "sites": {}, "server_models": {"mlp": 0.5}, "other": {}}
    assert history(row) == {"failures": 0, "warnings": 2, "server_models.mlp": 0.5}


def test_a_slash_in_a_site_makes_no_new_level() -> None:
    row = {"round": 1, "failures": {}, "sites": {"a/b": {"loss": 0.5, "local_accuracy": None}}}
    assert history(row) == {"round": 1, "failures": 0, "loss": 0.5, "sites/a_b/loss": 0.5}
