"""What a saved model does: its accuracy, its size, its latency."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import final

import torch
from torch import Tensor

from ..data.types import Split

Run = Callable[[Tensor], Tensor]
"""Examples (N, …) to scores (N, classes)."""
BATCH = 256


@final
@dataclass(frozen=True)
class Measured:
    """One file: accuracy in [0, 1] (NaN without examples), bytes on disk, median milliseconds for one example."""

    path: Path
    accuracy: float
    size: int
    latency_ms: float


def measured(path: Path, run: Run, test: Split, example: Tensor, runs: int) -> Measured:
    """Run the file at `path` on all of `test`, then warm, and `runs` times on the one `example`."""
    batches = zip(torch.split(test.x, BATCH), torch.split(test.y, BATCH), strict=True)
    right = sum(int((run(x).argmax(1) == y).sum().item()) for x, y in batches if len(y))
    accuracy = right / len(test) if len(test) else float("nan")
    for _ in range(max(1, runs // 10)):
        run(example)
    return Measured(path, accuracy, path.stat().st_size, 1000 * median(_seconds(run, example) for _ in range(runs)))


@torch.inference_mode()
def _seconds(run: Run, example: Tensor) -> float:
    began = time.perf_counter()
    run(example)
    return time.perf_counter() - began
