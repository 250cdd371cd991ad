"""A local training step of small models: one site after the other, and all of them as one stack; one core.

    python scripts/bench/stacks.py

Milliseconds a site and step, the least of several times: alone, and in stacks of 25.
"""

import time
from collections.abc import Callable

import torch
from torch import nn

from fl_distill import models
from fl_distill.data.types import Split
from fl_distill.learning import Lesson, Settings, fit, fit_together
from fl_distill.models.conv2d import own_convolutions

STEPS, SITES, TIMES, CLASSES = 2, 25, 5, 10
CASES: dict[str, tuple[Callable[..., nn.Module], tuple[int, ...]]] = {
    "linear, 8x8": (lambda shape, classes: models.mlp(shape, classes, hidden=[]), (1, 8, 8)),
    "mlp, 8x8": (models.mlp, (1, 8, 8)),
    "tabular, 13 columns": (models.tabular, (13,)),
    "cnn, 8x8": (models.cnn, (1, 8, 8)),
    "lenet, 28x28": (models.lenet, (1, 28, 28)),
    "cnn, 32x32": (models.cnn, (3, 32, 32)),
}
BATCHES = (8, 16, 32, 64)


def least(work: Callable[[], object]) -> float:
    """Milliseconds a site and step."""
    found = []
    for _ in range(TIMES + 1):  # the first time pays for what is made once
        began = time.perf_counter()
        work()
        found.append(time.perf_counter() - began)
    return 1e3 * min(found[1:]) / SITES / STEPS


def measured(name: str, batch: int) -> tuple[float, float]:
    make, shape = CASES[name]
    model, how = own_convolutions(make(shape, CLASSES)), Settings(batch_size=batch, steps=STEPS)
    draw = torch.Generator().manual_seed(0)
    x = torch.randn(STEPS * batch, *shape, generator=draw)
    data = Split(x, torch.randint(0, CLASSES, (len(x),), generator=draw))
    weights = {key: tensor.clone() for key, tensor in model.state_dict().items()}

    def alone() -> None:
        for _ in range(SITES):
            fit(model, data, how, draw)

    def together() -> None:
        fit_together(model, [Lesson(dict(weights), data, draw) for _ in range(SITES)], how)

    return least(alone), least(together)


def main() -> None:
    torch.set_num_threads(1)
    print("| model | " + " | ".join(f"batch {batch}" for batch in BATCHES) + " |\n|---|" + "---|" * len(BATCHES))
    for name in CASES:
        cells = ["{:.2f}, {:.2f}".format(*measured(name, batch)) for batch in BATCHES]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
