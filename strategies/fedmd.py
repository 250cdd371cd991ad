"""FedMD: models of any architecture learn from what all of them say about public examples."""

from typing import final

from ..knowledge import Mean, Rule
from .consensus import Consensus
from .public import PublicStrategy
from .talk import Talk


@final
class FedMD(PublicStrategy):
    """z(x) = rule over sites of f_k(x) on the round's public examples; sites digest z, then revisit their own data.

    Only scores travel: the sites' logits up, and the consensus of the round before down. A site first digests that
    consensus for `digest_epochs` (loss `kl` at `temperature`, `mae`, `mse`), then trains on its own data, then says
    what it thinks of the next examples. With `exchange="probabilities"`, the default for rules such as `Era` that want
    them, softmax outputs at `temperature` travel instead, and the digest is their cross-entropy. For `warmup` rounds
    nobody digests: what untrained models agree on would keep them untrained. `pretrain_epochs` > 0 starts every site
    on the labelled public set. `bits`: 16 or 32. The other values are those of `Talk`.
    Source: Li & Wang 2019, arXiv 1910.03581. The site's half is `fl_distill.halves.mutual`.
    """

    def __init__(
        self,
        *,
        combine: Rule | None = None,
        exchange: str | None = None,
        examples: int = 5000,
        fresh: bool = True,
        bits: int = 16,
        mask: bool = True,
        loss: str = "kl",
        temperature: float = 1.0,
        digest_epochs: float = 3.0,
        pretrain_epochs: float = 0.0,
        warmup: int = 5,
        weight: str = "uniform",
        fraction: float = 1.0,
        seed: int = 0,
    ) -> None:
        rule = combine or Mean()
        talk = Talk(
            examples=examples,
            fresh=fresh,
            exchange=exchange or ("probabilities" if rule.of_probabilities else "logits"),
            bits_up=bits,
            bits_down=bits,
            mask=mask,
            loss=loss,
            temperature=temperature,
            digest_epochs=digest_epochs,
            pretrain_epochs=pretrain_epochs,
            warmup=warmup,
        )
        super().__init__(talk, Consensus(rule, talk), weight=weight, fraction=fraction, seed=seed)
