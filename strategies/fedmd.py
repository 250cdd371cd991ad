"""FedMD: models of any architecture learn from what all of them say about public examples."""

from collections.abc import Mapping
from typing import ClassVar, final

import torch
from flwr.app import ArrayRecord, RecordDict
from torch import Tensor

from ..checks import positive, require, whole
from ..codec import Form, decode, encode, schema_of
from ..errors import BadUpdate
from ..knowledge import Mean, Rule
from .base import Facts, SiteStrategy, Value

_ROUNDING = 0.02
"""How far float16 may move the sum of a row of probabilities."""


@final
class FedMD(SiteStrategy):
    """z(x) = rule over sites of f_k(x) on the round's public examples; sites digest z, then revisit their own data.

    Each round draws `examples` of the public set from the seed, so that only scores travel: the sites' logits up,
    float16, and the consensus of the round before down. A site first digests that consensus for `digest_epochs` (loss
    `kl` at `temperature`, `mae`, `mse`), then trains on its own data, then says what it thinks of the next examples.
    With `exchange="probabilities"` softmax outputs travel instead, as rules such as `Era` want them, and the digest is
    their cross-entropy. For `warmup` rounds nobody digests: what untrained models agree on would keep them untrained.
    `pretrain_epochs` > 0 starts every site on the labelled public set.
    Source: Li & Wang 2019, arXiv 1910.03581. The site's half is `fl_distill.client.Client.mutual`.
    """

    action: ClassVar[str] = "train.mutual"
    partial_work: ClassVar[bool] = True
    has_server_model: ClassVar[bool] = False
    uses_public: ClassVar[bool] = True

    def __init__(
        self,
        *,
        combine: Rule | None = None,
        exchange: str = "logits",
        examples: int = 5000,
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
        require(
            (whole(examples), f"examples must be a whole number >= 1, not {examples}"),
            (positive(temperature), f"temperature must be > 0, not {temperature}"),
            (positive(digest_epochs), f"digest_epochs must be > 0, not {digest_epochs}"),
            (pretrain_epochs == 0 or positive(pretrain_epochs), f"pretrain_epochs must be >= 0, not {pretrain_epochs}"),
            (whole(warmup, 0), f"warmup must be a whole number >= 0, not {warmup}"),
            (exchange in ("logits", "probabilities"), f"exchange is logits or probabilities, not {exchange!r}"),
            (
                exchange == "probabilities" or not rule.of_probabilities,
                f"{type(rule).__name__} combines probabilities: set exchange=probabilities, or choose another rule",
            ),
            (loss in ("kl", "mae", "mse"), f"loss is one of kl, mae, mse, not {loss!r}"),
        )
        probabilities = exchange == "probabilities"
        super().__init__(Consensus(rule, examples, probabilities), weight=weight, fraction=fraction, seed=seed)
        self._values: dict[str, Value] = {
            "public-examples": examples,
            "exchange": exchange,
            "digest-loss": "ce" if probabilities else loss,
            "digest-temperature": float(temperature),
            "digest-epochs": float(digest_epochs),
            "pretrain-epochs": float(pretrain_epochs),
            "warmup": warmup,
        }

    def site_config(self) -> Mapping[str, Value]:
        """What the site's half needs."""
        return dict(self._values)


@final
class Consensus:
    """Collect what sites say of the same examples; one rule makes one answer of it."""

    def __init__(self, rule: Rule, examples: int, probabilities: bool) -> None:
        self._rule, self._examples, self._probabilities = rule, examples, probabilities
        self._form: Form | None = None

    def meet(self, facts: Facts) -> None:
        """Know what a site must send, whatever the first one sends."""
        self._form = Form((min(self._examples, facts.public), facts.classes), "float16")

    def begin(self, sent: ArrayRecord, number: int) -> None:
        """Forget the round before."""
        self._said: list[Tensor] = []
        self._weights: list[float] = []
        self._round = number

    def take(self, content: RecordDict, weight: float) -> None:
        """Keep one site's logits."""
        if "logits" not in content.array_records:
            raise BadUpdate("the reply has no 'logits' record")
        record = content.array_records["logits"]
        form = self._form or schema_of(record).get("logits", Form((0, 0), "float16"))
        said = decode(record, {"logits": form})["logits"].float()
        if self._probabilities and not (said.min() >= 0 and (said.sum(-1) - 1).abs().max() < _ROUNDING):
            raise BadUpdate("its probabilities are negative or do not sum to 1")
        self._said.append(said)
        self._weights.append(weight)
        self._form = form

    def settle(self) -> ArrayRecord:
        """The consensus, and the round whose examples it speaks of."""
        answer = self._rule(torch.stack(self._said), torch.tensor(self._weights))
        return encode({"consensus": answer.to(torch.float16), "round": torch.tensor(self._round)})

    def state(self) -> dict[str, Tensor]:
        """Nothing beyond the arrays survives a round."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Nothing to take back."""
