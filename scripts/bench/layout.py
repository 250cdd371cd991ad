"""A local training step and a score with images as they are, and channels last; one core.

    python scripts/bench/layout.py

Milliseconds, medians: a step of 32 examples, and the logits of 256.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial
from unittest.mock import patch

import torch
from torch import nn

from fl_distill import models
from fl_distill.data.types import Split
from fl_distill.learning import Settings, fit, layout, predict
from fl_distill.runtime.memory import keep_freed_memory

STEPS, TIMES, CLASSES = 2, 7, 10
CASES: dict[str, tuple[Callable[..., nn.Module], tuple[int, ...]]] = {
    "cnn, 8x8": (models.cnn, (1, 8, 8)),
    "lenet, 28x28": (models.lenet, (1, 28, 28)),
    "cnn, 32x32": (models.cnn, (3, 32, 32)),
    "resnet8, 32x32": (models.resnet8, (3, 32, 32)),
    "mobilenet_v2, 32x32": (models.mobilenet_v2, (3, 32, 32)),
    "vit, 32x32": (models.vit, (3, 32, 32)),
}


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - began)


def row(name: str) -> str:
    make, shape = CASES[name]
    draw = torch.Generator().manual_seed(0)
    data = Split(torch.randn(256, *shape, generator=draw), torch.randint(0, CLASSES, (256,), generator=draw))
    settings = Settings(lr=0.01, batch_size=32, steps=STEPS)
    model = make(shape, CLASSES)
    steps: list[list[float]] = [[], []]
    scores: list[list[float]] = [[], []]
    for _ in range(TIMES + 1):  # the first time pays for what is made once
        for at, convolutions in enumerate(((), layout._CONVOLUTIONS)):
            with patch.object(layout, "_CONVOLUTIONS", convolutions):
                learn = partial(fit, model, data, settings, torch.Generator().manual_seed(0))
                steps[at].append(timed(learn) / STEPS)
                scores[at].append(timed(partial(predict, model, data.x)))
    cells = [", ".join(f"{statistics.median(times[1:]):.2f}" for times in kind) for kind in (steps, scores)]
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    print("| model | a step | a score |\n|---|---|---|")
    for name in CASES:
        print(row(name), flush=True)


if __name__ == "__main__":
    main()
