"""CFD: soft labels of a few bits, sent as what changed, both ways."""

from typing import final

from ..knowledge import Mean, Rule
from ..learning import Settings
from .consensus import Consensus
from .public import PublicStrategy
from .student import Student
from .talk import Talk


@final
class CFD(PublicStrategy):
    """Sites send Q_b(softmax(f_k(x))) of a fixed public set; the server's model learns their mean and answers Q_b'.

    Q_b(p) is the point of the simplex with levels l / (2^b - 1) nearest to p in L1; one bit is a vote. Only rows that
    changed since the round before travel, entropy-coded; a site that missed a round gets all of them. `bits_up` and
    `bits_down`: 1 to 8, or 16 and 32 for floating labels. The server's model learns anew from the common start each
    round with `restart`, else it goes on. Source: Sattler et al. 2021, arXiv 2012.00632. The site's half is
    `fl_distill.halves.mutual`, the packing `fl_distill.codec.soft_labels`.
    """

    def __init__(
        self,
        *,
        combine: Rule | None = None,
        server_model: str = "",
        server: Settings | None = None,
        bits_up: int = 1,
        bits_down: int = 1,
        examples: int = 5000,
        mask: bool = True,
        digest_epochs: float = 1.0,
        warmup: int = 0,
        restart: bool = False,
        weight: str = "uniform",
        fraction: float = 1.0,
        seed: int = 0,
    ) -> None:
        talk = Talk(
            examples=examples,
            fresh=False,
            exchange="probabilities",
            bits_up=bits_up,
            bits_down=bits_down,
            mask=mask,
            digest_epochs=digest_epochs,
            warmup=warmup,
        )
        student = Student(server_model, server or Settings(optimizer="adam", lr=1e-3), restart=restart)
        combiner = Consensus(combine or Mean(), talk, student, student_answers=True)
        super().__init__(talk, combiner, weight=weight, fraction=fraction, seed=seed)
