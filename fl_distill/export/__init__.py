"""A trained model as a file that runs without this package, and what such a file does, measured."""

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from torch import Tensor, nn

from .measure import Measured, Run, measured
from .onnx_file import OnnxFile
from .pt2_file import Pt2File


class Format(Protocol):
    """One kind of file."""

    needs: tuple[str, ...]
    """Packages that are no dependency of this one."""

    def write(self, model: nn.Module, precision: str | None, calibration: Tensor, path: Path) -> None:
        """Save `model`, which stays as it is, at `precision` (None: float32); `calibration` is (N, …)."""
        ...

    def load(self, path: Path) -> Run:
        """A saved file as a function."""
        ...


FORMATS: Mapping[str, Format] = {"onnx": OnnxFile(), "pt2": Pt2File()}

__all__ = ["FORMATS", "Format", "Measured", "OnnxFile", "Pt2File", "measured"]
