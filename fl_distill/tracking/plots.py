"""The pictures of a run, drawn from its rows: no window system and no global state of matplotlib."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from . import text
from .canvas import (
    BLUE,
    FEW_SITES,
    GREEN,
    GREY,
    ORANGE,
    accuracy_limits,
    figure,
    frame,
    legend,
    percent_axis,
    round_axis,
    save,
    write_title,
)
from .coding_plot import by_codec
from .groups import newest_sites
from .observer import Row, RunInfo, Summary
from .versus import by_architecture

_LINES = (
    ("server_accuracy", "server's model, test set", BLUE),
    ("test_accuracy", "sites' models, test set (mean)", ORANGE),
    ("local_accuracy", "sites' models, own data (mean)", GREEN),
)


def draw(folder: Path, rows: Sequence[Row], run: RunInfo, summary: Summary | None = None) -> list[Path]:
    """Write every picture that the rows allow into `folder`; returns their paths.

    `accuracy` by round and by megabyte, `architectures` alone and federated, `sites` (each one's newest
    accuracies), `labels` (who holds what), `codec` (what coding made of the bytes, and of each tensor in `summary`).
    """
    folder.mkdir(parents=True, exist_ok=True)
    made = [save(picture, folder / f"{name}.png") for name, picture in _pictures(rows, run, summary or {}) if picture]
    return made


def _pictures(rows: Sequence[Row], run: RunInfo, summary: Summary) -> list[tuple[str, Any]]:
    return [
        ("accuracy", by_round(rows)),
        ("accuracy_by_megabyte", by_megabyte(rows)),
        ("architectures", by_architecture(rows)),
        ("sites", by_site(rows)),
        ("labels", labels(run)),
        ("codec", by_codec(rows, summary)),
    ]


def by_round(rows: Sequence[Row]) -> Any:
    """Accuracies over rounds, with the band between the worst and the best site; None without any."""
    return _curves(rows, [row["round"] for row in rows], "Accuracy by round", "round", whole=True)


def by_megabyte(rows: Sequence[Row]) -> Any:
    """The same over what has crossed the wire so far; None without traffic."""
    sent, spent = 0.0, []
    for row in rows:
        sent += (row["bytes_up"] + row["bytes_down"]) / 1e6
        spent.append(sent)
    if not sent:
        return None
    return _curves(rows, spent, "Accuracy by traffic", "megabytes sent, up and down", whole=False)


def by_site(rows: Sequence[Row]) -> Any:
    """Each site's newest accuracies: bars by name for a few, a sorted outline for many; None without any."""
    newest = newest_sites(rows)
    kinds = [line for line in _LINES[1:] if any(site.get(line[0]) is not None for site in newest.values())]
    if len(kinds) == 2 and len({site.get("test_accuracy") for site in newest.values()}) == 1:
        kinds = kinds[1:]  # all sites hold one model: its accuracy on the test set tells them not apart
    if not kinds:
        return None
    draw_on: Callable[[Any, dict[str, Any], Sequence[tuple[str, str, str]]], None]
    height, draw_on = (2.2 + 0.3 * len(newest), _bars) if len(newest) <= FEW_SITES else (4.5, _outline)
    picture, axes = figure(height=min(height, 11.0))
    draw_on(axes, newest, kinds)
    write_title(axes, "Accuracy of each site's model")
    legend(axes)
    return picture


def labels(run: RunInfo) -> Any:
    """How many training examples of each class each site holds; None where sites did not say."""
    names = [name for name in text.natural(run.sites) if any(run.sites[name].label_counts)]
    if not names:
        return None
    counts = [list(run.sites[name].label_counts) for name in names]
    depth = max(map(len, counts))
    columns = [[line[c] if c < len(line) else 0 for line in counts] for c in range(depth)]
    picture, axes = figure(height=min(2.0 + 0.3 * depth, 9.0))
    image = axes.imshow(columns, aspect="auto", cmap="Blues", vmin=0, interpolation="nearest")
    bar = picture.colorbar(image, ax=axes, pad=0.015, aspect=30)
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=8, length=0, colors=GREY)
    _name_cells(axes, names, run.classes, depth)
    if len(names) * depth <= 200:
        _write_counts(axes, columns)
    write_title(axes, "Training examples by site and class", room=10)
    return picture


def _curves(rows: Sequence[Row], at: Sequence[float], title: str, axis: str, *, whole: bool) -> Any:
    lines = [line for line in _LINES if any(row[line[0]] is not None for row in rows)]
    if _same(rows, "server_accuracy", "test_accuracy"):
        lines = [line for line in lines if line[0] != "test_accuracy"]
    if not lines:
        return None
    picture, axes = figure()
    _band(axes, rows, at)
    for key, label, colour in lines:
        points = [(x, row[key]) for x, row in zip(at, rows, strict=True) if row[key] is not None]
        marker = "o" if len(points) <= 25 else ""
        axes.plot(*zip(*points, strict=True), color=colour, label=label, lw=2, marker=marker, ms=4)
    percent_axis(axes.yaxis)
    axes.set_xlabel(axis, fontsize=9, color=GREY)
    if whole:
        round_axis(axes.xaxis, rows[0]["round"], rows[-1]["round"])
    axes.set_ylim(accuracy_limits(*axes.dataLim.intervaly))
    write_title(axes, title)
    legend(axes)
    return picture


def _band(axes: Any, rows: Sequence[Row], at: Sequence[float]) -> None:
    """The sites' range on their own data: it tells whether a good mean hides a site left behind."""
    points = []
    for x, row in zip(at, rows, strict=True):
        scores = [s["local_accuracy"] for s in row["sites"].values() if s.get("local_accuracy") is not None]
        if len(scores) > 1:
            points.append((x, min(scores), max(scores)))
    if len(points) > 1:
        xs, low, high = zip(*points, strict=True)
        label = "worst to best site, own data"
        axes.fill_between(xs, low, high, color=GREEN, alpha=0.13, lw=0, label=label)


def _same(rows: Sequence[Row], one: str, other: str) -> bool:
    both = [(row[one], row[other]) for row in rows if row[one] is not None and row[other] is not None]
    return bool(both) and all(a == b for a, b in both)


def _bars(axes: Any, newest: dict[str, Any], kinds: Sequence[tuple[str, str, str]]) -> None:
    thick = 0.76 / len(kinds)
    for place, (key, label, colour) in enumerate(kinds):
        at = [row + (place - (len(kinds) - 1) / 2) * thick for row in range(len(newest))]
        values = [site.get(key) or 0.0 for site in newest.values()]
        axes.barh(at, values, height=thick * 0.92, color=colour, label=_own(label))
    axes.set_yticks(range(len(newest)), [text.clean(name)[:28] for name in newest], fontsize=8)
    axes.set_ylim(len(newest) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    frame(axes, left=False)
    axes.set_xlim(0, 1.004)
    percent_axis(axes.xaxis)


def _outline(axes: Any, newest: dict[str, Any], kinds: Sequence[tuple[str, str, str]]) -> None:
    """Sites ordered by the last kind's accuracy, each one step wide."""
    order = sorted(newest.values(), key=lambda site: site.get(kinds[-1][0]) or 0.0)
    main, others = kinds[-1], kinds[:-1]
    axes.bar(
        range(len(order)),
        [s.get(main[0]) or 0.0 for s in order],
        width=1.0,
        color=main[2],
        alpha=0.55,
        label=_own(main[1]),
    )
    for key, label, colour in others:
        axes.plot(range(len(order)), [s.get(key) for s in order], "o", ms=3, color=colour, label=_own(label))
    axes.set_xlim(-0.5, len(order) - 0.5)
    axes.set_ylim(0, 1.004)
    percent_axis(axes.yaxis)
    axes.set_xlabel(f"{len(order)} sites, from worst to best", fontsize=9, color=GREY)


def _own(label: str) -> str:
    return label.replace("sites' models, ", "").replace(" (mean)", "")


def _name_cells(axes: Any, names: list[str], classes: tuple[str, ...], depth: int) -> None:
    frame(axes, left=False, bottom=False)
    axes.grid(visible=False)
    shown = classes if len(classes) == depth else tuple(map(str, range(depth)))
    every = -(-depth // 30)
    axes.set_yticks(range(0, depth, every), [text.clean(c)[:20] for c in shown[::every]], fontsize=8)
    axes.set_ylabel("class", fontsize=9, color=GREY)
    if len(names) <= FEW_SITES:
        tilt = 0 if sum(map(len, names)) <= 70 else 45
        short = [text.clean(name)[:20] for name in names]
        axes.set_xticks(range(len(names)), short, fontsize=8, rotation=tilt, ha="right" if tilt else "center")
    else:
        axes.set_xticks([])
        axes.set_xlabel(f"{len(names)} sites, in order of their names", fontsize=9, color=GREY)


def _write_counts(axes: Any, columns: list[list[int]]) -> None:
    most = max(map(max, columns))
    for c, line in enumerate(columns):
        for s, count in enumerate(line):
            if count:
                colour = "white" if count > 0.55 * most else "#333333"
                axes.text(s, c, str(count), ha="center", va="center", fontsize=7, color=colour)
