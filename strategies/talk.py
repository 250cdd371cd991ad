"""What sites are asked to do with public examples: one row of choices, as plain values in each message."""

from collections.abc import Mapping
from dataclasses import dataclass

from ..checks import number, positive, require, whole
from ..learning.transfer import KINDS
from .base import Value

_FLOATS = (16, 32)


@dataclass(frozen=True)
class Talk:
    """How sites digest what was said of public examples, and in which form they say something themselves.

    `examples` of the public set a round, drawn anew (`fresh`) or always the same. `exchange`: `logits`, or
    `probabilities` softened by `temperature`. `bits_up`, `bits_down`: 16 or 32 for floating formats; of
    probabilities also 1 to 8, points of a simplex that travel packed. `mask`: classes that a site never saw have no
    say. `digest`: `first`, before the local training, or `joint`, hard * CE(own examples) + (1 - hard) * loss(public
    examples) in every step. `transfer_up`: what of their inner layers sites show.
    """

    examples: int = 5000
    fresh: bool = True
    exchange: str = "logits"
    bits_up: int = 16
    bits_down: int = 16
    mask: bool = True
    digest: str = "first"
    loss: str = "kl"
    temperature: float = 1.0
    hard: float = 0.0
    digest_epochs: float = 1.0
    warmup: int = 0
    pretrain_epochs: float = 0.0
    transfer_up: str = ""

    def __post_init__(self) -> None:
        allowed = (*range(1, 9), *_FLOATS) if self.probabilities else _FLOATS
        packed = "; 1 to 8 pack" if self.probabilities else "; exchange=probabilities allows 1 to 8"
        bits = {name: getattr(self, name) for name in ("bits_up", "bits_down")}
        few = [name for name, value in bits.items() if value < 16]
        require(
            (whole(self.examples), f"examples must be a whole number >= 1, not {self.examples}"),
            (
                self.exchange in ("logits", "probabilities"),
                f"exchange is logits or probabilities, not {self.exchange!r}",
            ),
            *((v in allowed, f"{k} is 16 or 32{packed}, not {v}") for k, v in bits.items()),
            (self.digest in ("first", "joint"), f"digest is first or joint, not {self.digest!r}"),
            (self.loss in ("kl", "mae", "mse"), f"loss is one of kl, mae, mse, not {self.loss!r}"),
            (positive(self.temperature), f"temperature must be > 0, not {self.temperature}"),
            (number(self.hard, 0, 1), f"hard must be in [0, 1], not {self.hard}"),
            (positive(self.digest_epochs), f"digest_epochs must be > 0, not {self.digest_epochs}"),
            (whole(self.warmup, 0), f"warmup must be a whole number >= 0, not {self.warmup}"),
            (number(self.pretrain_epochs, 0), f"pretrain_epochs must be >= 0, not {self.pretrain_epochs}"),
            (self.transfer_up in ("", "attention"), f"sites can show attention, not {self.transfer_up!r}"),
            (
                not (few and self.fresh),
                f"packed labels refer to those of the round before: {', '.join(few)} < 16 needs fresh=false",
            ),
        )

    @property
    def probabilities(self) -> bool:
        """Whether probabilities travel, not logits."""
        return self.exchange == "probabilities"

    @property
    def uses_labels(self) -> bool:
        """Whether the public set must have labels."""
        return self.pretrain_epochs > 0 or (self.hard > 0 and self.digest == "first")

    def site_config(self) -> Mapping[str, Value]:
        """What the site's half (`fl_distill.halves.mutual`) needs."""
        return {
            "public-examples": self.examples,
            "fresh": self.fresh,
            "exchange": self.exchange,
            "bits-up": self.bits_up,
            "bits-down": self.bits_down,
            "mask": self.mask,
            "digest": self.digest,
            "digest-loss": "ce" if self.probabilities else self.loss,
            "digest-temperature": float(self.temperature),
            "digest-epochs": float(self.digest_epochs),
            "hard": float(self.hard),
            "warmup": self.warmup,
            "pretrain-epochs": float(self.pretrain_epochs),
            "transfer-up": self.transfer_up,
        }


def check_transfer(transfer: str) -> None:
    """ValueError unless `transfer` is empty or names kinds joined by "+", such as `attention+features`."""
    unknown = [kind for kind in transfer.split("+") if transfer and kind not in KINDS]
    require((not unknown, f"transfer is of {', '.join(KINDS)}, joined by +, not {transfer!r}"))
