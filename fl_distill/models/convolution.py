"""Small convolutional models; pooling is left out where an image is too small for it."""

from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from fl_distill.models.classifier import Classifier, with_linear_head
from fl_distill.models.shapes import image, size, sizes


def cnn(input_shape: tuple[int, ...], classes: int, channels: Sequence[int] = (16, 32), hidden: int = 64) -> Classifier:
    """Two 3x3 convolutions and one hidden layer: 38,282 parameters on 1x8x8 digits, 136,874 on 3x32x32."""
    depth, height, width = image("cnn", input_shape)
    first, second = sizes("channels", channels, count=2)
    early = 2 if min(height, width) >= 16 else 1
    late = 2 if min(height, width) >= 2 else 1
    body = nn.Sequential(
        nn.Conv2d(depth, first, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(early),
        nn.Conv2d(first, second, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(late),
        nn.Flatten(),
        nn.Linear(second * (height // early // late) * (width // early // late), size("hidden", hidden)),
        nn.ReLU(),
    )
    return with_linear_head(body, hidden, classes)


def lenet(
    input_shape: tuple[int, ...],
    classes: int,
    channels: Sequence[int] = (6, 16),
    hidden: Sequence[int] = (120, 84),
) -> Classifier:
    """LeNet-5 (LeCun et al. 1998) with ReLU and max-pooling: 61,706 parameters on 28x28, 62,006 on 3x32x32.

    5x5 convolutions are padded where the image is smaller than the paper's 32x32.
    """
    depth, height, width = image("lenet", input_shape, smallest=4)
    first, second = sizes("channels", channels, count=2)
    outer = 0 if min(height, width) >= 32 else 2
    inner = 0 if min(height, width) >= 12 else 2
    rows, columns = (((side + 2 * outer - 4) // 2 + 2 * inner - 4) // 2 for side in (height, width))
    widths = [second * rows * columns, *sizes("hidden", hidden)]
    body = nn.Sequential(
        nn.Conv2d(depth, first, 5, padding=outer),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(first, second, 5, padding=inner),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        *(layer for i, o in pairwise(widths) for layer in (nn.Linear(i, o), nn.ReLU())),
    )
    return with_linear_head(body, widths[-1], classes)
