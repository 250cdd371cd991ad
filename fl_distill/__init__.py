"""Federated learning on Flower: averaging, distillation and quantized updates, any mix of models."""

from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

_here = Path(__file__).resolve().parent
if not (_here / "strategies").is_dir():
    # A checkout or a Flower bundle keeps `strategies/` and `conf/` beside this package, not inside it.
    __path__.append(str(_here.parent))

try:
    __version__ = version("fl-distill")
except PackageNotFoundError:  # a checkout or a bundle that was never installed
    __version__ = "0.1.0"
