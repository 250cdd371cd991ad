"""BatchNorm as a part of the layer before it."""

import copy
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval, fuse_linear_bn_eval

_Norm = nn.modules.batchnorm._BatchNorm


@torch.no_grad()
def folded(model: nn.Module, example: Tensor) -> nn.Module:
    """A copy in evaluation mode whose convolutions hold the BatchNorm behind them: W' = W g / sigma, per channel.

    b' = beta + (b - mu) g / sigma, sigma = sqrt(var + eps) (Jacob et al. 2018, arXiv 1712.05877, section 3.2).
    Neighbours by module structure are candidates; a pair stays as it was where folding it changes what the model says
    of `example`.
    """
    model = copy.deepcopy(model).eval()
    before = model(example)
    for parent, first, second in list(_pairs(model)):
        layer, norm = getattr(parent, first), getattr(parent, second)
        setattr(parent, first, _fused(layer, norm))
        setattr(parent, second, nn.Identity())
        if not torch.allclose(model(example), before, rtol=1e-3, atol=1e-4 * float(before.abs().max())):
            setattr(parent, first, layer)
            setattr(parent, second, norm)
    return model


def _pairs(model: nn.Module) -> Iterator[tuple[nn.Module, str, str]]:
    """(parent, name of a layer, name of the BatchNorm that is its next sibling)."""
    for parent in model.modules():
        for (first, layer), (second, norm) in pairwise(parent.named_children()):
            if isinstance(norm, _Norm) and norm.track_running_stats and _width(layer) == norm.num_features:
                yield parent, first, second


def _width(layer: nn.Module) -> int | None:
    if isinstance(layer, nn.Linear):
        return layer.out_features
    return layer.out_channels if isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d) else None


def _fused(layer: Any, norm: Any) -> nn.Module:
    fuse: Any = fuse_linear_bn_eval if isinstance(layer, nn.Linear) else fuse_conv_bn_eval
    fused: nn.Module = fuse(layer, norm)
    return fused
