"""A `torch.export` program with small weights: torch alone loads and runs it."""

from pathlib import Path
from typing import final

import torch
from torch import Tensor, nn

from ..quantize import Stored
from .measure import Run
from .traced import any_batch, example, ready, without_notices


@final
class Pt2File:
    """`torch.export.load(path).module()(x)`: int8 or float16 weights that become float32 in the graph."""

    needs: tuple[str, ...] = ()

    @staticmethod
    def write(model: nn.Module, precision: str | None, calibration: Tensor, path: Path) -> None:
        """Save `model` at `precision` (None: float32) to `path`."""
        stored = Stored(ready(model, precision, calibration), precision)
        with without_notices(), torch.no_grad():
            shapes = any_batch()
            program = torch.export.export(stored, (example(calibration),), dynamic_shapes=shapes, strict=False)
            torch.export.save(program, path)

    @staticmethod
    def load(path: Path) -> Run:
        """The saved program as a function."""
        module = torch.export.load(path).module()

        @torch.no_grad()
        def run(x: Tensor) -> Tensor:
            scores: Tensor = module(x)
            return scores

        return run
