"""FedAvg: train where the data is, average the weights."""

from typing import final

from .base import SiteStrategy
from .combiners import WeightAverage


@final
class FedAvg(SiteStrategy):
    """w <- sum_k (n_k / sum n) w_k over the sites asked this round.

    `weight`: `examples` (n_k), `uniform`, or `validation` (accuracy of the trained model on the site's validation
    part). Integer buffers keep their dtype. Source: McMahan et al. 2017, arXiv 1602.05629.
    """

    def __init__(self, *, weight: str = "examples", fraction: float = 1.0, seed: int = 0) -> None:
        super().__init__(WeightAverage(), weight=weight, fraction=fraction, seed=seed)
