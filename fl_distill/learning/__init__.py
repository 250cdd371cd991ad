"""Local training, evaluation and loss terms: PyTorch and nothing else."""

from .fit import Diverged, Score, Term, Trained, evaluate, fit, full_gradient, predict, trainable
from .losses import digest_loss, distillation
from .settings import Settings
from .terms import proximal

__all__ = [
    "Diverged",
    "Score",
    "Settings",
    "Term",
    "Trained",
    "digest_loss",
    "distillation",
    "evaluate",
    "fit",
    "full_gradient",
    "predict",
    "proximal",
    "trainable",
]
