"""A local training step and a score of networks whose last convolutions see one pixel: as they are, and linear there.

    python scripts/bench/pixel.py

Milliseconds on one core, medians: a step of 32 examples, and the logits of 256.
"""

import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import nn

from fl_distill import models
from fl_distill.data.types import Split
from fl_distill.learning import Settings, fit, predict
from fl_distill.models.conv2d import own_convolutions
from fl_distill.runtime.memory import keep_freed_memory

SHAPE, STEPS, TIMES, CLASSES = (3, 32, 32), 2, 5, 10
CASES: dict[str, Callable[..., nn.Module]] = {
    "`resnet18`": partial(models.resnet18, small_stem=False),
    "`resnet34`": partial(models.resnet34, small_stem=False),
    "`resnet50`": partial(models.resnet50, small_stem=False),
    "`mobilenet_v2`": models.mobilenet_v2,
}


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - began)


def row(name: str) -> str:
    draw = torch.Generator().manual_seed(0)
    data = Split(torch.randn(256, *SHAPE, generator=draw), torch.randint(0, CLASSES, (256,), generator=draw))
    settings = Settings(lr=0.01, batch_size=32, steps=STEPS)
    both = [CASES[name](SHAPE, CLASSES), own_convolutions(CASES[name](SHAPE, CLASSES))]
    steps: list[list[float]] = [[], []]
    scores: list[list[float]] = [[], []]
    for _ in range(TIMES + 1):  # the first time pays for what is made once
        for at, model in enumerate(both):
            learn = partial(fit, model, data, settings, torch.Generator().manual_seed(0))
            steps[at].append(timed(learn) / STEPS)
            scores[at].append(timed(partial(predict, model, data.x)))
    cells = [", ".join(f"{statistics.median(times[1:]):.0f}" for times in kind) for kind in (steps, scores)]
    return f"| {name} | {' | '.join(cells)} |"


def main() -> None:
    torch.set_num_threads(1)
    keep_freed_memory()
    print("| model | a step | a score |\n|---|---|---|")
    for name in CASES:
        print(row(name), flush=True)


if __name__ == "__main__":
    main()
