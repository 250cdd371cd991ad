"""The server's half of an algorithm: what replies are folded into, and what each site receives of it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from flwr.app import ArrayRecord, RecordDict
from torch import Tensor, nn

from ..data.types import Split
from ..errors import BadUpdate

ARRAYS = "arrays"
ROUNDING = 0.02
"""How far float16 may move the sum of a row of probabilities."""
LARGEST = torch.finfo(torch.float16).max
"""No logit of a sane model is larger; one that is would drown the others."""


@dataclass(frozen=True)
class Sender:
    """Who sent a reply: the site's name, which stays when its node comes back, and its model's architecture."""

    name: str
    architecture: str = ""


def _by_node(node: int) -> Sender:
    return Sender(str(node))


def _no_model(name: str, shape: tuple[int, ...] | None = None) -> nn.Module:
    raise ValueError("this strategy trains models at the server: give it Facts(model=...) with `meet` before the start")


@dataclass(frozen=True)
class Facts:
    """What the server knows before the first round: replies can be held to it, and models built from it."""

    trainable: frozenset[str] = frozenset()
    """Names of the tensors that training changes where all sites have one model; the others are buffers."""
    classes: int = 0
    seed: int = 0
    public: Split | None = None
    """Examples that all participants hold; labels are -1 where there are none."""
    sender: Callable[[int], Sender] = _by_node
    """Node -> which site it is."""
    model: Callable[[str, tuple[int, ...] | None], nn.Module] = _no_model
    """(architecture, shape of one input or None for the data's) -> a fresh model with the initial weights."""
    default: str = ""
    """The architecture that a strategy means which names none."""


class Combiner(ABC):
    """Folds replies into new arrays, one at a time; by default nothing else survives and all sites receive the same."""

    def meet(self, facts: Facts) -> None:  # noqa: B027  (optional: under stock `start()` nobody says it)
        """Learn what the run is about."""

    @abstractmethod
    def begin(self, sent: ArrayRecord, number: int) -> None:
        """Start round `number`, of which `sent` is what the server held."""

    @abstractmethod
    def take(self, content: RecordDict, weight: float, sender: Sender) -> None:
        """Add one site's reply; raises `BadUpdate` before it changed anything."""

    def at_once(self, count: int) -> bool:
        """Whether `count` replies that are all there are faster added by `take_all` than by `take` one by one."""
        return False

    def take_all(self, contents: Sequence[RecordDict], weights: Sequence[float]) -> Mapping[int, str]:
        """Add all of a round's replies right after `begin`: by place, what is wrong with those that were left out."""
        raise TypeError(f"{type(self).__name__} takes one reply at a time")

    @abstractmethod
    def settle(self) -> ArrayRecord | None:
        """What the server holds after the round; None where sites exchange nothing."""

    def share(self, arrays: ArrayRecord, to: Sender) -> ArrayRecord:
        """What of the server's arrays one site receives in the next round; the same object where it is the same."""
        return arrays

    def models(self, arrays: ArrayRecord) -> Mapping[str, Mapping[str, Tensor]]:
        """The models that the server holds, by architecture; "" is the one that all sites have."""
        return {}

    @property
    def idle_ways(self) -> Mapping[str, str]:
        """Ways, `up` or `down`, in which no floating numbers travel that a codec could shorten -> what does instead."""
        return {}

    @property
    def rows(self) -> Mapping[str, str]:
        """Tensors of either way whose rows lie in a convex set, where a codec would move them out -> the set.

        See `codec.nearest`.
        """
        return {}

    def notes(self) -> Mapping[str, float]:
        """Numbers about the last round's knowledge, such as `agreement`."""
        return {}

    def state(self) -> dict[str, Tensor]:
        """What must survive between rounds beside the arrays."""
        return {}

    def restore(self, state: Mapping[str, Tensor]) -> None:  # noqa: B027
        """Take back what `state` gave."""


def check_probabilities(rows: Tensor, what: str) -> None:
    """Raise `BadUpdate` unless rows are probabilities, up to float16's rounding; `what` names them."""
    if not (rows.min() >= 0 and (rows.sum(-1) - 1).abs().max() < ROUNDING):
        raise BadUpdate(f"its {what} are negative or do not sum to 1")


def record_of(content: RecordDict, key: str) -> ArrayRecord:
    """The array record `key` of a reply; raises `BadUpdate` when it is not there."""
    record = content.get(key)
    if not isinstance(record, ArrayRecord):
        raise BadUpdate(f"the reply has no {key!r} record of tensors")
    return record
