"""What is told of codecs: in the console, the report, the plots and W&B."""

import re
from pathlib import Path
from typing import Any

import pytest

from fl_distill.tracking import RoundLog, RunInfo, SiteInfo
from fl_distill.tracking.coded import HEAD, by_layer, codings, layers
from fl_distill.tracking.coding_plot import by_codec
from fl_distill.tracking.plots import draw
from fl_distill.tracking.report import write_report
from fl_distill.tracking.wandb import history

from .conftest import Finished, Launch
from .test_tracking_report import rows

FIGURES = {"encode_s": 0.0321, "decode_s": 1.5, "nmse_down": 0.00012, "bits_down": 8.2234}
FIGURES |= {"bits_up": 1.0625, "nmse_up": 0.36, "site_encode_s": 0.0021, "site_decode_s": 0.25}
LAYERS = {"a.weight": [1000, 0.25], "a.bias": [64, 0.0], "b.weight": [2936, 1e-5]}
SUMMARY = {"bytes_up": 2_500_000, "bytes_down": 1000, "codec": {**FIGURES, "layers": LAYERS}}
CONFIG = {"codec": {"up": {"codec": "eden1", "bytes_per_round": None}, "down": "int8", "full": "fp16", "sites": {}}}


def coded(rounds: int, **changes: list[float | None]) -> list[dict[str, Any]]:
    """Rows whose figures are `FIGURES`, or by round what `changes` has of them; None where a round lacks one."""
    several = rows(2, rounds)
    for at, row in enumerate(several):
        found = FIGURES | {key: values[at] for key, values in changes.items()}
        row["codec"] = {key: value for key, value in found.items() if value is not None}
    return several


def info(folder: Path) -> RunInfo:
    return RunInfo(folder, CONFIG, "run", {"site-0": SiteInfo("mlp", 5), "site-1": SiteInfo("mlp", 5)})


# ------------------------------------------------------------ the table of both ways


def test_each_way_has_a_line_with_who_spent_the_seconds() -> None:
    assert codings(CONFIG, SUMMARY) == [
        HEAD,
        ("up", "eden1", "1.06", "0.36", "2.1 ms a site", "1.5 s server", "2.5 MB"),
        ("down", "int8", "8.22", "0.00012", "32 ms server", "250 ms a site", "1.0 kB"),
    ]


def test_a_way_that_nobody_coded_has_bytes_only() -> None:
    figures = {"encode_s": 0.1, "decode_s": 0.1, "bits_up": 4.0}
    _, up, down = codings({"codec": {"up": "int4"}}, {"bytes_up": 1, "bytes_down": 2, "codec": figures})
    assert up == ("up", "int4", "4.00", "–", "–", "100 ms server", "1 B")
    assert down == ("down", "none", "–", "–", "–", "–", "2 B")


@pytest.mark.parametrize("found", [{}, {"codec": {}}, {"codec": {"encode_s": 0.0, "decode_s": 0.0, "layers": {}}}])
def test_where_nothing_was_coded_there_is_no_table(found: dict[str, Any]) -> None:
    assert codings(CONFIG, {"bytes_up": 1} | found) == []


@pytest.mark.parametrize(
    ("up", "sites", "shown"),
    [
        ("int8", {}, "int8"),
        (None, {}, "none"),
        (["delta", "residual", "sign"], {}, "delta residual sign"),
        ({"codec": "step", "bytes_per_round": 20_000}, None, "step, at most 20.0 kB"),
        ({"codec": "none", "bytes_per_round": "20kB"}, {}, "step, at most 20kB"),
        ("int8", {"site-3": "eden1"}, "int8; site-3: eden1"),
        ("int8", {f"s{n}": "fp16" for n in (10, 2, 1, 3)}, "int8; s1: fp16; s2: fp16; s3: fp16; and 1 more"),
        ("int8\x1b[2J", {}, "int8 [2J"),
    ],
)
def test_a_codec_reads_as_people_write_it(up: Any, sites: Any, shown: str) -> None:
    table = codings({"codec": {"up": up, "down": "int8", "sites": sites}}, SUMMARY)
    assert [line[1] for line in table[1:]] == [shown, "int8"]


def test_a_configuration_without_codecs_is_no_trouble() -> None:
    assert [line[1] for line in codings({}, SUMMARY)[1:]] == ["none", "none"]


def test_layers_come_the_largest_first_with_their_parts() -> None:
    assert by_layer(SUMMARY) == [
        ("b.weight", "2.9 kB", "73.4%", "1e-05"),
        ("a.weight", "1.0 kB", "25.0%", "0.25"),
        ("a.bias", "64 B", "1.6%", "0"),
    ]
    assert layers({}) == []
    assert by_layer({"codec": {"layers": {"x": [0, None]}}}) == [("x", "0 B", "–", "–")]


# ------------------------------------------------------------ the plot


def test_the_picture_shows_bytes_with_bits_and_the_largest_tensors() -> None:
    several = coded(4, bits_down=[16.0, 8.0, 8.1, 8.1])
    several[1]["bytes_up"] = 3000
    by_round, by_tensor = by_codec(several, SUMMARY).axes
    assert [list(line.get_ydata()) for line in by_round.lines] == [[1000, 3000, 1000, 1000], [1000] * 4]
    written = [label.get_text() for label in by_round.texts]
    assert written == ["1.1 bits", "1.1 bits", "16.0 bits", "8.0 bits", "8.1 bits"]
    assert [label.xy[0] for label in by_round.texts] == [1, 4, 1, 2, 4]
    assert [bar.get_width() for bar in by_tensor.patches] == [2936, 1000, 64]
    assert [label.get_text() for label in by_tensor.get_yticklabels()] == ["b.weight", "a.weight", "a.bias"]
    assert [label.get_text().strip() for label in by_tensor.texts] == ["1e-05", "0.25", ""]


def test_only_the_twenty_largest_tensors_are_drawn() -> None:
    many = {f"layer{n}." + "x" * 40: [n, 0.5] for n in range(60)}
    _, by_tensor = by_codec(coded(1), {"codec": {"layers": many}}).axes
    assert [bar.get_width() for bar in by_tensor.patches] == list(range(59, 39, -1))
    assert max(len(label.get_text()) for label in by_tensor.get_yticklabels()) == 28


def test_bits_that_change_all_the_time_are_written_at_the_ends() -> None:
    (axes,) = by_codec(coded(12, bits_up=[1.5**n for n in range(12)], bits_down=[None] * 12), {}).axes
    assert [label.get_text() for label in axes.texts] == ["1.0 bits", "86.5 bits"]


def test_rounds_without_figures_are_no_trouble(tmp_path: Path) -> None:
    several = coded(4, bits_up=[None, 8.0, None, 4.0], bits_down=[None] * 4)
    del several[2]["codec"]
    (axes,) = by_codec(several, {"codec": {"layers": {}}}).axes
    assert [(label.xy[0], label.get_text()) for label in axes.texts] == [(2, "8.0 bits"), (4, "4.0 bits")]
    assert "codec" in {path.stem for path in draw(tmp_path, several, info(tmp_path))}


@pytest.mark.parametrize("figures", [{}, {"encode_s": 0.0, "decode_s": 0.0}])
def test_where_nothing_was_coded_there_is_no_picture(figures: dict[str, float], tmp_path: Path) -> None:
    several = [row | {"codec": figures} for row in rows(2, 2)]
    assert by_codec(several, SUMMARY) is None
    assert by_codec([], SUMMARY) is None
    assert "codec" not in {path.stem for path in draw(tmp_path, several, info(tmp_path), SUMMARY)}


# ------------------------------------------------------------ the report


def report(folder: Path, several: list[dict[str, Any]], summary: dict[str, Any]) -> str:
    for row in several:
        RoundLog(folder).append(row)
    return write_report(info(folder), summary, "finished").read_text(encoding="utf-8")


def test_the_report_has_both_tables_and_the_picture(tmp_path: Path) -> None:
    page = report(tmp_path, coded(2), SUMMARY)
    assert "<td>up</td><td>eden1</td><td>1.06</td><td>0.36</td>" in page
    assert "<td>b.weight</td><td>2.9 kB</td><td>73.4%</td><td>1e-05</td>" in page
    assert 'alt="codec"' in page


def test_a_report_of_an_uncoded_run_says_nothing_of_codecs(tmp_path: Path) -> None:
    page = report(tmp_path, rows(2, 2), {"codec": {}})
    assert "<h2>Codec" not in page
    assert "<h2>Layers" not in page
    assert 'alt="codec"' not in page


def test_a_report_of_many_tensors_stays_readable_and_names_are_no_markup(tmp_path: Path) -> None:
    many = {"<script>": [10_000, 0.5]} | {f"layer{n}": [n, 0.5] for n in range(600)}
    page = report(tmp_path, coded(1), SUMMARY | {"codec": {**FIGURES, "layers": many}})
    assert "<script>" not in page
    assert "<td>&lt;script&gt;</td>" in page
    assert "and 101 more in summary.json" in page
    assert "<td>layer100</td>" not in page
    assert "<td>layer101</td>" in page


# ------------------------------------------------------------ W&B


def test_figures_of_a_round_are_flat_keys() -> None:
    flat = history({"round": 1, "failures": {}, "sites": {}, "codec": FIGURES | {"nmse_up": float("nan")}})
    assert flat["codec/bits_up"] == 1.0625
    assert flat["codec/nmse_down"] == 0.00012
    assert "codec/nmse_up" not in flat
    assert not [key for key in flat if key.startswith("codec.")]


# ------------------------------------------------------------ a run


@pytest.fixture
def finished(launch: Launch, capsys: pytest.CaptureFixture[str]) -> tuple[Finished, str]:
    run = launch("model=mlp", "codec.up=eden2", "codec.down=int8", "track.plots=true", "log=info")
    return run, capsys.readouterr().out


def test_a_run_ends_with_the_figures_of_its_record(finished: tuple[Finished, str]) -> None:
    run, shown = finished
    figures, seconds = run.rows[-1]["codec"], r"[\d.]+ m?s"
    up = (
        rf"up +eden2 +{figures['bits_up']:.2f} +{figures['nmse_up']:.2g} +{seconds} a site +{seconds} server +[\d.]+ kB"
    )
    down = rf"down +int8 +{figures['bits_down']:.2f} +{figures['nmse_down']:.2g} +{seconds} server +{seconds} a site"
    assert re.search(rf"\nway +codec .*\n{up}\n{down} ", shown), shown
    assert 2 < figures["bits_up"] < 3


def test_a_run_leaves_its_layers_in_report_and_plots(finished: tuple[Finished, str]) -> None:
    run, _ = finished
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    model = run.weights()
    assert set(model) == {name for name, *_ in layers(run.summary)}
    assert all(f"<td>{name}</td>" in page for name in model)
    assert 'alt="codec"' in page
    assert (run.folder / "plots" / "codec.png").stat().st_size > 5000


def test_a_run_without_codecs_shows_none(launch: Launch, capsys: pytest.CaptureFixture[str]) -> None:
    run = launch("model=mlp", "rounds=1", "track.plots=true", "log=info")
    assert "bits a number" not in capsys.readouterr().out
    assert "<h2>Codec" not in (run.folder / "report.html").read_text(encoding="utf-8")
    assert not (run.folder / "plots" / "codec.png").exists()
