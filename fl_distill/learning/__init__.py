"""Local training, evaluation and loss terms: PyTorch and nothing else."""

from .fit import Diverged, Score, Term, Trained, evaluate, fit, full_gradient, predict, trainable
from .settings import Settings
from .terms import proximal

__all__ = [
    "Diverged",
    "Score",
    "Settings",
    "Term",
    "Trained",
    "evaluate",
    "fit",
    "full_gradient",
    "predict",
    "proximal",
    "trainable",
]
