"""A model in two parts, so that features and head can be shared, exchanged or measured apart."""

from typing import final

from torch import Tensor, nn

from fl_distill.models.shapes import size


@final
class Classifier(nn.Module):
    """`forward(x) = head(features(x))`: features of shape (batch, width), scores of shape (batch, classes)."""

    def __init__(self, body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.head = head

    def features(self, x: Tensor) -> Tensor:
        """What the head sees of a batch: shape (batch, width)."""
        seen: Tensor = self.body(x)
        return seen

    def forward(self, x: Tensor) -> Tensor:
        """Scores (logits) of shape (batch, classes)."""
        scores: Tensor = self.head(self.features(x))
        return scores


def with_linear_head(body: nn.Module, width: int, classes: int) -> Classifier:
    """A classifier whose last layer maps `width` features to `classes` scores."""
    return Classifier(body, nn.Linear(width, size("classes", classes)))
