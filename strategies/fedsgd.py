"""FedSGD: one full-batch gradient a site and round, one step at the server."""

from typing import ClassVar, final

from .base import SiteStrategy
from .combiners import GradientStep


@final
class FedSGD(SiteStrategy):
    """g = sum_k (n_k / sum n) g_k with g_k the gradient of site k's mean loss;  w <- w - lr (g + momentum v).

    Equal to full-batch gradient descent on the pooled data. Source: McMahan et al. 2017, arXiv 1602.05629.
    """

    action: ClassVar[str] = "train.gradient"
    changes: ClassVar[tuple[str, ...]] = ("gradients",)

    def __init__(
        self,
        *,
        lr: float = 0.5,
        momentum: float = 0.0,
        weight: str = "examples",
        fraction: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__(GradientStep(lr, momentum), weight=weight, fraction=fraction, seed=seed)
