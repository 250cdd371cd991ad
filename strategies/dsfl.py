"""DS-FL: probabilities instead of weights, sharpened where sites disagree, and a model at the server."""

from typing import final

from ..knowledge import Era, Rule
from ..learning import Settings
from .consensus import Consensus
from .public import PublicStrategy
from .student import Student
from .talk import Talk


@final
class DSFL(PublicStrategy):
    """p(x) = sharpen(mean over sites of softmax(f_k(x))); sites and the server's model learn p, sites then train on.

    `combine`: `Era` (softmax(p / T), T < 1) or `Power` (p^b, normalised). The server's model learns the round's
    answers by `server` settings, and is what somebody without data of their own would use.
    Source: Itahara et al. 2021, arXiv 2008.06180. The site's half is `fl_distill.halves.mutual`.
    """

    def __init__(
        self,
        *,
        combine: Rule | None = None,
        server_model: str = "",
        server: Settings | None = None,
        examples: int = 1000,
        fresh: bool = True,
        bits: int = 16,
        mask: bool = True,
        digest_epochs: float = 3.0,
        warmup: int = 5,
        weight: str = "uniform",
        fraction: float = 1.0,
        seed: int = 0,
    ) -> None:
        talk = Talk(
            examples=examples,
            fresh=fresh,
            exchange="probabilities",
            bits_up=bits,
            bits_down=bits,
            mask=mask,
            digest_epochs=digest_epochs,
            warmup=warmup,
        )
        student = Student(server_model, server or Settings(optimizer="adam", lr=1e-3, epochs=3.0))
        combiner = Consensus(combine or Era(), talk, student)
        super().__init__(talk, combiner, weight=weight, fraction=fraction, seed=seed)
