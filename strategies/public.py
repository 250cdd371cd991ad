"""What strategies share whose sites speak of public examples."""

from abc import ABC
from collections.abc import Mapping
from typing import ClassVar

from .base import SiteStrategy, Value
from .consensus import Consensus
from .talk import Talk


class PublicStrategy(SiteStrategy, ABC):
    """Sites of any architecture work by `fl_distill.halves.mutual`, as `talk` says; the server by `Consensus`."""

    action: ClassVar[str] = "train.mutual"
    partial_work: ClassVar[bool] = True
    has_server_model: ClassVar[bool] = False
    mixes: ClassVar[bool] = True
    uses_public: ClassVar[bool] = True

    def __init__(self, talk: Talk, combiner: Consensus, *, weight: str, fraction: float, seed: int) -> None:
        super().__init__(combiner, weight=weight, fraction=fraction, seed=seed)
        self._talk, self.uses_labels = talk, talk.uses_labels or combiner.uses_labels

    def site_config(self) -> Mapping[str, Value]:
        """What the site's half needs."""
        return self._talk.site_config()
