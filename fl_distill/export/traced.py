"""What both formats need before a model is traced."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor, nn

from ..quantize import folded, quantize_


def ready(model: nn.Module, precision: str | None, calibration: Tensor) -> nn.Module:
    """A copy of `model` to trace: BatchNorm folded, the weights as they run at `precision` (None: float32)."""
    plain = folded(deepcopy(model).cpu(), example(calibration))
    if precision is not None:
        quantize_(plain, precision, calibration)
    return plain.requires_grad_(False).eval()


def example(calibration: Tensor) -> Tensor:
    """Two examples to trace with: tracers take a batch of one for a constant."""
    return calibration[[0, -1]]


def any_batch() -> tuple[dict[int, Any]]:
    """That the number of examples is free."""
    return ({0: torch.export.Dim("batch", min=1)},)


@contextmanager
def without_notices() -> Iterator[None]:
    """Torch's own notices about its internals, which nobody here can act on; all other warnings pass."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="_check_is_size will be removed", category=FutureWarning)
        yield
