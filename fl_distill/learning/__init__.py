"""Local training, evaluation and loss terms: PyTorch and nothing else."""

from .class_targets import class_target_loss, prototype_loss
from .fit import Diverged, Term, Trained, fit, full_gradient, trainable
from .losses import (
    attention_distance,
    attention_map,
    digest_loss,
    distillation,
    mean_squared,
    taught,
    taught_target,
)
from .scoring import Score, evaluate, predict
from .settings import Settings
from .terms import on_public, proximal
from .together import Lesson, can_be_stacked, fit_together, pays

__all__ = [
    "Diverged",
    "Lesson",
    "Score",
    "Settings",
    "Term",
    "Trained",
    "attention_distance",
    "attention_map",
    "can_be_stacked",
    "class_target_loss",
    "digest_loss",
    "distillation",
    "evaluate",
    "fit",
    "fit_together",
    "full_gradient",
    "mean_squared",
    "on_public",
    "pays",
    "predict",
    "prototype_loss",
    "proximal",
    "taught",
    "taught_target",
    "trainable",
]
