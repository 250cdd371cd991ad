"""Who holds which model, as the codec left it, and whose residual counts."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor

Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Held:
    """A model that sites hold, as the codec left it."""

    tensors: Tensors
    id: int
    round: int


@final
class Holdings:
    """What a server must remember of its sites to send and to read changes.

    A model's stream is its record's key and form. A site holds what it was sent once its reply says that it arrived.
    """

    def __init__(self) -> None:
        self._streams: dict[str, Held] = {}
        self._holds: dict[str, dict[str, int]] = {}
        self._used: dict[str, int] = {}
        self._pending: dict[str, dict[str, int]] = {}

    def begin(self) -> None:
        """A new round: what was not answered was not heard."""
        self._pending = {}

    def newest(self, stream: str) -> Held | None:
        """The model of a stream that sites in step hold."""
        return self._streams.get(stream)

    def advance(self, stream: str, held: Held) -> None:
        """From now on sites in step hold this one, unless a round as late is there."""
        before = self._streams.get(stream)
        if before is None or before.round < held.round:
            self._streams[stream] = held

    def holds(self, site: str, key: str) -> int | None:
        """Which model a site is known to hold under a record's key."""
        return self._holds.get(site, {}).get(key)

    def sent(self, site: str, models: Mapping[str, int]) -> None:
        """Models by key are on their way: until the site answers, nobody knows what it holds."""
        self._holds.pop(site, None)
        self._pending[site] = dict(models)

    def heard(self, site: str) -> None:
        """The site answered: what was on its way arrived."""
        if site in self._pending:
            self._holds[site] = self._pending.pop(site)

    def use(self, number: int, sites: Iterable[str]) -> None:
        """The replies of these sites entered the result of round `number`."""
        self._used |= dict.fromkeys(sites, number)

    def last_used(self, site: str) -> int:
        """The round of the last reply of a site that was used, whose residual counts; 0: none was."""
        return self._used.get(site, 0)

    def state(self) -> dict[str, Tensor]:
        """What must survive a restart."""
        streams = {name: [held.id, held.round] for name, held in self._streams.items()}
        notes = json.dumps({"streams": streams, "holds": self._holds, "used": self._used}).encode()
        state = {f"{name}/{key}": t for name, held in self._streams.items() for key, t in held.tensors.items()}
        return {"notes": torch.frombuffer(bytearray(notes), dtype=torch.uint8), **state}

    def restore(self, state: Tensors) -> None:
        """Take back what `state` gave."""
        notes = json.loads(state["notes"].numpy().tobytes())
        self._holds, self._used = notes["holds"], notes["used"]
        for name, (identity, number) in notes["streams"].items():
            own = {key.removeprefix(f"{name}/"): t for key, t in state.items() if key.startswith(f"{name}/")}
            self._streams[name] = Held(own, identity, number)
