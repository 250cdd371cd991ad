"""How one site trains in one round."""

import math
from dataclasses import dataclass, replace

from ..checks import number, positive, require, whole

OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("constant", "cosine")
LEAST_LR = 1e-30
"""Below it nothing moves; a rate of 0 would be no setting."""


@dataclass(frozen=True)
class Settings:
    """Local training settings; every fault is listed in the ValueError that a bad value raises."""

    optimizer: str = "sgd"
    lr: float = 0.05
    lr_decay: float = 1.0
    """Round t trains at lr * lr_decay^(t - 1)."""
    momentum: float = 0.9
    weight_decay: float = 0.0
    batch_size: int = 32
    epochs: float = 1.0
    steps: int | None = None
    clip_norm: float | None = None
    schedule: str = "constant"
    device: str = "cpu"
    quantization_aware: bool = False
    together: bool | None = None
    """Whether sites with the same small model train as one stack (`fit_together`); None: where that is quicker."""

    def __post_init__(self) -> None:
        require(
            (self.optimizer in OPTIMIZERS, f"optimizer is one of {', '.join(OPTIMIZERS)}, not {self.optimizer!r}"),
            (self.schedule in SCHEDULES, f"schedule is one of {', '.join(SCHEDULES)}, not {self.schedule!r}"),
            (positive(self.lr), f"lr must be a positive number, not {self.lr}"),
            (number(self.lr_decay, 1e-9, 1), f"lr_decay must be in (0, 1], not {self.lr_decay}"),
            (number(self.momentum, 0, 1 - 1e-9), f"momentum must be in [0, 1), not {self.momentum}"),
            (number(self.weight_decay, 0), f"weight_decay must be >= 0, not {self.weight_decay}"),
            (whole(self.batch_size), f"batch_size must be a whole number >= 1, not {self.batch_size}"),
            (positive(self.epochs), f"epochs must be > 0, not {self.epochs}"),
            (self.steps is None or whole(self.steps), f"steps must be a whole number >= 1 or null, not {self.steps}"),
            (isinstance(self.quantization_aware, bool), "quantization_aware must be true or false"),
            (self.together in (None, True, False), f"together must be true, false or null, not {self.together!r}"),
            (
                self.clip_norm is None or positive(self.clip_norm),
                f"clip_norm must be > 0 or null, not {self.clip_norm}",
            ),
        )

    def in_round(self, number: int) -> "Settings":
        """The settings of this round, counted from 1: the learning rate has decayed."""
        if self.lr_decay == 1:
            return self
        return replace(self, lr=max(self.lr * self.lr_decay ** max(0, number - 1), LEAST_LR))

    def planned_steps(self, examples: int, work: float = 1.0) -> int:
        """Batches to train on: `steps`, or `epochs` passes; `work` in (0, 1] is the part that gets done."""
        full = self.steps or math.ceil(self.epochs * math.ceil(examples / self.batch_size))
        return max(1, math.floor(work * full))
