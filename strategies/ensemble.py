"""The server's half of FedDF: a mean for each architecture, and the ensemble that teaches all of them."""

from collections.abc import Mapping
from typing import final

import torch
from flwr.app import ArrayRecord, RecordDict
from torch import Tensor, nn

from ..checks import positive, require
from ..codec import Schema, decode, encode, schema_of
from ..errors import BadUpdate
from ..knowledge import Rule, WeightedMean
from ..knowledge.agreement import describe
from ..knowledge.public import public_rows
from ..learning import Settings, digest_loss, predict
from ..learning.distil import distil
from ..seeds import derive
from .combiner import ARRAYS, LARGEST, Combiner, Facts, Sender, record_of


@final
class Ensemble(Combiner):
    """Holds one mean for each architecture, and of every site's model its logits on the round's examples.

    An architecture that was never sent starts untrained.
    """

    def __init__(self, rule: Rule, plan: Settings, examples: int, temperature: float, patience: int) -> None:
        require(
            (positive(temperature), f"temperature must be > 0, not {temperature}"),
            (
                not rule.of_probabilities,
                f"{type(rule).__name__} combines probabilities, and models' logits are combined",
            ),
        )
        self._rule = rule
        self._plan, self._examples, self._temperature, self._patience = plan, examples, temperature, patience
        self._facts = Facts()
        self._notes: dict[str, float] = {}
        self._built: dict[str, nn.Module] = {}
        self._initial: dict[str, ArrayRecord] = {}
        self._shares: dict[str, tuple[ArrayRecord, ArrayRecord]] = {}

    def meet(self, facts: Facts) -> None:
        """Know the public set and how to build each architecture."""
        self._facts = facts

    def begin(self, sent: ArrayRecord, number: int) -> None:
        """Draw the round's public examples."""
        public = self._facts.public
        if public is None:
            raise ValueError("the server must know the public set: call `meet` with Facts(public=...) before the start")
        self._x = public.x[public_rows(len(public), self._examples, self._facts.seed, number)]
        self._before = _by_architecture(sent)
        self._means: dict[str, WeightedMean] = {}
        self._said: list[Tensor] = []
        self._round = number

    def take(self, content: RecordDict, weight: float, sender: Sender) -> None:
        """Add one site's weights to its architecture's mean, and what its model says to the ensemble."""
        name = sender.architecture
        tensors = decode(record_of(content, ARRAYS), self._schema(name))
        model = self._loaded(name, tensors)
        said = predict(model, self._x, device=self._plan.device)
        if not said.abs().max() <= LARGEST:  # NaN is not either
            raise BadUpdate(f"what its model says of public examples is not finite, or beyond {LARGEST:g}")
        self._said.append(said)
        self._means.setdefault(name, WeightedMean()).add(tensors, weight)

    def settle(self) -> ArrayRecord:
        """Every architecture's mean, or its last model where nobody sent one, after it learned from the ensemble."""
        stack = torch.stack(self._said)
        target = self._rule(stack, torch.ones(len(stack)))
        loss = digest_loss("kl", self._temperature)
        self._notes = describe(stack, target.softmax(-1))
        after = dict(self._before)
        for name in sorted({*self._before, *self._means}):
            fresh = self._means[name].result() if name in self._means else decode(self._before[name])
            model = self._loaded(name, fresh)
            seed = derive(self._facts.seed, "server", name, self._round)
            distil(model, self._x, target, loss, self._plan, seed, patience=self._patience)
            after[name] = encode(model.state_dict())
        return ArrayRecord({f"{name}/{key}": array for name, record in after.items() for key, array in record.items()})

    def share(self, arrays: ArrayRecord, to: Sender) -> ArrayRecord:
        """The model of the site's architecture."""
        name = to.architecture
        held, share = self._shares.get(name, (None, ArrayRecord()))
        if held is not arrays:
            share = _by_architecture(arrays).get(name) or self._untrained(name)
            self._shares[name] = (arrays, share)
        return share

    def notes(self) -> Mapping[str, float]:
        """`agreement`, `entropy` and `spread` of the last round."""
        return self._notes

    def models(self, arrays: ArrayRecord) -> Mapping[str, Mapping[str, Tensor]]:
        """One model for each architecture."""
        return {name: decode(record) for name, record in _by_architecture(arrays).items()}

    def _model(self, name: str) -> nn.Module:
        if name not in self._built:
            self._built[name] = self._facts.model(name, None).to(self._plan.device)
        return self._built[name]

    def _loaded(self, name: str, tensors: Mapping[str, Tensor]) -> nn.Module:
        model = self._model(name)
        model.load_state_dict(dict(tensors))
        return model

    def _untrained(self, name: str) -> ArrayRecord:
        if name not in self._initial:
            self._initial[name] = encode(self._facts.model(name, None).state_dict())
        return self._initial[name]

    def _schema(self, name: str) -> Schema:
        return schema_of(self._untrained(name))


def _by_architecture(arrays: ArrayRecord) -> dict[str, ArrayRecord]:
    groups: dict[str, ArrayRecord] = {}
    for key, array in arrays.items():
        name, _, rest = key.rpartition("/")  # names of architectures may hold slashes, those of tensors do not
        groups.setdefault(name, ArrayRecord())[rest] = array
    return groups
