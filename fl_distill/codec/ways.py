"""Which codec is used in which direction, and for whom."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from .chain import NONE, Chain, chain
from .classes import TopClasses
from .nearest import SIMPLEX
from .rate import parse_size


@dataclass(frozen=True)
class Way:
    """How tensors travel in one direction: a codec, and at most so many bytes a message (None: as many as it takes)."""

    codec: str = NONE
    bytes_per_round: int | None = None

    def __post_init__(self) -> None:
        chain(self.codec)
        if self.bytes_per_round is not None and self.bytes_per_round < 1:
            raise ValueError(f"bytes_per_round must be >= 1, not {self.bytes_per_round}")

    @property
    def chain(self) -> Chain | None:
        """The codec, read."""
        return chain(self.codec)


def way(said: "Way | str | Sequence[str] | Mapping[str, Any]") -> Way:
    """A way from a preset's name, a sentence, a list of steps, or a map with `codec` and `bytes_per_round`.

    A number of bytes without a codec means `step`, which can be as fine as the bytes allow.
    """
    if isinstance(said, Way):
        return said
    if not isinstance(said, str | Sequence | Mapping):
        raise ValueError(f"expected a preset such as int8, a sentence or a list of steps, not {said!r}")
    if not isinstance(said, Mapping):
        return Way(said if isinstance(said, str) else " ".join(map(str, said)))
    if unknown := said.keys() - {"codec", "bytes_per_round"}:
        raise ValueError(f"a direction has codec and bytes_per_round, not {', '.join(sorted(unknown))}")
    budget = said.get("bytes_per_round")
    codec = way(said.get("codec") or NONE).codec
    bounded = "step" if codec == NONE and budget is not None else codec
    return Way(bounded, None if budget is None else parse_size(budget))


@dataclass(frozen=True)
class Codecs:
    """The codecs of a run: each direction as `way` takes it.

    `full`: for whole models, where a receiver holds nothing that a change could be against. `sites`: a map site -> its
    own way up.
    """

    up: Way = field(default_factory=Way)
    down: Way = field(default_factory=Way)
    full: str = "fp16"
    sites: Mapping[str, Way] = field(default_factory=dict)

    def __post_init__(self) -> None:
        faults: list[str] = []
        object.__setattr__(self, "up", _read("up", self.up, faults))
        object.__setattr__(self, "down", _read("down", self.down, faults))
        if not isinstance(self.sites, Mapping):
            faults.append(f"sites is a map site -> codec, such as {{site-3: eden1}}, not {self.sites!r}")
        sites = self.sites if isinstance(self.sites, Mapping) else {}
        object.__setattr__(self, "sites", {k: _read(f"sites.{k}", v, faults) for k, v in sites.items()})
        try:
            whole = chain(self.full)
            if whole is None or whole.delta or whole.residual:
                faults.append(f"full is a codec without delta and residual, such as fp16, not {self.full!r}")
        except ValueError as error:
            faults.append(f"full: {error}")
        if faults:
            raise ValueError("; ".join(faults))

    @property
    def any(self) -> bool:
        """Whether anything is coded at all."""
        return any(found.chain for found in (self.up, self.down, *self.sites.values()))


def misfits(codecs: Codecs, rows: Mapping[str, str]) -> list[str]:
    """A sentence for each way whose codec is of probabilities, where `rows` (see `nearest`) names none that travel."""
    if SIMPLEX in rows.values():
        return []
    ways = {"up": codecs.up, "down": codecs.down} | {f"sites.{site}": own for site, own in codecs.sites.items()}
    return [
        f"codec.{name}={way.codec!r} is for rows of probabilities, and none travel: choose a strategy that exchanges "
        "them, such as dsfl, or another codec"
        for name, way in ways.items()
        if way.chain is not None and any(word.startswith(TopClasses.word) for word in way.chain.text.split())
    ]


def _read(name: str, said: Any, faults: list[str]) -> Way:
    try:
        return way(said)
    except (ValueError, TypeError) as error:
        faults.append(f"{name}: {error}".replace(";", ","))
        return Way()
