"""FD: sites exchange what they say, on average, of each class; no public data."""

from collections.abc import Mapping
from typing import ClassVar, final

from ..checks import number, require
from .base import SiteStrategy, Value
from .class_means import ClassMeans


@final
class FD(SiteStrategy):
    """F_kl = mean of softmax(f_k(x)) over x of label l; site k's loss: CE + gamma * CE to the mean of the others' F_l.

    What travels is C x C numbers and C counts each way, whatever the model. `bits`: 16 or 32.
    Source: Jeong et al. 2018, arXiv 1811.11479. The site's half is `fl_distill.halves.by_class`.
    """

    action: ClassVar[str] = "train.by_class"
    partial_work: ClassVar[bool] = True
    has_server_model: ClassVar[bool] = False
    mixes: ClassVar[bool] = True

    def __init__(self, *, gamma: float = 0.1, bits: int = 16, fraction: float = 1.0, seed: int = 0) -> None:
        require(
            (number(gamma, 0), f"gamma must be >= 0, not {gamma}"),
            (bits in (16, 32), f"bits is 16 or 32, not {bits}"),
        )
        combiner = ClassMeans("probabilities", bits, others_only=True)
        super().__init__(combiner, weight="uniform", fraction=fraction, seed=seed)
        self._gamma, self._bits = gamma, bits

    def site_config(self) -> Mapping[str, Value]:
        """What the site's half needs."""
        return {"exchange": "probabilities", "strength": float(self._gamma), "bits": self._bits}
