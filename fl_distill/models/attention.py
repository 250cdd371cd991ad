"""A small Transformer on image patches."""

from typing import final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fl_distill.models.classifier import Classifier, with_linear_head
from fl_distill.models.shapes import image, padding_to, patch_side, rate, size


@final
class _Patches(nn.Module):
    """(batch, channels, height, width) -> (batch, tokens, width) plus learned positions."""

    def __init__(self, shape: tuple[int, int, int], patch: int, width: int) -> None:
        super().__init__()
        channels, height, columns = shape
        self.padding = padding_to(patch, height, columns)
        self.project = nn.Conv2d(channels, width, patch, stride=patch)
        tokens = -(-height // patch) * -(-columns // patch)
        self.positions = nn.Parameter(nn.init.normal_(torch.empty(tokens, width), std=0.02))

    def forward(self, x: Tensor) -> Tensor:
        tokens: Tensor = self.project(F.pad(x, self.padding))
        return tokens.flatten(2).transpose(1, 2) + self.positions


@final
class _Attention(nn.Module):
    """Multi-head self-attention; (batch, tokens, width) in and out."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query_key_value = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        batch, tokens, width = x.shape
        packed: Tensor = self.query_key_value(x)
        # (batch, tokens, 3 * width) -> three of (batch, heads, tokens, width / heads)
        query, key, value = packed.view(batch, tokens, 3, self.heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(query, key, value)
        joined: Tensor = self.out(mixed.transpose(1, 2).reshape(batch, tokens, width))
        return joined


@final
class _Block(nn.Module):
    """Attention, then a perceptron on each token; both normalise first and add to their input."""

    def __init__(self, width: int, heads: int, expansion: int, dropout: float) -> None:
        super().__init__()
        self.attend = nn.Sequential(nn.LayerNorm(width), _Attention(width, heads), nn.Dropout(dropout))
        self.think = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, expansion * width),
            nn.GELU(),
            nn.Linear(expansion * width, width),
            nn.Dropout(dropout),
        )

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attend(x)
        thought: Tensor = x + self.think(x)
        return thought


@final
class _TokenMean(nn.Module):
    """(batch, tokens, width) -> (batch, width)."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(dim=1)


def vit(
    input_shape: tuple[int, ...],
    classes: int,
    width: int = 64,
    depth: int = 3,
    heads: int = 4,
    patch: int | None = None,
    expansion: int = 2,
    dropout: float = 0.0,
) -> Classifier:
    """A small vision Transformer (Dosovitskiy et al. 2021): learned positions, mean over tokens.

    `patch=None` adapts to the image: 2 pixels for 8x8, 4 for 28x28 and 32x32. Images are padded to whole
    patches.
    """
    shape = image("vit", input_shape)
    side = patch_side(*shape[1:]) if patch is None else size("patch", patch)
    if size("width", width) % size("heads", heads):
        raise ValueError(f"width must be a multiple of heads, got width={width} and heads={heads}")
    size("expansion", expansion)
    drop = rate("dropout", dropout)
    blocks = [_Block(width, heads, expansion, drop) for _ in range(size("depth", depth))]
    body = nn.Sequential(_Patches(shape, side, width), *blocks, nn.LayerNorm(width), _TokenMean())
    return with_linear_head(body, width, classes)
