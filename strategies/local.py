"""Local training: every site on its own, the baseline that says what federation is worth."""

from typing import ClassVar, final

from .base import SiteStrategy
from .combiners import Nothing


@final
class Local(SiteStrategy):
    """No exchange: each site keeps training its own model, of any architecture; only its scores travel."""

    action: ClassVar[str] = "train.alone"
    partial_work: ClassVar[bool] = True
    has_server_model: ClassVar[bool] = False
    mixes: ClassVar[bool] = True

    def __init__(self, *, fraction: float = 1.0, seed: int = 0) -> None:
        super().__init__(Nothing(), fraction=fraction, seed=seed)
