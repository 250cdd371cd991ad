"""FedProx: FedAvg whose sites stay near what they received, and may do less than all of their work."""

from collections.abc import Mapping
from typing import ClassVar, final

from .base import SiteStrategy, Value
from .combiners import WeightAverage


@final
class FedProx(SiteStrategy):
    """Local loss + (mu / 2) * sum over trainable p of ||p - p_received||^2; the weights are then averaged.

    A site that did only a part of its steps still counts. mu = 0 with full work is FedAvg.
    Source: Li et al. 2020, arXiv 1812.06127. The site's half is `fl_distill.learning.proximal`; it travels under
    the key `proximal-mu`, as in Flower's own FedProx.
    """

    partial_work: ClassVar[bool] = True

    def __init__(self, *, mu: float = 0.01, weight: str = "examples", fraction: float = 1.0, seed: int = 0) -> None:
        if not 0 <= mu < float("inf"):
            raise ValueError(f"mu must be a finite number >= 0, not {mu}")
        super().__init__(WeightAverage(), weight=weight, fraction=fraction, seed=seed)
        self.mu = mu

    def site_config(self) -> Mapping[str, Value]:
        """The strength of the pull."""
        return {"proximal-mu": float(self.mu)}
