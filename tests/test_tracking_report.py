"""Plots and the report, for runs of every shape."""

import re
from pathlib import Path
from typing import Any

import pytest

from fl_distill.tracking import RoundLog, RunInfo, SiteInfo
from fl_distill.tracking.canvas import accuracy_limits
from fl_distill.tracking.plots import draw
from fl_distill.tracking.report import ReportObserver, write_report
from fl_distill.tracking.versus import by_architecture

PNG = b"\x89PNG\r\n\x1a\n"


BLANK = {
    "knowledge_up": 0,
    "knowledge_down": 0,
    "alone_accuracy": None,
    "gain": None,
    "agreement": None,
    "entropy": None,
    "warnings": [],
}


def rows(sites: int, rounds: int, score: float | None = 0.5) -> list[dict[str, Any]]:
    entry = {"model": "mlp", "examples": 5, "loss": score, "test_accuracy": score, "local_accuracy": score}
    return [
        {
            "round": number,
            "wall_s": 1.0,
            "bytes_up": 1000,
            "bytes_down": 1000,
            "test_accuracy": score,
            "local_accuracy": score,
            "server_accuracy": None,
            **BLANK,
            "failures": {},
            "sites": {f"site-{at}": entry | {"bytes_up": 1, "bytes_down": 1} for at in range(sites)},
        }
        for number in range(1, rounds + 1)
    ]


def mixed(rounds: int) -> list[dict[str, Any]]:
    """Rounds of two architectures whose sites know what they reach alone."""
    several = rows(4, rounds)
    for at, row in enumerate(several):
        row |= {"alone_accuracy": 0.4, "gain": 0.1, "warnings": ["few examples"] * (at > 0)}
        for number, site in enumerate(row["sites"].values()):
            site |= {"model": ("mlp", "cnn")[number % 2], "alone_accuracy": 0.4 + number / 100}
    return several


def info(folder: Path, sites: int, classes: int = 10) -> RunInfo:
    held = {f"site-{at}": SiteInfo("mlp", 5, tuple(range(at, at + classes))) for at in range(sites)}
    return RunInfo(folder, {"rounds": 2}, "run", held, tuple(map(str, range(classes))))


ALL = {"accuracy", "accuracy_by_megabyte", "sites", "labels"}


@pytest.mark.parametrize(
    ("sites", "rounds", "score", "classes", "made"),
    [
        (4, 3, 0.5, 10, ALL),
        (200, 2, 1.0, 10, ALL),
        (1, 1, 0.0, 2, ALL),
        (3, 2, None, 100, {"labels"}),
        (4, 0, None, 0, set()),
        (0, 0, None, 0, set()),
    ],
)
def test_every_picture_that_the_rows_allow_is_drawn(
    tmp_path: Path, sites: int, rounds: int, score: float | None, classes: int, made: set[str]
) -> None:
    paths = draw(tmp_path / "plots", rows(sites, rounds, score), info(tmp_path, sites, classes))
    assert {path.stem for path in paths} == made
    for path in paths:
        assert path.read_bytes().startswith(PNG)
        assert path.stat().st_size > 5000


def test_rounds_without_a_measurement_and_absent_sites_are_no_trouble(tmp_path: Path) -> None:
    several = rows(3, 4)
    several[1] |= {"test_accuracy": None, "local_accuracy": None, "sites": {}}
    several[2]["sites"]["site-1"]["local_accuracy"] = None
    several[0]["server_accuracy"] = 0.4
    assert {path.stem for path in draw(tmp_path, several, info(tmp_path, 3))} == ALL


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    one, other = (draw(tmp_path / name, rows(4, 3), info(tmp_path, 4)) for name in "ab")
    assert [path.read_bytes() for path in one] == [path.read_bytes() for path in other]


@pytest.mark.parametrize("rounds", [1, 2, 40])
def test_architectures_are_compared_where_there_is_something_to_compare(tmp_path: Path, rounds: int) -> None:
    assert {path.stem for path in draw(tmp_path, mixed(rounds), info(tmp_path, 4))} == ALL | {"architectures"}


@pytest.mark.parametrize("change", [{"alone_accuracy": None}, {"model": "mlp"}, {"test_accuracy": None}])
def test_twins_or_several_architectures_are_enough(tmp_path: Path, change: dict[str, Any]) -> None:
    several = mixed(3)
    for row in several:
        row["sites"] = {name: site | change for name, site in row["sites"].items()}
    assert "architectures" in {path.stem for path in draw(tmp_path, several, info(tmp_path, 4))}


def test_architectures_come_and_go_and_old_rows_know_no_twins(tmp_path: Path) -> None:
    several = mixed(4)
    several[0]["sites"] = {}
    del several[1]["sites"]["site-1"], several[1]["sites"]["site-3"]
    for row in several[2:]:
        del row["alone_accuracy"], row["warnings"], row["gain"]
        for site in row["sites"].values():
            del site["alone_accuracy"]
    several[3]["sites"]["site-0"]["model"] = "<b>" + "x" * 99
    picture = by_architecture(several)
    bars, curves = picture.axes
    assert bars.get_title("left") == "Architectures, round 2"
    assert len(bars.get_yticklabels()) == 3
    assert len(curves.lines) == 4
    picture.canvas.draw()


def test_bars_and_curves_show_the_means() -> None:
    bars, curves = by_architecture(mixed(3)).axes
    assert [round(bar.get_width(), 3) for bar in bars.patches] == [0.41, 0.5, 0.42, 0.5]
    shown = [label.get_text() for label in bars.texts]
    assert shown == ["41.0%", "50.0%  +9.0", "42.0%", "50.0%  +8.0"]
    assert [list(line.get_xdata()) for line in curves.lines] == [[1, 2, 3]] * 4
    assert [line.get_linestyle() for line in curves.lines] == ["--", "-"] * 2


@pytest.mark.parametrize(("low", "high"), [(0.0, 0.0), (1.0, 1.0), (0.5, 0.5), (0.0, 1.0), (0.91, 0.93)])
def test_limits_hold_the_data_and_are_never_narrow(low: float, high: float) -> None:
    bottom, top = accuracy_limits(low, high)
    assert 0 <= bottom <= low <= high <= top <= 1.01
    assert top - bottom >= 0.1


def test_a_hostile_site_cannot_put_markup_into_the_report(tmp_path: Path) -> None:
    evil = "<script>alert(1)</script>"
    (one,) = rows(1, 1)
    one["sites"] = {evil: one["sites"]["site-0"] | {"model": evil}}
    one["failures"] = {evil: f'"><img src=x onerror=1>{evil}'}
    one["warnings"] = [f"<img src=x>{evil}"]
    RoundLog(tmp_path).append(one)
    run = RunInfo(tmp_path, {"note": evil}, evil, {evil: SiteInfo(evil, 5, (1, 2))}, (evil, "b"))
    page = write_report(run, {"rounds": 1, "reason": evil, "architectures": {evil: {}}}, "failed").read_text()
    assert "<script" not in page
    assert "<img src=x" not in page
    assert page.count("&lt;script&gt;") >= 6


def test_the_report_needs_nothing_beside_itself(tmp_path: Path) -> None:
    for one in rows(4, 2):
        RoundLog(tmp_path).append(one | {"failures": {"site-1": "late"} if one["round"] == 2 else {}})
    observer = ReportObserver()
    observer.started(info(tmp_path, 4))
    observer.finished({"rounds": 2, "seed": 3, "test_accuracy": float("nan"), "selected": {"round": 1}}, "finished")
    page = (tmp_path / "report.html").read_text()
    assert re.findall(r'(?:src|href)="(?!data:image/png;base64,)', page) == []
    assert page.count("data:image/png") == 4
    assert "<td>site-1</td><td>late</td>" in page.replace("\n", "")
    assert {path.stem for path in (tmp_path / "plots").iterdir()} == ALL


def test_the_report_says_what_learning_together_gave_and_what_it_warns_of(tmp_path: Path) -> None:
    for one in mixed(3):
        RoundLog(tmp_path).append(one)
    summary = {"gain": 0.1, "alone_accuracy": 0.4, "bytes_up": 1000, "knowledge_up": 300, "selected": {"gain": 0.2}}
    page = write_report(info(tmp_path, 4), summary, "finished").read_text()
    assert "<td>mlp</td><td>2</td><td>0.410</td><td>0.500</td><td>+9.0</td><td>0.500</td><td>0.500</td>" in page
    assert "<td>2</td><td>2</td><td>few examples</td>" in page
    assert "<td>gain, in points</td><td>+10.0</td><td>+20.0</td>" in page
    assert "<b>+10.0</b><span>gain, in points</span>" in page
    assert "<b>1.0 kB</b><span>sent up, 300 B of tensors</span>" in page
    assert "<th>test set</th><th>alone</th><th>own data</th>" in page
    assert 'alt="architectures"' in page


def test_a_run_that_warned_of_nothing_has_no_such_part(tmp_path: Path) -> None:
    RoundLog(tmp_path).append(rows(2, 1)[0])
    page = write_report(info(tmp_path, 2), {}, "finished").read_text()
    assert "<h2>Warnings" not in page
    assert "alone" not in page
