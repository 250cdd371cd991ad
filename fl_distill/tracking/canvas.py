"""The look of all pictures: quiet axes, and colours that colour-blind readers tell apart (Okabe, Ito)."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

BLUE, ORANGE, GREEN, GREY = "#0072B2", "#E69F00", "#009E73", "#555555"
RED, PINK, SKY = "#D55E00", "#CC79A7", "#56B4E9"
FEW_SITES = 32
"""Up to here every site is written with its name."""


def figure(height: float = 4.5) -> tuple[Any, Any]:
    """A figure of 8 by `height` inches and its axes, made without pyplot."""
    picture, axes = panels((1.0,), height)
    return picture, axes[0]


def panels(widths: Sequence[float], height: float = 4.5) -> tuple[Any, list[Any]]:
    """The same with several axes beside each other, as wide as `widths` are in proportion."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    picture = Figure(figsize=(8.0, height), dpi=144, layout="constrained", facecolor="white")
    FigureCanvasAgg(picture)
    beside = list(picture.subplots(1, len(widths), width_ratios=list(widths), squeeze=False)[0])
    for axes in beside:
        axes.set_axisbelow(True)
        axes.grid(visible=True, color="#E4E4E4", lw=0.8)
        axes.tick_params(labelsize=9, colors=GREY, length=0)
        frame(axes)
    return picture, beside


def frame(axes: Any, *, left: bool = True, bottom: bool = True) -> None:
    """Show only the sides of the frame that carry an axis."""
    for side, shown in (("left", left), ("bottom", bottom), ("top", False), ("right", False)):
        axes.spines[side].set_visible(shown)
        axes.spines[side].set_color("#BBBBBB")


def percent_axis(axis: Any) -> None:
    """Write fractions as percentages, with decimals only where the range is narrow."""
    from matplotlib.ticker import PercentFormatter

    axis.set_major_formatter(PercentFormatter(1.0))


def accuracy_limits(low: float, high: float) -> tuple[float, float]:
    """Limits around accuracies, within 0 and 1 and at least a tenth wide: noise must not look like news."""
    middle, half = (low + high) / 2, max((high - low) / 2 * 1.08, 0.05)
    return max(0.0, min(middle - half, 0.9)), min(1.0, max(middle + half, 0.1)) + 0.004


def pale(colour: str) -> str:
    """The colour on its way to white, so that what is pale hides the grid too."""
    return "#" + "".join(f"{255 - round((255 - int(colour[at : at + 2], 16)) * 0.38):02X}" for at in (1, 3, 5))


def round_axis(axis: Any, first: int, last: int) -> None:
    """Whole rounds only, from the first to the last."""
    from matplotlib.ticker import MaxNLocator

    axis.set_major_locator(MaxNLocator(integer=True, nbins=10, min_n_ticks=1))
    margin = 0.02 * (last - first) or 0.5
    axis.axes.set_xlim(first - margin, last + margin)


def write_title(axes: Any, title: str, room: int = 26) -> None:
    """A title at the left, with room for the legend (in points) below it."""
    axes.set_title(title, loc="left", fontsize=12, fontweight="bold", color="#222222", pad=room)


def legend(axes: Any, handles: Sequence[Any] = ()) -> None:
    """The names of the lines, or of `handles`, in one row between title and picture, never over the data."""
    shown = axes.legend(
        handles=handles or axes.get_legend_handles_labels()[0], loc="lower left", bbox_to_anchor=(-0.01, 1.0),
        ncols=4, frameon=False, fontsize=8, borderaxespad=0.2, handlelength=1.7, columnspacing=1.4,
    )  # fmt: skip
    for label in shown.get_texts():
        label.set_color(GREY)


def save(picture: Any, path: Path) -> Path:
    """Write a PNG without the time of writing, so that the same rows give the same bytes."""
    picture.savefig(path, metadata={"Software": None})
    return path
