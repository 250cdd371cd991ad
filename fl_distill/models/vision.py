"""torchvision's families, adapted to the channels, size and classes of the data.

Images under 64 pixels get a first convolution of stride 1 (3x3 and without max-pooling for ResNets), because
the original stem would leave next to nothing of them; `small_stem` decides otherwise. Dropout and stochastic
depth are off unless asked for. `weights` is a local safetensors file under torchvision's names or this
package's; see `load_weights`.
"""

import importlib
import math
from functools import partial
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from fl_distill.checks import positive
from fl_distill.errors import ConfigError
from fl_distill.models.classifier import Classifier
from fl_distill.models.residual import group_norm
from fl_distill.models.shapes import choice, image, patch_side, rate, size
from fl_distill.models.weights import load_weights

_SMALL = 64
_NORMS = {
    "batch": None,
    "group": group_norm,
}  # None: the family's own BatchNorm, whose settings differ between families


def _torchvision_models(name: str) -> Any:
    try:
        return importlib.import_module("torchvision.models")
    except (ImportError, RuntimeError, OSError) as error:  # the last two: built for another torch
        raise ConfigError(
            f"model {name} needs torchvision, which cannot be imported ({error}): install the release that "
            "matches your torch with `pip install torchvision`, or choose cnn, resnet8 or vit, which do without"
        ) from error


def _replace(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)


def _split(model: nn.Module) -> tuple[Classifier, str]:
    """The model as body and head, and the path that its last linear layer had."""
    path, head = [(path, m) for path, m in model.named_modules() if isinstance(m, nn.Linear)][-1]
    _replace(model, path, nn.Identity())
    return Classifier(model, head), path


def _adapt_stem(model: nn.Module, channels: int, small: bool) -> str:
    """Fit the first convolution to `channels`, with 3x3 windows at every pixel where `small`; its path."""
    path: str
    path, stem = next((path, m) for path, m in model.named_modules() if isinstance(m, nn.Conv2d))
    if small or channels != stem.in_channels:
        side, stride = (3, 1) if small else (stem.kernel_size[0], stem.stride[0])
        made = nn.Conv2d(channels, stem.out_channels, side, stride, padding=side // 2, bias=False)
        nn.init.kaiming_normal_(made.weight, mode="fan_out", nonlinearity="relu")
        _replace(model, path, made)
    return path


def _convolutional(
    name: str,
    input_shape: tuple[int, ...],
    classes: int,
    small_stem: bool | None,
    norm: str,
    weights: str | None,
    **params: float,
) -> Classifier:
    channels, height, width = image(name, input_shape)
    norm_layer = choice("norm", norm, _NORMS)
    make = getattr(_torchvision_models(name), name)
    model = make(weights=None, num_classes=size("classes", classes), norm_layer=norm_layer, **params)
    small = min(height, width) < _SMALL if small_stem is None else small_stem
    stem = _adapt_stem(model, channels, small)
    if small and hasattr(model, "maxpool"):
        model.maxpool = nn.Identity()
    return load_weights(*_split(model), [f"{stem}.weight"], weights)


def resnet18(
    input_shape: tuple[int, ...],
    classes: int,
    small_stem: bool | None = None,
    norm: str = "batch",
    weights: str | None = None,
) -> Classifier:
    """ResNet-18 (He et al. 2016): 11.2 million parameters."""
    return _convolutional("resnet18", input_shape, classes, small_stem, norm, weights)


def resnet34(
    input_shape: tuple[int, ...],
    classes: int,
    small_stem: bool | None = None,
    norm: str = "batch",
    weights: str | None = None,
) -> Classifier:
    """ResNet-34 (He et al. 2016): 21.3 million parameters."""
    return _convolutional("resnet34", input_shape, classes, small_stem, norm, weights)


def resnet50(
    input_shape: tuple[int, ...],
    classes: int,
    small_stem: bool | None = None,
    norm: str = "batch",
    weights: str | None = None,
) -> Classifier:
    """ResNet-50 (He et al. 2016): 23.5 million parameters."""
    return _convolutional("resnet50", input_shape, classes, small_stem, norm, weights)


def mobilenet_v2(
    input_shape: tuple[int, ...],
    classes: int,
    dropout: float = 0.0,
    small_stem: bool | None = None,
    norm: str = "batch",
    weights: str | None = None,
    width: float = 1.0,
) -> Classifier:
    """MobileNetV2 (Sandler et al. 2018): 2.2 million parameters.

    `width` multiplies the channels of every layer, in steps of 8; only the last keeps 1280 where it is below 1.
    """
    if not positive(width):
        raise ValueError(f"width must be a number above 0, got {width!r}")
    rest = {"dropout": rate("dropout", dropout), "width_mult": width}
    return _convolutional("mobilenet_v2", input_shape, classes, small_stem, norm, weights, **rest)


def mobilenet_v3_small(
    input_shape: tuple[int, ...],
    classes: int,
    dropout: float = 0.0,
    small_stem: bool | None = None,
    norm: str = "batch",
    weights: str | None = None,
) -> Classifier:
    """MobileNetV3 small (Howard et al. 2019): 1.5 million parameters."""
    rest = {"dropout": rate("dropout", dropout)}
    return _convolutional("mobilenet_v3_small", input_shape, classes, small_stem, norm, weights, **rest)


def mobilenet_v3_large(
    input_shape: tuple[int, ...],
    classes: int,
    dropout: float = 0.0,
    small_stem: bool | None = None,
    norm: str = "batch",
    weights: str | None = None,
) -> Classifier:
    """MobileNetV3 large (Howard et al. 2019): 4.2 million parameters."""
    rest = {"dropout": rate("dropout", dropout)}
    return _convolutional("mobilenet_v3_large", input_shape, classes, small_stem, norm, weights, **rest)


def efficientnet_b0(
    input_shape: tuple[int, ...],
    classes: int,
    dropout: float = 0.0,
    stochastic_depth: float = 0.0,
    small_stem: bool | None = None,
    norm: str = "batch",
    weights: str | None = None,
) -> Classifier:
    """EfficientNet-B0 (Tan and Le 2019): 4.0 million parameters."""
    rest = {
        "dropout": rate("dropout", dropout),
        "stochastic_depth_prob": rate("stochastic_depth", stochastic_depth),
    }
    return _convolutional("efficientnet_b0", input_shape, classes, small_stem, norm, weights, **rest)


def _pad(padding: tuple[int, int, int, int], _: nn.Module, args: tuple[Tensor]) -> Tensor:
    return F.pad(args[0], padding)


def vit_b_16(
    input_shape: tuple[int, ...], classes: int, dropout: float = 0.0, weights: str | None = None
) -> Classifier:
    """ViT-B/16 (Dosovitskiy et al. 2021): 86 million parameters.

    Patches of 16 pixels shrink where an image holds fewer than 8 a side; images are padded to a square of
    whole patches.
    """
    channels, height, width = image("vit_b_16", input_shape)
    patch = min(16, patch_side(height, width))
    side = math.ceil(max(height, width) / patch) * patch
    model = _torchvision_models("vit_b_16").VisionTransformer(
        image_size=side,
        patch_size=patch,
        num_layers=12,
        num_heads=12,
        hidden_dim=768,
        mlp_dim=3072,
        dropout=rate("dropout", dropout),
        num_classes=size("classes", classes),
    )
    if channels != 3:
        model.conv_proj = nn.Conv2d(channels, 768, patch, stride=patch)
        nn.init.trunc_normal_(model.conv_proj.weight, std=math.sqrt(1 / (channels * patch**2)))
        nn.init.zeros_(model.conv_proj.bias)
    adapted = ["conv_proj.weight", "encoder.pos_embedding"]
    classifier = load_weights(*_split(model), adapted, weights)
    # The padding goes in front as a hook, so that the tensors keep torchvision's names.
    classifier.body.register_forward_pre_hook(partial(_pad, (0, side - width, 0, side - height)))
    return classifier
