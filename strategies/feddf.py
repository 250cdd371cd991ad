"""FedDF: weights are averaged within an architecture; every average then learns from the ensemble of all models."""

from typing import ClassVar, final

from ..checks import require, whole
from ..knowledge import Mean, Rule
from ..learning import Settings
from .base import SiteStrategy
from .ensemble import Ensemble


@final
class FedDF(SiteStrategy):
    """w_p = sum_k (n_k / n) w_k over sites of architecture p; each w_p then minimises KL(mean over k of f_k || f_p).

    The mean logits, or what another rule of `combine` makes of them, are of all models that arrived, whatever their
    architecture, on `examples` unlabelled public examples a round. Training at the server (`server`, Adam with a
    cosine) ends early after `patience` steps without a lower loss on a held-out tenth of these. Sites train as in
    FedAvg.
    Source: Lin et al. 2020, arXiv 2006.07242. The site's half is `fl_distill.halves.averaged`.
    """

    mixes: ClassVar[bool] = True
    uses_public: ClassVar[bool] = True

    def __init__(
        self,
        *,
        combine: Rule | None = None,
        server: Settings | None = None,
        examples: int = 5000,
        temperature: float = 1.0,
        patience: int = 1000,
        weight: str = "examples",
        fraction: float = 1.0,
        seed: int = 0,
    ) -> None:
        require(
            (whole(examples), f"examples must be a whole number >= 1, not {examples}"),
            (whole(patience), f"patience must be a whole number >= 1, not {patience}"),
        )
        plan = server or Settings(optimizer="adam", lr=1e-3, batch_size=128, steps=10_000, schedule="cosine")
        combiner = Ensemble(combine or Mean(), plan, examples, temperature, patience)
        super().__init__(combiner, weight=weight, fraction=fraction, seed=seed)
