"""Draw what `run.py --out FILE` has noted: each case's round and wall time, as multiples of bare PyTorch's.

    python scripts/bench/plot.py runs.jsonl docs/performance.svg

Medians of ratios that were taken within a repetition; of a case without any, nothing is drawn.
"""

import json
import statistics
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from run import FLOOR

KINDS = {"per_round_median": "a round", "wall": "the whole run, start to exit"}
COLOURS = {  # of Okabe and Ito (the yellow of Tol's), which everybody can tell apart
    "nvflare": "#CC79A7",
    "flower": "#D55E00",
    "PFLlib": "#CCBB44",
    "pfl-1": "#56B4E9",
    "pfl-2": "#009E73",
    "fl-distill simulation": "#E69F00",
    "fl-distill local": "#0072B2",
    "floor-1": "#999999",
}
NAMES = {
    "nvflare": "NVFlare",
    "flower": "stock Flower",
    "pfl-1": "pfl, one process",
    "pfl-2": "pfl, two processes",
    "floor-1": "bare PyTorch, one process",
}
TICKS = (0.5, 1, 2, 5, 10, 20, 50)

Ratios = dict[tuple[str, str, str], float]


def ratios(runs: Iterable[Mapping[str, Any]]) -> Ratios:
    """The median ratio to the floor by job, case and kind of time; the floor comes first in each repetition."""
    floors: dict[str, Mapping[str, Any]] = {}
    found: dict[tuple[str, str, str], list[float]] = {}
    for run in runs:
        job, case = run["job"], run["case"]
        if case == FLOOR:
            floors[job] = run
            continue
        floor = floors.get(job)
        if floor is None or floor["repetition"] != run["repetition"] or "error" in run or "error" in floor:
            continue
        for kind in KINDS:
            found.setdefault((job, case, kind), []).append(run[kind] / floor[kind])
    return {key: statistics.median(values) for key, values in found.items()}


def draw(found: Ratios, file: Path) -> None:
    """One panel for each kind of time, a group for each job, a bar for each case; the floor is the line at 1."""
    jobs = sorted({job for job, _, _ in found})
    cases = [case for case in COLOURS if any(case == other for _, other, _ in found)]
    width = 0.88 / max(1, len(cases))
    plt.rcParams.update(
        {"svg.hashsalt": "bench", "font.size": 10, "axes.spines.top": False, "axes.spines.right": False}
    )
    figure, panels = plt.subplots(len(KINDS), 1, figsize=(11, 6), layout="constrained")
    for panel, (kind, title) in zip(panels, KINDS.items(), strict=True):
        for at, case in enumerate(cases):
            bars = [(place, found[job, case, kind]) for place, job in enumerate(jobs) if (job, case, kind) in found]
            places = [place + (at - (len(cases) - 1) / 2) * width for place, _ in bars]
            heights = [height for _, height in bars]
            panel.bar(places, [height - 1 for height in heights], 0.9 * width, 1, color=COLOURS[case], label=case)
            for place, height in zip(places, heights, strict=True):
                panel.annotate(
                    f"{height:.1f}" if height >= 10 else f"{height:.2f}",
                    (place, max(height, 1)),
                    (0, 2),
                    textcoords="offset points",
                    ha="center",
                    fontsize=7,
                )
        panel.axhline(1, color="black", linewidth=1)
        panel.set(yscale="log", xticks=range(len(jobs)), xticklabels=jobs, title=title)
        panel.yaxis.set_major_locator(FixedLocator(TICKS))
        panel.yaxis.set_minor_locator(NullLocator())
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}×"))
        panel.tick_params(axis="x", length=0)
        panel.margins(y=0.1)
        panel.grid(axis="y", color="#dddddd", linewidth=0.6)
        panel.set_axisbelow(True)
    figure.supylabel("bare PyTorch, two processes = 1", fontsize=10)
    handles, labels = panels[0].get_legend_handles_labels()
    names = [NAMES.get(label, label) for label in labels]
    figure.legend(handles, names, loc="outside lower center", ncols=min(4, len(names)), frameon=False)
    figure.savefig(file, metadata={"Date": None, "Creator": None})
    plt.close(figure)


def main() -> None:
    if len(sys.argv) != 3:
        raise SystemExit(__doc__)
    lines = Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()
    found = ratios(json.loads(line) for line in lines if line.strip())
    if not found:
        raise SystemExit(f"{sys.argv[1]}: no case ran in the same repetition as {FLOOR}")
    draw(found, Path(sys.argv[2]))


if __name__ == "__main__":
    main()
