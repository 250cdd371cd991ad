"""Local training, evaluation and loss terms: PyTorch and nothing else."""

from .class_targets import class_target_loss, prototype_loss
from .fit import Diverged, Score, Term, Trained, evaluate, fit, full_gradient, predict, trainable
from .losses import (
    attention_distance,
    attention_map,
    digest_loss,
    distillation,
    mean_squared,
    taught,
    taught_target,
)
from .settings import Settings
from .terms import on_public, proximal

__all__ = [
    "Diverged",
    "Score",
    "Settings",
    "Term",
    "Trained",
    "attention_distance",
    "attention_map",
    "class_target_loss",
    "digest_loss",
    "distillation",
    "evaluate",
    "fit",
    "full_gradient",
    "mean_squared",
    "on_public",
    "predict",
    "prototype_loss",
    "proximal",
    "taught",
    "taught_target",
    "trainable",
]
