"""What a run costs by its number of sites and the size of its model, a message, and a run's start and end.

    python scripts/bench/scaling.py sites --runtime local simulation
    python scripts/bench/scaling.py sizes
    python scripts/bench/scaling.py message
    python scripts/bench/scaling.py start --runtime local simulation

Every run is a process of its own: FedAvg, one step on eight random images of 8x8 pixels at each site. A round is the
median of those after the first, with the evaluation at the server and its line in the log. Memory is the server's own,
see `watch.py`, at its peak, sampled.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from watch import watch

HERE = Path(__file__).resolve().parent
WIDTHS = {"40k": 166, "400k": 594, "4M": 1963, "11M": 3279, "45M": 6671, "90M": 9450}
"""Units of each of two hidden layers, by parameters."""
Found = dict[str, Any]


def one(options: argparse.Namespace, runtime: str, *overrides: str, imports: bool = False) -> Found:
    """A run and what was seen of it; its marks are seconds since it began."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        paths = [str(HERE), str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")]
        env = os.environ | {"BENCH_OUT": str(out), "PYTHONPATH": os.pathsep.join(filter(None, paths))}
        python = [sys.executable, *(["-X", "importtime"] if imports else []), "-m", "fl_distill.cli"]
        how = [f"runtime={runtime}", *(["runtime.workers=2"] if runtime == "local" else []), *overrides]
        place = ["--config-dir", str(HERE / "conf"), "experiment=toy", f"hydra.run.dir={folder}/run"]
        seen = watch([*python, *place, *how], env, options.timeout, family=options.what == "start")
        if seen.status or not out.exists():
            raise SystemExit(f"{' '.join(how)} failed:\n{seen.errors[-2000:]}")
        found: Found = json.loads(out.read_text(encoding="utf-8"))
    for mark in ("data", "started", "rounds over", "finished"):
        found[mark] -= seen.began
    lives = [(born - seen.began, last - seen.began) for born, last in seen.children.values()]
    workers = [born for born, last in lives if found["data"] < born < found["started"] < last] or [0.0]
    found |= {"runtime": runtime, "how": overrides, "wall": seen.ended - seen.began, "peak": seen.peak}
    found |= {"first process": min(workers), "last process": max(workers)}
    found |= {"imports": imported(seen.errors)} if imports else {"round": statistics.median(found["rounds"][1:] or [0])}
    if options.out:
        with options.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"what": options.what, **found}) + "\n")
    return found


def imported(errors: str) -> float:
    """Seconds spent in the imports that `-X importtime` lists."""
    rows = [line.split(":", 1)[1].split("|")[0] for line in errors.splitlines() if line.startswith("import time:")]
    return sum(int(row) for row in rows if row.strip().isdigit()) / 1e6


def median(options: argparse.Namespace, runtime: str, *overrides: str) -> Found:
    """The median of each number over the repetitions."""
    runs = [one(options, runtime, *overrides) for _ in range(options.reps)]
    return {
        key: statistics.median(run[key] for run in runs) if isinstance(value, int | float) else value
        for key, value in runs[0].items()
    }


def head(*cells: str) -> None:
    print(f"| {' | '.join(cells)} |\n|{'---|' * len(cells)}", flush=True)


def line(*cells: object) -> None:
    print(f"| {' | '.join(map(str, cells))} |", flush=True)


def sites(options: argparse.Namespace) -> None:
    """By the number of sites; the first is what memory is compared with."""
    head("runtime", "sites", "asked", "round s", "ms a site", "server MB", "kB a further site")
    for runtime in options.runtime:
        least: Found = {}
        for count in options.sites:
            asked = max(1, round(count * options.fraction))
            how = [f"dataset.sites={count}", f"collect.fraction={options.fraction}", f"model={options.model}"]
            found = median(options, runtime, *how)
            least = least or found | {"sites": count}
            further = (found["peak"] - least["peak"]) / max(1, count - least["sites"]) / 1e3
            cells = [f"{found['round']:.3f}", f"{1e3 * found['round'] / asked:.2f}", f"{found['peak'] / 1e6:.0f}"]
            line(runtime, count, asked, *cells, f"{further:.1f}" if found["peak"] != least["peak"] else "")


def sizes(options: argparse.Namespace) -> None:
    """By the size of the model; memory in models beyond that of the smallest."""
    head("runtime", "parameters", "MB", "round s", "MB/s moved", "server MB", "models")
    for runtime in options.runtime:
        least: Found = {}
        for name in options.sizes:
            found = median(options, runtime, "model=mlp", f"model.hidden=[{WIDTHS[name]},{WIDTHS[name]}]")
            moved = (found["bytes_up"] + found["bytes_down"]) / len(found["rounds"])
            found["model"] = moved / 20
            least = least or found
            more = found["model"] - least["model"]
            models = f"{(found['peak'] - least['peak']) / more:.1f}" if more else ""
            cells = [f"{found['model'] / 1e6:.2f}", f"{found['round']:.3f}", f"{moved / found['round'] / 1e6:.0f}"]
            line(runtime, name, *cells, f"{found['peak'] / 1e6:.0f}", models)


def message(options: argparse.Namespace) -> None:
    """What one site more costs a round, between a hundred and a thousand, on a linear model."""
    head("runtime", "round of 100 s", "round of 1000 s", "ms a message")
    for runtime in options.runtime:
        few, many = (median(options, runtime, "model=linear", f"dataset.sites={count}") for count in (100, 1000))
        slope = (many["round"] - few["round"]) / 900
        line(runtime, f"{few['round']:.3f}", f"{many['round']:.3f}", f"{1e3 * slope:.3f}")


def start(options: argparse.Namespace) -> None:
    """A run of one round by phase; imports are those of the server, wherever in the run, from a run with a clock."""
    head("phase", *options.runtime)
    runs = [median(options, runtime, "rounds=1") for runtime in options.runtime]
    timed = [one(options, runtime, "rounds=1", imports=True)["imports"] for runtime in options.runtime]
    phases: dict[str, tuple[str, str]] = {
        "process and configuration": ("", "data"),
        "data, until the first worker begins": ("data", "first process"),
        "until the last process has begun": ("first process", "last process"),
        "until the sites are known": ("last process", "started"),
        "the round": ("started", "rounds over"),
        "models and summary": ("rounds over", "finished"),
        "exit": ("finished", "wall"),
        "all": ("", "wall"),
    }
    for name, (begin, end) in phases.items():
        line(name, *(f"{run[end] - run.get(begin, 0.0):.2f}" for run in runs))
    line("imports among these, slowed by their clock", *(f"{seconds:.2f}" for seconds in timed))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("sites", "sizes", "message", "start"))
    parser.add_argument("--runtime", nargs="+", default=["local"], choices=("local", "simulation"))
    parser.add_argument("--sites", type=int, nargs="+", default=[10, 50, 200, 1000, 2000])
    parser.add_argument("--fraction", type=float, default=1.0, help="part of the sites asked each round")
    parser.add_argument("--model", default="cnn")
    parser.add_argument("--sizes", nargs="+", default=list(WIDTHS), choices=list(WIDTHS))
    parser.add_argument("--reps", type=int, default=1)
    parser.add_argument("--timeout", type=float, default=300)
    parser.add_argument("--out", type=Path, help="append every run to this JSON-lines file")
    options = parser.parse_args()
    {"sites": sites, "sizes": sizes, "message": message, "start": start}[options.what](options)


if __name__ == "__main__":
    main()
