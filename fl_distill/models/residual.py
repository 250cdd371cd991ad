"""The small residual network of the federated distillation literature."""

import math
from collections.abc import Callable
from typing import final

from torch import Tensor, nn
from torch.nn import functional as F

from fl_distill.models.classifier import Classifier, with_linear_head
from fl_distill.models.shapes import choice, image, size


def group_norm(channels: int) -> nn.Module:
    """GroupNorm with eight groups, or as many as divide `channels`."""
    return nn.GroupNorm(math.gcd(channels, 8), channels)


_NORMS: dict[str, Callable[[int], nn.Module]] = {"batch": nn.BatchNorm2d, "group": group_norm}


@final
class _Residual(nn.Module):
    """Two 3x3 convolutions around a shortcut; the shortcut is projected where the shape changes."""

    def __init__(self, inputs: int, outputs: int, stride: int, norm: str) -> None:
        super().__init__()
        make = choice("norm", norm, _NORMS)
        self.body = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False),
            make(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, padding=1, bias=False),
            make(outputs),
        )
        same = stride == 1 and inputs == outputs
        self.shortcut = (
            nn.Identity() if same else nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride, bias=False), make(outputs))
        )

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + self.shortcut(x))


@final
class _PixelMean(nn.Module):
    """(batch, channels, height, width) -> (batch, channels)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=(2, 3))


def resnet8(input_shape: tuple[int, ...], classes: int, width: int = 16, norm: str = "batch") -> Classifier:
    """The CIFAR ResNet-8 of FedDF (Lin et al. 2020): one block in each of three stages, 78,042 parameters.

    `norm=group` keeps no running statistics and takes batches of one example, which `batch` may not.
    """
    channels, _, _ = image("resnet8", input_shape)
    size("width", width)
    body = nn.Sequential(
        nn.Conv2d(channels, width, 3, padding=1, bias=False),
        choice("norm", norm, _NORMS)(width),
        nn.ReLU(),
        _Residual(width, width, 1, norm),
        _Residual(width, 2 * width, 2, norm),
        _Residual(2 * width, 4 * width, 2, norm),
        _PixelMean(),
    )
    for module in body.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
    return with_linear_head(body, 4 * width, classes)
