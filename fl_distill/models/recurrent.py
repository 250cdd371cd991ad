"""A recurrent model that reads an image row by row."""

from typing import final

from torch import Tensor, nn

from fl_distill.models.classifier import Classifier, with_linear_head
from fl_distill.models.shapes import rate, size, sizes


@final
class _Rows(nn.Module):
    """(batch, channels, rows, columns) -> (batch, rows, channels * columns); sequences pass as they are."""

    def forward(self, x: Tensor) -> Tensor:
        return x if x.dim() == 3 else x.transpose(1, 2).flatten(2)


@final
class _LastState(nn.Module):
    """A GRU of which only the topmost state after the last row is kept."""

    def __init__(self, inputs: int, width: int, layers: int, dropout: float) -> None:
        super().__init__()
        self.gru = nn.GRU(inputs, width, layers, batch_first=True, dropout=dropout if layers > 1 else 0.0)

    def forward(self, x: Tensor) -> Tensor:
        _, states = self.gru(x)
        last: Tensor = states[-1]
        return last


def gru(
    input_shape: tuple[int, ...], classes: int, hidden: int = 64, layers: int = 1, dropout: float = 0.0
) -> Classifier:
    """A GRU over image rows (channels folded into the row), or over sequences of shape (steps, values).

    `dropout` acts between layers.
    """
    if len(input_shape) not in (2, 3):
        raise ValueError(
            "gru takes images of shape (channels, rows, columns) or sequences of shape (steps, values), "
            f"got {tuple(input_shape)}: mlp takes any shape, tabular takes tables"
        )
    *channels, _, columns = sizes("input_shape", input_shape)
    inputs = columns * channels[0] if channels else columns
    width, depth = size("hidden", hidden), size("layers", layers)
    body = nn.Sequential(_Rows(), _LastState(inputs, width, depth, rate("dropout", dropout)))
    return with_linear_head(body, width, classes)
