"""What a site lets leave, and what it does for others: its own decision, which no request can change."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..checks import number, positive, require, whole
from ..codec.rate import parse_size
from ..errors import FlDistillError
from ..halves.leaving import KINDS


class Refused(FlDistillError):
    """A request is outside the site's policy; the sentence holds nothing of the site's data."""


@dataclass(frozen=True)
class Policy:
    """The part of a `site.yaml` that says no. Without a word about it nothing but scores and counts leaves.

    may_leave: kinds of knowledge (weights, logits, class_means, features). strategies: names, null for any.
    min_examples: examples that must stand behind anything that leaves: behind training, each score, each class mean.
    largest_message: of a reply, such as 20MB. dp_epsilon: the largest privacy loss a run may cost.
    """

    may_leave: Sequence[str] = ()
    strategies: Sequence[str] | None = None
    min_examples: int = 1
    largest_message: str | int | None = None
    dp_epsilon: float | None = None

    def __post_init__(self) -> None:
        kinds = self.may_leave if isinstance(self.may_leave, list | tuple) else [""]
        named = self.strategies is None or isinstance(self.strategies, list | tuple)
        require(
            (all(k in KINDS for k in kinds), f"may_leave is a list of {', '.join(KINDS)}, not {self.may_leave!r}"),
            (named, f"strategies is a list of names, or null for any, not {self.strategies!r}"),
            (whole(self.min_examples), f"min_examples must be a whole number >= 1, not {self.min_examples!r}"),
            (
                self.dp_epsilon is None or positive(self.dp_epsilon),
                f"dp_epsilon must be > 0 or null, not {self.dp_epsilon!r}",
            ),
        )
        if self.largest_message is not None:
            parse_size(self.largest_message)

    def admit(self, strategy: str, kinds: Sequence[str], examples: int) -> None:
        """Raise `Refused` with the first reason why knowledge of these kinds may not leave."""
        if self.strategies is not None and strategy not in self.strategies:
            raise Refused(f"this site's policy allows strategies {', '.join(self.strategies)}, not {strategy}")
        if self.dp_epsilon is not None and kinds:
            raise Refused("this site's policy asks for differential privacy (dp_epsilon), and this run offers none")
        if forbidden := [kind for kind in kinds if kind not in self.may_leave]:
            allowed = ", ".join(self.may_leave) or "nothing"
            raise Refused(f"this site's policy lets {allowed} leave, not {', '.join(forbidden)}")
        if examples < self.min_examples:
            raise Refused(f"this site's policy wants {self.min_examples} examples behind what leaves; it has fewer")

    def admit_size(self, count: int) -> None:
        """Raise `Refused` when a reply of `count` bytes is larger than may leave."""
        if self.largest_message is not None and count > parse_size(self.largest_message):
            raise Refused(
                f"this site's policy lets replies of {self.largest_message} leave; this one has {count} bytes"
            )


@dataclass(frozen=True)
class Limits:
    """The most that a site does for one request; null for no limit."""

    epochs: float | None = None
    steps: int | None = None
    rounds: int | None = None

    def __post_init__(self) -> None:
        require(
            (self.epochs is None or positive(self.epochs), f"epochs must be > 0 or null, not {self.epochs!r}"),
            (self.steps is None or whole(self.steps), f"steps must be a whole number >= 1 or null, not {self.steps!r}"),
            (self.rounds is None or whole(self.rounds), f"rounds must be >= 1 or null, not {self.rounds!r}"),
        )

    def admit(self, local: Mapping[str, Any], rounds: int) -> None:
        """Raise `Refused` for local settings, or a number of rounds, beyond the limits."""
        steps = local.get("steps")
        if steps is not None and self.epochs is not None and self.steps is None:
            raise Refused("this site bounds epochs for one request: ask for local.epochs, not local.steps")
        asked = {"epochs": local.get("epochs") if steps is None else None, "steps": steps}
        for name, wanted in {**asked, "rounds": rounds}.items():
            most = getattr(self, name)
            if most is not None and number(wanted) and wanted > most:
                raise Refused(f"this site does at most {most} {name} for one request, not {wanted}")
