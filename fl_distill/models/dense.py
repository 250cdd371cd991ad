"""Fully connected models."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from fl_distill.models.classifier import Classifier, with_linear_head
from fl_distill.models.shapes import flat, rate, sizes


def mlp(input_shape: tuple[int, ...], classes: int, hidden: Sequence[int] = (128, 64)) -> Classifier:
    """A plain perceptron on flattened images or tables; `hidden=[]` is multinomial logistic regression."""
    widths = [flat(input_shape), *sizes("hidden", hidden)]
    layers = [layer for i, o in pairwise(widths) for layer in (nn.Linear(i, o), nn.ReLU())]
    return with_linear_head(nn.Sequential(nn.Flatten(), *layers), widths[-1], classes)


def tabular(
    input_shape: tuple[int, ...], classes: int, hidden: Sequence[int] = (64, 64), dropout: float = 0.0
) -> Classifier:
    """A perceptron for tables: every hidden layer is normalised over its own units.

    LayerNorm keeps no running statistics, so none are averaged over sites whose tables differ, and a batch of
    one example works.
    """
    if len(input_shape) != 1:
        raise ValueError(f"tabular takes rows of a table, shape (columns,), got {tuple(input_shape)}: use mlp or cnn")
    widths = [flat(input_shape), *sizes("hidden", hidden)]
    drop = rate("dropout", dropout)
    layers = [
        layer for i, o in pairwise(widths) for layer in (nn.Linear(i, o), nn.LayerNorm(o), nn.ReLU(), nn.Dropout(drop))
    ]
    return with_linear_head(nn.Sequential(*layers), widths[-1], classes)
