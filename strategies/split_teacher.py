"""FedGKT: a large network at the server learns from what small ones see of their own examples, and teaches them."""

from collections.abc import Mapping
from typing import ClassVar, final

import torch
from flwr.app import ArrayRecord, RecordDict
from torch import Tensor, nn

from ..checks import number, positive, require, whole
from ..codec import Form, decode, encode, narrowed, schema_of
from ..data.types import Split
from ..errors import BadUpdate
from ..learning import Diverged, Settings, fit, predict, taught, taught_target
from ..seeds import derive, generator, seed_torch
from .base import SiteStrategy, Value
from .combiner import Combiner, Facts, Sender, record_of


@final
class SplitTeacher(SiteStrategy):
    """Server: hard * CE + (1 - hard) * T^2 KL(site || server) on sites' features; sites the same towards the server.

    Every site's model ends in `width` features, whatever its architecture; the server's network, `server_model` on
    inputs of that width, trains on all of them by `server` settings and answers each site with its logits.

    What this reveals: for every training example its features, logits and label leave the site. Features can be
    inverted to recognisable inputs, and labels are sent as they are. Use it where the server may see the data.
    Source: He et al. 2020, arXiv 2007.14513. The site's half is `fl_distill.halves.split`.
    """

    action: ClassVar[str] = "train.split"
    partial_work: ClassVar[bool] = True
    has_server_model: ClassVar[bool] = False
    mixes: ClassVar[bool] = True

    def __init__(
        self,
        *,
        server_model: str = "mlp",
        server: Settings | None = None,
        width: int = 64,
        hard: float = 0.5,
        temperature: float = 2.0,
        fraction: float = 1.0,
        seed: int = 0,
    ) -> None:
        require(
            (whole(width), f"width must be a whole number >= 1, not {width}"),
            (number(hard, 0, 1), f"hard must be in [0, 1], not {hard}"),
            (positive(temperature), f"temperature must be > 0, not {temperature}"),
        )
        plan = server or Settings(optimizer="adam", lr=1e-3, epochs=5.0, batch_size=64)
        super().__init__(
            _Teacher(server_model, plan, width, hard, temperature), weight="uniform", fraction=fraction, seed=seed
        )
        self.feature_width = width
        self._values: dict[str, Value] = {"hard": float(hard), "temperature": float(temperature)}

    def site_config(self) -> Mapping[str, Value]:
        """What the site's half needs."""
        return dict(self._values)


@final
class _Teacher(Combiner):
    """The large network, and the round's examples."""

    def __init__(self, name: str, plan: Settings, width: int, hard: float, temperature: float) -> None:
        self._name = name
        self._plan, self._width, self._hard, self._temperature = plan, width, hard, temperature
        self._facts = Facts()
        self._model: nn.Module | None = None

    def meet(self, facts: Facts) -> None:
        """Know how to build the network."""
        self._facts = facts

    def begin(self, sent: ArrayRecord, number: int) -> None:
        """Forget the examples of the round before."""
        self._shown: dict[str, Mapping[str, Tensor]] = {}
        self._round = number

    def take(self, content: RecordDict, weight: float, sender: Sender) -> None:
        """Keep one site's examples."""
        record = record_of(content, "examples")
        declared = schema_of(record).get("labels", Form((0,), "int16"))
        count = declared.shape[0] if len(declared.shape) == 1 else 0
        if not count > 0:
            raise BadUpdate("it shows no example")
        classes = self._classes(schema_of(record))
        forms = {"logits": Form((count, classes), "float16"), "features": Form((count, self._width), "float16")}
        parts = decode(record, {**forms, "labels": Form((count,), "int16")})
        if parts["labels"].min() < 0 or parts["labels"].max() >= classes:
            raise BadUpdate(f"its labels must be 0 to {classes - 1}")
        self._shown[sender.name] = parts

    def settle(self) -> ArrayRecord:
        """Train on all examples, then answer each site's."""
        parts = [self._shown[site] for site in sorted(self._shown)]
        x = torch.cat([part["features"].float() for part in parts])
        logits, labels = (torch.cat([part[name] for part in parts]) for name in ("logits", "labels"))
        model, seed = self._network(), derive(self._facts.seed, "server", self._round)
        seed_torch(derive(seed, "dropout"), self._plan.device)
        data = Split(x, taught_target(logits.float(), labels.long()))
        before = self.state()
        try:
            fit(model, data, self._plan, generator(seed, "order"), loss=taught(self._hard, self._temperature))
        except Diverged:
            model.load_state_dict(before)
            raise
        device = self._plan.device
        said = {
            f"logits/{site}": predict(model, part["features"].float(), device=device)
            for site, part in self._shown.items()
        }
        return encode({k: narrowed(v, 16) for k, v in said.items()}, bare=True)

    def share(self, arrays: ArrayRecord, to: Sender) -> ArrayRecord:
        """What the network says of this site's examples."""
        name = f"logits/{to.name}"
        return ArrayRecord({"logits": arrays[name]} if name in arrays else {})

    def state(self) -> dict[str, Tensor]:
        """The network's weights."""
        return {} if self._model is None else {k: v.clone() for k, v in self._model.state_dict().items()}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take the weights back."""
        if state:
            self._network().load_state_dict(dict(state))

    def _classes(self, declared: Mapping[str, Form]) -> int:
        shape = declared.get("logits", Form((0,), "float16")).shape
        return self._facts.classes or (shape[1] if len(shape) == 2 else 0)

    def _network(self) -> nn.Module:
        if self._model is None:
            self._model = self._facts.model(self._name, (self._width,))
            self._model.to(self._plan.device)
        return self._model
