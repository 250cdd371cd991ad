"""Time this package beside its peers on the common jobs, round robin, as ratios to bare PyTorch in two processes.

    python scripts/bench/run.py --bench ../shared/bench --jobs J1,J2,J3,K1md,K1ds --reps 5

Without `--bench` (or FL_DISTILL_BENCH) there are no jobs to run: the folder holds their definitions, the floor and the
peers. Every case runs in its own process with this interpreter, but pfl and NVFlare with that of their environment
under `--venvs` (or BENCH_VENVS) where there is one; PFLlib, which is no package, runs from a clone (`--pfllib`). A wall
time counts from spawn to exit. The table shows medians, and medians of ratios taken within a repetition, since absolute
seconds drift on shared machines.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
FLOOR = "floor-2"
KNOWLEDGE = {"K1md": ("J1", "--method", "fedmd"), "K1ds": ("J1", "--method", "dsfl")}
"""Jobs of this folder's own, which no peer has, and what `knowledge_floor.py` is asked to do of them."""


def cases(bench: Path, venvs: Path | None, pfllib: bool, job: str) -> dict[str, list[str]]:
    ours = [sys.executable, "-m", "fl_distill.cli", "--config-dir", str(HERE / "conf"), f"experiment={job}"]
    own = KNOWLEDGE.get(job)
    script = [str(HERE / "knowledge_floor.py"), *own] if own else [str(bench / "floor" / "floor.py"), job]
    peers = {"flower": [sys.executable, str(bench / "flower_stock" / "run_sim.py"), job], **others(bench, venvs, job)}
    if pfllib:
        peers["PFLlib"] = [sys.executable, str(HERE / "pfllib.py"), job]
    return {
        FLOOR: [sys.executable, *script, "--procs", "2"],
        "floor-1": [sys.executable, *script, "--procs", "1"],
        **({} if own else peers),
        "fl-distill local": [*ours, "runtime=local", "runtime.workers=2"],
        "fl-distill simulation": [*ours, "runtime=simulation"],
    }


def others(bench: Path, venvs: Path | None, job: str) -> dict[str, list[str]]:
    """The peers that have an environment of their own, as the folder's README runs them."""
    found: dict[str, list[str]] = {}
    if venvs is not None and (programs := venvs / "pfl" / "bin").is_dir():
        script = [str(bench / "pfl_peer" / "run.py"), job]
        two = [str(programs / "torchrun"), "--standalone", "--nnodes=1", "--nproc_per_node=2"]
        found["pfl-1"] = ["env", "OMP_NUM_THREADS=1", str(programs / "python"), *script]
        found["pfl-2"] = ["env", "OMP_NUM_THREADS=1", *two, *script]
    if venvs is not None and (program := venvs / "nvflare" / "bin" / "python").exists():
        found["nvflare"] = [str(program), str(bench / "nvflare_peer" / "run.py"), job, "--threads", "10"]
    return found


def timed(command: list[str], job: str, paths: Sequence[Path], timeout: float) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "out.json"
        every = filter(None, [*map(str, paths), os.environ.get("PYTHONPATH", "")])
        env = os.environ | {"BENCH_OUT": str(out), "BENCH_JOB": job, "PYTHONPATH": os.pathsep.join(every)}
        if "fl_distill.cli" in command:
            command = [*command, f"hydra.run.dir={folder}/run"]
        began = time.perf_counter()
        try:
            done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout, check=False)
        except subprocess.TimeoutExpired:
            return {"error": f"longer than {timeout:g} s"}
        wall = time.perf_counter() - began
        if done.returncode or not out.exists():
            return {"error": (done.stderr or done.stdout)[-400:]}
        return {"wall": wall, **json.loads(out.read_text(encoding="utf-8"))}


def table(results: dict[str, list[dict[str, Any]]], job: str) -> str:
    lines = [
        f"\n**{job}**\n",
        f"| case | per round s | wall s | per round / {FLOOR} | wall / {FLOOR} | accuracy |",
        "|---|---|---|---|---|---|",
    ]
    floors = results.get(FLOOR, [])
    for name, runs in results.items():
        good = [run for run in runs if "error" not in run]
        if not good:
            lines.append(f"| {name} | failed: {runs[-1]['error'].splitlines()[-1] if runs else 'not run'} | | | | |")
            continue
        pairs = [(r, f) for r, f in zip(runs, floors, strict=False) if "error" not in r and "error" not in f]
        cells = [statistics.median(run[key] for run in good) for key in ("per_round_median", "wall")]
        ratios = [
            f"{statistics.median(r[key] / f[key] for r, f in pairs):.2f}" if pairs else ""
            for key in ("per_round_median", "wall")
        ]
        accuracy = statistics.median(run["acc_final"] for run in good)
        lines.append(f"| {name} | {cells[0]:.3f} | {cells[1]:.2f} | {ratios[0]} | {ratios[1]} | {accuracy:.3f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--bench", type=Path, default=os.environ.get("FL_DISTILL_BENCH"), help="folder of jobs and peers"
    )
    parser.add_argument("--venvs", type=Path, default=os.environ.get("BENCH_VENVS"), help="environments of peers")
    parser.add_argument("--pfllib", type=Path, default=os.environ.get("BENCH_PFLLIB"), help="a clone of PFLlib")
    parser.add_argument("--jobs", default="J1,J2,J3")
    parser.add_argument("--reps", type=int, default=5)
    parser.add_argument("--only", default="", help="parts of the names of cases to run beside the floor, with commas")
    parser.add_argument("--timeout", type=float, default=300)
    parser.add_argument("--out", type=Path, help="append every run to this JSON-lines file")
    options = parser.parse_args()
    if options.bench is None:
        parser.error("--bench: the folder with common/fljobs.py, floor/ and flower_stock/ is needed")
    bench, venvs = options.bench.resolve(), options.venvs.absolute() if options.venvs else None
    paths = [HERE, HERE.parents[1], bench / "common"]
    if options.pfllib:
        paths.append(options.pfllib.resolve() / "system")
    parts = options.only.split(",")
    for job in options.jobs.split(","):
        every = cases(bench, venvs, bool(options.pfllib), job)
        chosen = {n: c for n, c in every.items() if n == FLOOR or any(part in n for part in parts)}
        results: dict[str, list[dict[str, Any]]] = {name: [] for name in chosen}
        for repetition in range(options.reps):
            for name, command in chosen.items():
                run = timed(command, job, paths, options.timeout)
                results[name].append(run)
                note = {**run, "job": job, "case": name, "repetition": repetition}
                print(json.dumps(note), file=sys.stderr, flush=True)
                if options.out:
                    with options.out.open("a", encoding="utf-8") as file:
                        file.write(json.dumps(note) + "\n")
        print(table(results, job), flush=True)


if __name__ == "__main__":
    main()
