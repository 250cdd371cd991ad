"""What a run shows: on a real terminal, in a pipe, and for a sweep."""

import io
import os
import pty
import re
import select
import subprocess
import sys
import textwrap
from typing import Any

import pytest

from fl_distill.tracking import sweep_table, text
from fl_distill.tracking.groups import architectures, comparable, comparison, newest_sites

SCRIPT = textwrap.dedent(
    """
    import sys
    from pathlib import Path
    from fl_distill.tracking import RunInfo, SiteInfo
    from fl_distill.tracking.console import ConsoleObserver

    def entry(model, local):
        return {"model": model, "examples": 5, "loss": 0.25, "test_accuracy": 0.8, "local_accuracy": local}

    twins = "twins" in sys.argv
    sites = {"site-1": entry("mlp", 0.7), "site-2": entry("cnn", 0.9)}
    row = {"wall_s": 1.5, "bytes_up": 2_500_000, "bytes_down": 1000, "test_accuracy": 0.8,
           "local_accuracy": 0.8, "server_accuracy": None, "sites": sites}
    if twins:
        sites["site-1"]["alone_accuracy"], sites["site-2"]["alone_accuracy"] = 0.65, 0.85
        row |= {"knowledge_up": 300_000, "knowledge_down": 950, "warnings": ["few examples \\x1b[2J", "[odd] classes"]}
    console = ConsoleObserver(log=sys.argv[1])
    info = {name: SiteInfo(site["model"], 5) for name, site in sites.items()}
    console.started(RunInfo(Path("runs/[red]x"), {"rounds": 2}, "fedmd-digits-0", info, resumed_from=4))
    for number in (1, 2):
        console.site_replied(number, "site-1", None)
        console.site_replied(number, "site-2", "NaN" if number == 2 else None)
        failures = {"site-2": "the loss is NaN \\x1b[2J [bold]"} if number == 2 else {}
        if twins and number == 2:
            row |= {"alone_accuracy": 0.75, "gain": 0.05}
        console.round_done(row | {"round": number, "failures": failures})
    summary = row | {"rounds": 2, "selected": {"round": 1, "local_accuracy": 0.75}}
    summary |= {"left_out": {"site-2": "NaN"}} if twins else {}
    console.finished(summary, sys.argv[2])
    console.close()
    print("rich" in sys.modules, file=sys.stderr)
    """
)


def run(log: str = "info", status: str = "finished", *more: str) -> tuple[str, str]:
    command = [sys.executable, "-W", "error", "-c", SCRIPT, log, status, *more]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


def on_a_terminal(log: str = "info", *more: str) -> str:
    leader, follower = pty.openpty()
    environment = os.environ | {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"}
    command = [sys.executable, "-W", "error", "-c", SCRIPT, log, "stopped", *more]
    process = subprocess.Popen(command, stdin=follower, stdout=follower, stderr=follower, env=environment)
    os.close(follower)
    shown = b""
    while select.select([leader], [], [], 30)[0]:
        try:
            part = os.read(leader, 65536)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(leader)
    assert process.wait(10) == 0, shown.decode()
    return shown.decode()


def test_a_pipe_gets_a_plain_line_a_round_without_rich() -> None:
    shown, told = run()
    lines = shown.splitlines()
    assert lines[0].startswith("fedmd-digits-0: 2 sites (1 × mlp, 1 × cnn), results in ")
    assert lines[1] == "continuing after round 4"
    assert re.fullmatch(
        r"round 1/2  server –  local 0.800  test 0.800  loss 0.250  up 2.5 MB  down 1.0 kB  1.5 s", lines[2]
    )
    assert lines[3].endswith("1 failed")
    assert lines[4] == "  site-2: the loss is NaN [2J [bold]"
    assert "\x1b" not in shown
    assert told == "False\n"


def test_the_end_names_accuracies_bytes_and_the_models() -> None:
    shown, _ = run()
    assert "finished after 2 rounds and 1.5 s; 2.5 MB up, 1.0 kB down" in shown
    assert re.search(r"sites, own data +0.800 +0.750", shown)
    assert re.search(r"cnn +1 +0.800 +0.900", shown)
    assert "continue with" not in shown


def test_a_pipe_says_what_learning_together_gave() -> None:
    shown, _ = run("info", "finished", "twins")
    one, two = (line for line in shown.splitlines() if line.startswith("round "))
    assert "alone" not in one
    assert "test 0.800  alone 0.750  gain +5.0  loss 0.250  up 2.5 MB  down" in two
    assert "2.5 MB (300 kB of tensors) up, 1.0 kB down" in shown
    assert re.search(r"sites alone, test set +0.750 +–\ngain, in points +\+5.0 +–\n", shown)
    assert re.search(r"architecture +sites +alone +federated +gain +own data +worst site\n", shown)
    assert re.search(r"cnn +1 +0.850 +0.800 +-5.0 +0.900 +0.800\n", shown)


def test_the_end_names_who_was_left_out() -> None:
    assert "warning: left out in the end: site-2: NaN" in run("info", "finished", "twins")[0]
    assert "left out" not in run()[0]


def test_a_warning_is_told_once() -> None:
    shown, _ = run("info", "finished", "twins")
    lines = shown.splitlines()
    first = next(at for at, line in enumerate(lines) if line.startswith("round 1/2"))
    assert lines[first + 1 : first + 3] == ["  warning: few examples [2J", "  warning: [odd] classes"]
    assert shown.count("few examples") == 1


def test_a_run_that_stopped_says_how_to_go_on() -> None:
    assert "fl-distill resume=runs/[red]x" in run(status="interrupted")[0]


def test_quiet_is_silent() -> None:
    assert run("quiet")[0] == ""


def test_a_terminal_gets_a_table_the_reasons_and_a_bar() -> None:
    shown = on_a_terminal()
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    assert re.search(r"round +server +local +test +loss +up +down +time", plain)
    assert re.search(r"2/2 +– +0.800 +0.800 +0.250 +2.5 MB +1.0 kB +1.5 s +1 failed", plain)
    assert "✗ site-2: the loss is NaN [2J [bold]" in plain
    assert "\x1b[2J" not in shown
    assert "replies" in plain
    assert "results in runs/[red]x" in plain
    assert shown.count("\x1b[?25l") == shown.count("\x1b[?25h") > 0, "the cursor is given back"


def test_a_terminal_gets_new_columns_where_twins_are_first_scored() -> None:
    shown = on_a_terminal("info", "twins")
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)
    assert re.search(r"round +server +local +test +loss +up(.|\n)+round +server +local +test +alone +gain +loss", plain)
    assert re.search(r"2/2 +– +0.800 +0.800 +0.750 +\+5.0 +0.250", plain)
    assert plain.count("! [odd] classes") == 1
    assert re.search(r"mlp +│ +1 +│ +0.650 +│ +0.800 +│ +\+15.0 +│", plain)
    assert "\x1b[2J" not in shown


def test_debug_messages_and_a_bar_do_not_mix() -> None:
    assert on_a_terminal("debug").rstrip().endswith("False")


def test_a_sweep_is_one_table_with_the_reasons_of_failed_jobs() -> None:
    jobs: list[dict[str, Any]] = [
        {
            "job": "strategy=fedavg",
            "status": "finished",
            "server_accuracy": 0.93,
            "bytes_up": 10_000,
            "wall_s": 75.0,
        },
        {"job": "strategy=fedprox", "status": "failed", "reason": "round 1: 0 usable results"},
    ]
    table = sweep_table(jobs, io.StringIO())
    lines = table.splitlines()
    assert re.fullmatch(r"strategy=fedavg +finished +0.930 +– +– +10.0 kB +– +1 min 15 s", lines[1])
    assert lines[-1] == "strategy=fedprox: round 1: 0 usable results"


def test_a_sweep_tells_the_gain_where_a_job_knows_it() -> None:
    jobs = [{"job": "a", "gain": 0.0312, "bytes_up": 1}, {"job": "b", "status": "finished"}]
    head, one, other = sweep_table(jobs, io.StringIO()).splitlines()
    assert re.search(r"sites, test set +gain +up", head)
    assert re.fullmatch(r"a +– +– +– +– +\+3.1 +1 B +– +–", one)
    assert re.fullmatch(r"b +finished( +–){7}", other)
    assert "gain" not in sweep_table(jobs[1:], io.StringIO())


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_sweep_on_a_terminal_is_ruled() -> None:
    assert "─" in sweep_table([{"job": "seed=[0]", "status": "finished"}], Terminal())


def test_an_empty_sweep_has_a_head_only() -> None:
    assert len(sweep_table([], io.StringIO()).splitlines()) == 1


@pytest.mark.parametrize(
    ("count", "shown"),
    [
        (None, "–"),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (123_456, "123 kB"),
        (999_999, "1.0 MB"),
        (2.5e9, "2.5 GB"),
    ],
)
def test_sizes(count: float | None, shown: str) -> None:
    assert text.size(count) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(0.04, "0.0 s"), (59.9, "59.9 s"), (59.99, "1 min 00 s"), (7620, "2 h 07 min")]
)
def test_durations(value: float, shown: str) -> None:
    assert text.seconds(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.0, "0.0 ms"),
        (0.00212, "2.1 ms"),
        (0.00997, "10 ms"),
        (0.25, "250 ms"),
        (0.9996, "1.0 s"),
        (75.0, "1 min 15 s"),
    ],
)
def test_moments(value: float, shown: str) -> None:
    assert text.moment(value) == shown


@pytest.mark.parametrize(
    ("value", "shown"), [(None, "–"), (0.1234, "+12.3"), (-0.05, "-5.0"), (0.0, "+0.0"), (-0.0001, "+0.0")]
)
def test_points(value: float | None, shown: str) -> None:
    assert text.points(value) == shown


@pytest.mark.parametrize(
    ("record", "shown"),
    [
        ({}, "–"),
        ({"bytes_up": 1000}, "1.0 kB"),
        ({"bytes_up": 1000, "knowledge_up": 0}, "1.0 kB"),
        ({"bytes_up": 1000, "knowledge_up": 990}, "1.0 kB"),
        ({"bytes_up": 1000, "knowledge_up": 500}, "1.0 kB (500 B of tensors)"),
    ],
)
def test_knowledge_is_told_where_it_tells_something(record: dict[str, int], shown: str) -> None:
    assert text.traffic(record, "up") == shown


def test_what_nobody_measured_is_no_column() -> None:
    groups = architectures({"a": {"model": "mlp", "local_accuracy": 0.5}, "b": {"model": "mlp"}})
    assert comparison(groups) == [("architecture", "sites", "own data"), ("mlp", "2", "0.500")]
    assert not comparable(groups)


def test_a_summary_may_leave_out_what_it_does_not_know() -> None:
    assert comparison({"mlp": {"gain": 0.1}}) == [("architecture", "sites", "gain"), ("mlp", "–", "+10.0")]
    assert comparable({"mlp": {}, "cnn": {}})
    assert not comparable({})


def test_the_newest_of_a_site_is_what_was_last_measured() -> None:
    rows = [{"sites": {"b": {"x": 1, "y": 1}, "a-10": {"x": 1}, "a-2": {}}}, {"sites": {"b": {"x": 2, "y": None}}}]
    assert newest_sites(rows) == {"a-2": {}, "a-10": {"x": 1}, "b": {"x": 2, "y": 1}}
    assert list(newest_sites(rows)) == ["a-2", "a-10", "b"]


def test_failures_share_a_line_by_reason_and_long_lists_are_cut() -> None:
    reasons = {f"site-{number}": "late" for number in range(12)} | {"site-3": "NaN"}
    late, nan = text.failures(reasons)
    assert late == "site-0, site-1, site-2, site-4, site-5, site-6 and 5 more: late"
    assert nan == "site-3: NaN"
