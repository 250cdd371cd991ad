"""Large teachers at the sites, one small global student: the hospitals."""

from typing import final

from ..knowledge import Mean, Rule
from ..learning import Settings
from .consensus import Consensus
from .public import PublicStrategy
from .student import Student
from .talk import Talk


@final
class CrossSilo(PublicStrategy):
    """min over the student's weights of T^2 sum_k w_k KL(p_k || p_student) on public examples, p_k softened by T.

    Each site trains a teacher of its own architecture; the student at the server learns the teachers' weighted mean
    probabilities, which is the same minimum. With `teachers_learn` the answer goes back and teachers digest it, else
    nothing goes down. `rounds=1` is one-shot distillation. `transfer="attention"` has teachers show where they look,
    shallow layers first, then deep ones. `weight`: uniform, examples, or validation accuracy.
    Sources: Hinton et al. 2015, arXiv 1503.02531; Lin et al. 2020, arXiv 2006.07242. The site's half is
    `fl_distill.halves.mutual`.
    """

    def __init__(
        self,
        *,
        combine: Rule | None = None,
        server_model: str = "",
        server: Settings | None = None,
        examples: int = 5000,
        fresh: bool = True,
        bits: int = 16,
        mask: bool = True,
        temperature: float = 2.0,
        teachers_learn: bool = True,
        digest_epochs: float = 1.0,
        warmup: int = 2,
        public_labels: bool = False,
        hard: float = 0.5,
        transfer: str = "",
        patience: int | None = None,
        weight: str = "examples",
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
            temperature=temperature,
            digest_epochs=digest_epochs,
            warmup=warmup,
            transfer_up=transfer,
        )
        student = Student(
            server_model,
            server or Settings(optimizer="adam", lr=1e-3, epochs=2.0),
            temperature=temperature,
            hard=hard if public_labels else 0.0,
            patience=patience,
        )
        combiner = Consensus(combine or Mean(), talk, student, tells=teachers_learn)
        super().__init__(talk, combiner, weight=weight, fraction=fraction, seed=seed)
