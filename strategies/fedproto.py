"""FedProto: sites exchange the mean feature of each class; no public data."""

from collections.abc import Mapping
from typing import ClassVar, final

from ..checks import number, require, whole
from .base import SiteStrategy, Value
from .class_means import ClassMeans


@final
class FedProto(SiteStrategy):
    """C_kl = mean feature of site k's label l; C_l = mean over who holds l; loss: CE + strength * ||f(x) - C_y||^2.

    A linear map gives the features of every architecture `width` values. `predict`: `head`, or `prototype`, the class
    of the nearest C_l. `strength` is the paper's lambda. `bits`: 16 or 32.
    Source: Tan et al. 2022, arXiv 2105.00243. The site's half is `fl_distill.halves.by_class`.
    """

    action: ClassVar[str] = "train.by_class"
    partial_work: ClassVar[bool] = True
    has_server_model: ClassVar[bool] = False
    mixes: ClassVar[bool] = True

    def __init__(
        self,
        *,
        strength: float = 1.0,
        width: int = 50,
        predict: str = "head",
        by_examples: bool = False,
        bits: int = 16,
        fraction: float = 1.0,
        seed: int = 0,
    ) -> None:
        require(
            (number(strength, 0), f"strength must be >= 0, not {strength}"),
            (whole(width), f"width must be a whole number >= 1, not {width}"),
            (predict in ("head", "prototype"), f"predict is head or prototype, not {predict!r}"),
            (bits in (16, 32), f"bits is 16 or 32, not {bits}"),
        )
        combiner = ClassMeans("features", bits, others_only=False, by_examples=by_examples, width=width)
        super().__init__(combiner, weight="uniform", fraction=fraction, seed=seed)
        self.feature_width = width
        self._values: dict[str, Value] = {
            "exchange": "features",
            "strength": float(strength),
            "predict": predict,
            "bits": bits,
        }

    def site_config(self) -> Mapping[str, Value]:
        """What the site's half needs."""
        return dict(self._values)
