"""The common benchmark jobs as a dataset and a model of this package: same data, split and network as the peers'.

The definitions live in `common/fljobs.py` of the benchmark folder (see `run.py`), on PYTHONPATH.
"""

import json
import os
import statistics
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import fljobs  # type: ignore[import-not-found]
import torch
from torch import nn
from toy import AsStored

from fl_distill.data.types import Source, Split
from fl_distill.tracking import Observer


@dataclass(frozen=True)
class JobData:
    """One job's data; its clients are natural sites."""

    job: str

    def load(self) -> Source:
        kind = fljobs.JOBS[self.job].model
        x, y, test_x, test_y = fljobs.load_xy(kind)
        owners = [""] * len(y)
        for client, rows in enumerate(fljobs.split(self.job)):
            for row in rows:
                owners[row] = f"site-{client:04d}"
        test = Split(test_x, test_y)
        classes = tuple(str(c) for c in range(10))
        return Source(Split(x, y), test, classes, AsStored(), tuple(owners), image=True)


def network(input_shape: tuple[int, ...], classes: int, *, job: str) -> nn.Module:
    """The job's network."""
    model: nn.Module = fljobs.make_model(fljobs.JOBS[job].model)
    return model


class Clock(Observer):
    """Marks the ends of rounds and prints the line that the peers print."""

    def __init__(self) -> None:
        self._start = fljobs.process_start()
        self._ends: list[float] = []
        self._accuracy: list[float] = []

    def round_done(self, row: dict[str, Any]) -> None:
        self._ends.append(time.time() - self._start)
        accuracy = row["server_accuracy"] if row["server_accuracy"] is not None else row["test_accuracy"]
        self._accuracy.append(accuracy or 0.0)

    def finished(self, summary: dict[str, Any], status: str) -> None:
        gaps = [b - a for a, b in pairwise(self._ends)]
        result = {
            "peer": "fl-distill",
            "first_round_end": self._ends[0],
            "per_round_median": statistics.median(gaps),
            "per_round": gaps,
            "acc_final": self._accuracy[-1],
            "torch": torch.__version__,
        }
        if path := os.environ.get("BENCH_OUT"):
            Path(path).write_text(json.dumps(result), encoding="utf-8")
        print("RESULT", json.dumps(result), flush=True)
