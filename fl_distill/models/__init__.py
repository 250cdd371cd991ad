"""Model builders: each takes an input shape and a number of classes, and returns a module ending in its head.

A builder is called as `builder(input_shape, classes, **params)`; `fl_distill.models.build` does so from a
configuration.
Every model here is a `Classifier`: `model(x)` is `model.head(model.features(x))`.
"""

from fl_distill.models.attention import vit
from fl_distill.models.classifier import Classifier
from fl_distill.models.convolution import cnn, lenet
from fl_distill.models.dense import mlp, tabular
from fl_distill.models.recurrent import gru
from fl_distill.models.residual import resnet8
from fl_distill.models.vision import (
    efficientnet_b0,
    mobilenet_v2,
    mobilenet_v3_large,
    mobilenet_v3_small,
    resnet18,
    resnet34,
    resnet50,
    vit_b_16,
)

__all__ = [
    "Classifier",
    "cnn",
    "efficientnet_b0",
    "gru",
    "lenet",
    "mlp",
    "mobilenet_v2",
    "mobilenet_v3_large",
    "mobilenet_v3_small",
    "resnet8",
    "resnet18",
    "resnet34",
    "resnet50",
    "tabular",
    "vit",
    "vit_b_16",
]
