"""The picture of codecs: bytes and bits a number by round, and where in the model they went."""

from collections.abc import Sequence
from typing import Any

from . import text
from .canvas import BLUE, GREY, ORANGE, legend, panels, round_axis, write_title
from .coded import WAYS, Layers, bits, layers
from .observer import Row, Summary

_COLOURS = dict(zip(WAYS, (BLUE, ORANGE), strict=True))
_MOST = 20
"""So many tensors are drawn."""
_NEWS, _LABELS = 0.1, 6
"""Bits a number are written where they change by a tenth, unless they do so all the time."""


def by_codec(rows: Sequence[Row], summary: Summary) -> Any:
    """Bytes of each way by round with bits a number, and the largest tensors of the last message down.

    None where nothing was coded. Tensors are a panel where the summary knows them.
    """
    if all(bits(row, way) is None for row in rows for way in WAYS):
        return None
    largest = layers(summary)[:_MOST]
    height = min(max(3.8, 1.7 + 0.24 * len(largest)), 7.0)
    picture, axes = panels((1.0, 1.1) if largest else (1.0,), height)
    _traffic(axes[0], rows)
    if largest:
        _largest(axes[1], largest)
    return picture


def _traffic(axes: Any, rows: Sequence[Row]) -> None:
    numbers, marker = [row["round"] for row in rows], "o" if len(rows) <= 25 else ""
    for way, colour in _COLOURS.items():
        sent = [row[f"bytes_{way}"] for row in rows]
        axes.plot(numbers, sent, color=colour, label=way, lw=2, marker=marker, ms=4)
        for number, count, told in _changes(rows, way):
            inward = "right" if number == numbers[-1] else "left"
            above = {"xytext": (0, 6), "textcoords": "offset points", "ha": inward, "fontsize": 7}
            axes.annotate(f"{told:.1f} bits", (number, count), color=GREY, **above)
    axes.set_xlabel("round; written above the lines: bits a number", fontsize=9, color=GREY)
    round_axis(axes.xaxis, numbers[0], numbers[-1])
    _byte_axis(axes.yaxis)
    axes.set_ylim(0, 1.12 * max(axes.dataLim.ymax, 1))
    write_title(axes, "Bytes by round")
    legend(axes)


def _changes(rows: Sequence[Row], way: str) -> list[tuple[int, int, float]]:
    """Round, bytes and bits a number: of the first round, of the last, and of a few between where the bits changed."""
    known = [(row["round"], row[f"bytes_{way}"], found) for row in rows if (found := bits(row, way)) is not None]
    told = known[:1]
    for at in known[1:-1]:
        if abs(at[2] - told[-1][2]) > _NEWS * told[-1][2]:
            told.append(at)
    return [*(told if len(told) <= _LABELS else told[:1]), *known[1:][-1:]]


def _largest(axes: Any, largest: Layers) -> None:
    """A bar for each tensor, and behind it the error: none is written where the tensor was not coded."""
    from matplotlib.ticker import MaxNLocator

    axes.barh(range(len(largest)), [count for _, count, _ in largest], height=0.72, color=_COLOURS["down"], lw=0)
    for at, (_, count, nmse) in enumerate(largest):
        told = f"  {text.error(nmse)}" if nmse else ""
        axes.text(count, at, told, va="center", fontsize=7, color="#333333")
    names = [text.clean(name) for name, _, _ in largest]
    axes.set_yticks(range(len(largest)), [n if len(n) <= 28 else f"…{n[-27:]}" for n in names], fontsize=7)
    axes.set_ylim(len(largest) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=4))
    _byte_axis(axes.xaxis)
    axes.set_xlim(0, 1.25 * max(largest[0][1], 1))  # what is written behind the longest bar needs room
    axes.set_xlabel("bytes, and normalised squared error", fontsize=9, color=GREY)
    write_title(axes, "Largest tensors sent down")


def _byte_axis(axis: Any) -> None:
    axis.set_major_formatter(lambda count, _: text.size(count))
