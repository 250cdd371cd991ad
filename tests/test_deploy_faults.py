"""What breaks on a real network, broken on purpose: processes killed in the middle of a run on TLS and real keys."""

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import psutil
import pytest

from fl_distill import cli

from .deployed import Running, kill_all, rows, until, untimed, workers

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]
SITES = ("site-0", "site-1")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    found = Running(tmp_path_factory.mktemp("faults"))
    found.new()
    with found.stack:
        found.superlink()
        for part, name in enumerate(SITES):
            found.admit(name, part)
            found.site(name)
        until(lambda: found.online(*SITES), "the sites", 150)
        yield found


TASK = ("strategy=fedavg", "model=mlp", "sites=2", "local.epochs=40")


def test_a_run_survives_its_server(running: Running, tmp_path: Path) -> None:
    """ServerApp and SuperLink are killed in turn; the rest of the run is that of an undisturbed one, bit for bit."""
    place, task = tmp_path / "run", [*TASK, "rounds=6"]
    assert cli.run([*task, "runtime=local", "runtime.workers=0", "log=quiet", f"hydra.run.dir={tmp_path}/sim"]) == 0
    with running.run(place, *task, f"hydra.run.dir={place}") as command:
        until(lambda: len(rows(place)) >= 2, "two rounds")
        assert kill_all("flwr-serverapp", str(running.inner)) >= 1
        assert command.wait(150) == 1
    said = place.with_suffix(".log").read_text()
    assert f"resume={place}" in said, said
    with running.run(place, f"resume={place}") as command:
        until(lambda: len(rows(place)) >= 4, "four rounds")
        assert kill_all(str(running.fed), "flower-superlink") + kill_all("--superlink", str(running.inner)) >= 1
        kill_all("flwr-serverapp", str(running.inner))
        assert command.wait(150) == 1
    running.superlink()
    until(lambda: running.online(*SITES), "the sites to come back", 150)
    with running.run(place, f"resume={place}") as command:
        assert command.wait(150) == 0, running.text()
    assert untimed(rows(place)) == untimed(rows(tmp_path / "sim"))


def test_a_site_that_is_killed_costs_its_rounds_and_comes_back(running: Running, tmp_path: Path) -> None:
    place = tmp_path / "run"
    task = [*TASK, "rounds=900", "collect.grace_s=3", "evaluate.sites_every=0", "stop.patience=null"]
    with running.run(place, *task, f"hydra.run.dir={place}") as command:
        until(lambda: len(rows(place)) >= 2, "two rounds")
        assert kill_all("fl_distill.deploy.process", str(running.folder / "site-1")) == 1
        until(lambda: any(row["failures"] for row in rows(place)), "the round that the site lost", 60)
        at = len(rows(place))
        until(
            lambda: any("site-1" in row["sites"] and not row["failures"] for row in rows(place)[at:]), "the site", 150
        )
        command.send_signal(signal.SIGINT)
        assert command.wait(60) == 130
    lost = [row for row in rows(place) if row["failures"]]
    assert lost
    assert all(list(row["failures"]) == ["site-1"] for row in lost), lost


def test_two_runs_at_once_do_not_mix(running: Running, tmp_path: Path) -> None:
    tasks = {"one": [*TASK, "rounds=3"], "two": ["strategy=fedmd", "models=[mlp,cnn]", "sites=2", "rounds=3"]}
    with ExitStack() as stack:
        commands = [
            stack.enter_context(running.run(tmp_path / name, *task, f"hydra.run.dir={tmp_path}/{name}"))
            for name, task in tasks.items()
        ]
        assert [command.wait(150) for command in commands] == [0, 0], running.text()
    for name, task in tasks.items():
        alone = tmp_path / f"{name}-alone"
        assert cli.run([*task, "runtime=local", "runtime.workers=0", "log=quiet", f"hydra.run.dir={alone}"]) == 0
        assert untimed(rows(tmp_path / name)) == untimed(rows(alone))


@pytest.mark.parametrize(
    ("policy", "said"),
    [
        ("may_leave: [logits]", "lets logits leave, not weights"),
        ("may_leave: [weights], largest_message: 10kB", "lets replies of 10kB leave"),
    ],
)
def test_what_a_policy_forbids_does_not_leave(running: Running, tmp_path: Path, policy: str, said: str) -> None:
    path = running.folder / "site-1" / "site.yaml"
    before = path.read_text()
    path.write_text(before.replace("may_leave: [logits, weights], largest_message: 1GB", policy))
    try:
        with running.run(
            tmp_path / "run", *TASK, "rounds=2", "collect.join_s=5", f"hydra.run.dir={tmp_path}/run"
        ) as command:
            assert command.wait(100) == 0, running.text()
    finally:
        path.write_text(before)
    found = rows(tmp_path / "run")
    told = str([row["warnings"] for row in found] + [row["failures"] for row in found])
    assert f"{said}" in told, told
    assert "site-1" in told
    assert not any(row["sites"].get("site-1", {}).get("bytes_up", 0) > 1000 for row in found), "something left"


def test_a_site_that_hangs_costs_its_round(running: Running, tmp_path: Path) -> None:
    place = tmp_path / "run"
    with running.run(place, *TASK, "rounds=40", "collect.grace_s=2", f"hydra.run.dir={place}") as command:
        until(lambda: len(rows(place)) >= 2, "two rounds")
        (worker,) = workers(running.folder / "site-1")
        worker.suspend()
        time.sleep(10)
        worker.resume()
        at = len(rows(place))
        until(lambda: any(not row["failures"] for row in rows(place)[at:]), "the site")
        command.send_signal(signal.SIGINT)
        assert command.wait(60) == 130
    lost = [row for row in rows(place) if row["failures"]]
    assert lost
    assert all(list(row["failures"]) == ["site-1"] for row in lost), lost


def test_a_full_disk_costs_the_site_its_round(running: Running, tmp_path: Path) -> None:
    """The kernel refuses to let one site's files grow, as a full disk would; then there is room again."""
    place = tmp_path / "run"
    with running.run(place, "strategy=fedmd", "model=mlp", "sites=2", "rounds=40", f"hydra.run.dir={place}") as command:
        until(lambda: len(rows(place)) >= 2, "two rounds")
        (worker,) = workers(running.folder / "site-1")
        before = worker.rlimit(psutil.RLIMIT_FSIZE)
        worker.rlimit(psutil.RLIMIT_FSIZE, (1000, before[1]))
        until(lambda: any(row["failures"] for row in rows(place)), "the round that the site lost")
        worker.rlimit(psutil.RLIMIT_FSIZE, before)
        at = len(rows(place))
        until(lambda: any(not row["failures"] for row in rows(place)[at:]), "the site")
        command.send_signal(signal.SIGINT)
        assert command.wait(60) == 130
    lost = [row["failures"] for row in rows(place) if row["failures"]]
    assert all(list(failures) == ["site-1"] for failures in lost), lost
    assert "OSError (reference" in lost[0]["site-1"], lost
    assert str(running.folder) not in str(lost), "a path of the site's left it"
