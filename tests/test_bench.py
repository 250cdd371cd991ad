"""The parts of the benchmarks that need no time: what is made of what was measured."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import ROOT

BENCH = ROOT / "scripts" / "bench"


def plotted(folder: Path, *runs: dict[str, object]) -> subprocess.CompletedProcess[str]:
    (folder / "runs.jsonl").write_text("".join(json.dumps(run) + "\n" for run in runs), encoding="utf-8")
    command = [sys.executable, str(BENCH / "plot.py"), str(folder / "runs.jsonl"), str(folder / "plot.svg")]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


def run(case: str, repetition: int, seconds: float) -> dict[str, object]:
    return {"job": "J9", "case": case, "repetition": repetition, "per_round_median": seconds, "wall": 10 * seconds}


def test_the_plot_shows_ratios_within_a_repetition_and_no_path_of_this_machine(tmp_path: Path) -> None:
    failed = {"job": "J9", "case": "flower", "repetition": 1, "error": "it died"}
    slow_machine = [run("floor-2", 1, 5.0), run("fl-distill local", 1, 20.0)]
    another_run = [run("floor-2", 0, 10.0), run("pfl-1", 0, 70.0)]
    first = [run("floor-2", 0, 1.0), run("fl-distill local", 0, 4.0)]
    done = plotted(tmp_path, *first, *slow_machine, failed, *another_run)
    assert done.returncode == 0, done.stderr
    picture = (tmp_path / "plot.svg").read_text(encoding="utf-8")
    assert "<!-- 4.00 -->" in picture
    assert "<!-- 7.00 -->" in picture
    assert "<!-- fl-distill local -->" in picture
    assert "<!-- stock Flower -->" not in picture
    assert str(tmp_path) not in picture
    assert str(ROOT) not in picture
    before = picture.encode()
    plotted(tmp_path, *first, *another_run)
    assert (tmp_path / "plot.svg").read_bytes() == before, "the same numbers are the same file"


def test_a_plot_without_a_floor_is_refused(tmp_path: Path) -> None:
    assert "no case ran in the same repetition" in plotted(tmp_path, run("fl-distill local", 0, 4.0)).stderr


@pytest.mark.skipif(sys.platform != "linux", reason="what a process has is read from /proc")
def test_memory_that_a_process_shares_counts_mapped_or_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCH))
    from watch import watch  # type: ignore[import-not-found]

    size, bare = 30_000_000, "import os, time; time.sleep(0.2)"
    shared = f"import os; f = os.memfd_create('x'); os.posix_fallocate(f, 0, {size}); {bare}"
    none, some = (watch([sys.executable, "-c", code], os.environ, 30.0).peak for code in (bare, shared))
    assert 0.9 * size < some - none < 1.2 * size
