"""One width of features for every architecture, so that what is measured on features can be exchanged."""

import torch
from torch import nn

from fl_distill.models.classifier import Classifier, with_linear_head
from fl_distill.models.shapes import size


def projected(model: nn.Module, width: int, classes: int, input_shape: tuple[int, ...]) -> Classifier:
    """`model`'s body, a linear map to `width` features, and a new linear head: f(x) = P body(x) + b, (batch, width).

    The body is shared with `model`, the new layers draw from torch's global generator. The projection has no
    nonlinearity, so that prototypes may lie anywhere. Raises ValueError where `model` is no `Classifier`.
    Source: Tan et al. 2022 (FedProto, heterogeneous models), arXiv 2105.00243.
    """
    if not isinstance(model, Classifier):
        raise ValueError(
            f"features can be projected where a model is a fl_distill.models.Classifier, not {type(model).__name__}: "
            "return Classifier(body, head) from your builder"
        )
    inputs = _feature_width(model, input_shape)
    body = nn.Sequential(model.body, nn.Linear(inputs, size("width", width)))
    return with_linear_head(body, width, classes)


@torch.no_grad()
def _feature_width(model: Classifier, input_shape: tuple[int, ...]) -> int:
    """The width of what the body gives; running statistics, modes and random state stay as they are."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        seen = model.eval().features(torch.zeros(2, *input_shape))
    finally:
        for module, training in modes:
            module.training = training
    if seen.dim() != 2:
        raise ValueError(
            f"features to project must have shape (batch, width), got {tuple(seen.shape)} for two examples"
        )
    return seen.shape[1]
