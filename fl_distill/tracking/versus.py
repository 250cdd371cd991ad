"""The picture of architectures: what each reaches alone, and what together."""

from collections.abc import Mapping, Sequence
from typing import Any

from . import text
from .canvas import (
    BLUE,
    GREEN,
    GREY,
    ORANGE,
    PINK,
    RED,
    SKY,
    accuracy_limits,
    frame,
    legend,
    pale,
    panels,
    percent_axis,
    round_axis,
    write_title,
)
from .groups import Groups, architectures, comparable, newest_sites
from .observer import Row

_COLOURS = (BLUE, ORANGE, GREEN, PINK, RED, SKY)
_KINDS = ("alone_accuracy", "test_accuracy")


def by_architecture(rows: Sequence[Row]) -> Any:
    """Bars of the last scored round and curves over all; None without scores, or with nothing to compare.

    An architecture has one colour in both; what learned alone is pale or dashed.
    """
    every = architectures(newest_sites(rows))
    scored = [(row["round"], architectures(row["sites"])) for row in rows]
    scored = [(number, groups) for number, groups in scored if _measured(groups)]
    if not scored or not comparable(every):
        return None
    colours = {model: _COLOURS[at % len(_COLOURS)] for at, model in enumerate(every)}
    with_curves = len(scored) > 1
    height = min(max(3.8 if with_curves else 2.4, 1.7 + 0.62 * len(every)), 11.0)
    picture, axes = panels((1.0, 1.25) if with_curves else (1.0,), height)
    number, last = _newest_with_twins(scored)
    _bars(axes[0], last, colours)
    write_title(axes[0], f"Architectures, round {number}")
    if with_curves:
        _curves(axes[1], scored, colours)
        write_title(axes[1], "Accuracy by round")
    return picture


def _measured(groups: Groups) -> bool:
    return any(group[kind] is not None for group in groups.values() for kind in _KINDS)


def _newest_with_twins(scored: Sequence[tuple[int, Groups]]) -> tuple[int, Groups]:
    """The last round that knows what the sites reach alone, or the last of all."""
    twins = [one for one in scored if any(group["alone_accuracy"] is not None for group in one[1].values())]
    return (twins or scored)[-1]


def _bars(axes: Any, groups: Groups, colours: Mapping[str, str]) -> None:
    from matplotlib.patches import Patch

    kinds = [kind for kind in _KINDS if any(group[kind] is not None for group in groups.values())]
    thick = 0.72 / len(kinds)
    for at, (model, colour) in enumerate(colours.items()):
        group = groups.get(model, {})
        for place, kind in enumerate(kinds):
            if group.get(kind) is not None:
                y = at + (place - (len(kinds) - 1) / 2) * thick
                _bar(axes, y, thick * 0.92, group, kind, colour)
    axes.set_yticks(range(len(colours)), [text.clean(model)[:18] for model in colours], fontsize=9)
    for label, colour in zip(axes.get_yticklabels(), colours.values(), strict=True):
        label.set(color=colour, fontweight="bold")
    room = 0.6 if len(colours) > 1 else 0.9
    axes.set_ylim(len(colours) - 1 + room, -room)
    axes.grid(visible=False, axis="y")
    frame(axes, left=False)
    axes.set_xlim(0, 1.42)  # what is written behind a full bar needs room
    axes.set_xticks([0, 0.25, 0.5, 0.75, 1])
    percent_axis(axes.xaxis)
    axes.set_xlabel("test set, mean over sites", fontsize=9, color=GREY)
    if len(kinds) > 1:
        legend(axes, [Patch(fc=pale(GREY), lw=0, label="alone"), Patch(fc=GREY, lw=0, label="federated")])


def _bar(axes: Any, y: float, height: float, group: Mapping[str, Any], kind: str, colour: str) -> None:
    value, federated = group[kind], kind == "test_accuracy"
    axes.barh(y, value, height=height, color=colour if federated else pale(colour), lw=0)
    better = f"  {text.points(group['gain'])}" if federated and group["gain"] is not None else ""
    weight = "bold" if better else "normal"
    axes.text(value + 0.02, y, f"{value:.1%}{better}", va="center", fontsize=8, color="#333333", fontweight=weight)


def _curves(axes: Any, scored: Sequence[tuple[int, Groups]], colours: Mapping[str, str]) -> None:
    from matplotlib.lines import Line2D

    marker = "o" if len(scored) <= 25 else ""
    dashes = {"alone_accuracy": (0, (3, 1.5)), "test_accuracy": "-"}
    drawn = set()
    for model, colour in colours.items():
        for kind in _KINDS:
            points = [(number, group[model][kind]) for number, group in scored if model in group]
            points = [point for point in points if point[1] is not None]
            if points:
                faint = {"lw": 1.6, "alpha": 0.75} if kind == "alone_accuracy" else {"lw": 2.0, "marker": marker}
                axes.plot(*zip(*points, strict=True), color=colour, ls=dashes[kind], ms=3.5, **faint)
                drawn.add(kind)
    percent_axis(axes.yaxis)
    axes.set_xlabel("round", fontsize=9, color=GREY)
    round_axis(axes.xaxis, scored[0][0], scored[-1][0])
    axes.set_ylim(accuracy_limits(*axes.dataLim.intervaly))
    if len(drawn) > 1:
        names = (("alone", "alone_accuracy"), ("federated", "test_accuracy"))
        legend(axes, [Line2D([], [], color=GREY, lw=2, ls=dashes[kind], label=name) for name, kind in names])
