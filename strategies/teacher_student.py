"""A large teacher at the server, small students at the sites: the edge."""

from typing import final

from ..knowledge import Mean, Rule
from ..learning import Settings
from .consensus import Consensus
from .public import PublicStrategy
from .student import Student
from .talk import Talk


@final
class TeacherStudent(PublicStrategy):
    """The server's large model learns what small models say of public examples; they learn from it in turn.

    Sites minimise hard * CE(own examples) + (1 - hard) * T^2 KL(teacher || student)(public examples) in every step.
    The teacher learns the rule's answer, and with `public_labels` also the labels of the public set: hard * CE +
    (1 - hard) * T^2 KL, after `pretrain_epochs` on labels alone. `transfer="attention"` shows sites where the
    teacher's convolutions look, shallow layers first, then deep ones; `"features"` what its last layer sees.
    Sources: Hinton et al. 2015, arXiv 1503.02531; Cheng et al. 2021 (FedGEMS), arXiv 2110.11027; Zagoruyko & Komodakis
    2017, arXiv 1612.03928. The site's half is `fl_distill.halves.mutual`.
    """

    def __init__(
        self,
        *,
        combine: Rule | None = None,
        server_model: str = "",
        server: Settings | None = None,
        examples: int = 2000,
        fresh: bool = True,
        bits: int = 16,
        mask: bool = True,
        temperature: float = 2.0,
        hard: float = 0.5,
        warmup: int = 2,
        public_labels: bool = False,
        pretrain_epochs: float = 0.0,
        transfer: str = "",
        transfer_epochs: float = 1.0,
        weight: str = "examples",
        fraction: float = 1.0,
        seed: int = 0,
    ) -> None:
        talk = Talk(
            examples=examples,
            fresh=fresh,
            bits_up=bits,
            bits_down=bits,
            mask=mask,
            digest="joint",
            temperature=temperature,
            hard=hard,
            digest_epochs=transfer_epochs,
            warmup=warmup,
        )
        student = Student(
            server_model,
            server or Settings(optimizer="adam", lr=1e-3, epochs=2.0),
            temperature=temperature,
            hard=hard if public_labels else 0.0,
            pretrain_epochs=pretrain_epochs,
        )
        combiner = Consensus(combine or Mean(), talk, student, student_answers=True, transfer_down=transfer)
        super().__init__(talk, combiner, weight=weight, fraction=fraction, seed=seed)
