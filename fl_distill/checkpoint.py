"""The state of a run after a round, in one file that is whole or absent."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from .files import load_tensors, rounds_in, save_tensors


@dataclass(frozen=True)
class Saved:
    """Everything that the server needs to go on after `round`.

    Random state needs no place here: every generator is made anew from the seed, its purpose and the round.
    """

    round: int
    arrays: Mapping[str, Tensor]
    strategy: Mapping[str, Tensor] = field(default_factory=dict)
    selected: Mapping[str, Tensor] = field(default_factory=dict)
    codec: Mapping[str, Tensor] = field(default_factory=dict)
    notes: Mapping[str, Any] = field(default_factory=dict)
    """Plain values: the row not yet closed, totals, the best round, ids of external trackers."""


class Checkpoints:
    """`folder/round-<n>.safetensors`, the newest `keep` of them."""

    def __init__(self, folder: Path, keep: int) -> None:
        self._folder, self._keep = folder, keep

    def save(self, state: Saved) -> None:
        """Write one checkpoint, then drop the oldest beyond `keep`."""
        groups = {"arrays": state.arrays, "strategy": state.strategy, "selected": state.selected, "codec": state.codec}
        tensors = {f"{group}/{name}": t for group, named in groups.items() for name, t in named.items()}
        notes = json.dumps({"round": state.round, "notes": state.notes})
        save_tensors(self._path(state.round), _unshared(tensors), {"state": notes})
        for old in rounds_in(self._folder)[: -self._keep]:
            self._path(old).unlink(missing_ok=True)

    def newest(self) -> Saved | None:
        """The newest checkpoint that can be read, or None."""
        for number in reversed(rounds_in(self._folder)):
            try:
                return _read(self._path(number))
            except (OSError, ValueError, KeyError):
                continue  # damaged, for example by a full disk of another time: the one before it will do
        return None

    def oldest(self) -> int:
        """The round of the oldest checkpoint; 0 where there is none."""
        return min(rounds_in(self._folder), default=0)

    def drop_after(self, number: int) -> None:
        """Remove checkpoints of later rounds."""
        for later in rounds_in(self._folder):
            if later > number:
                self._path(later).unlink(missing_ok=True)

    def _path(self, number: int) -> Path:
        return self._folder / f"round-{number:06d}.safetensors"


def _read(path: Path) -> Saved:
    tensors, metadata = load_tensors(path)
    state = json.loads(metadata["state"])
    groups: dict[str, dict[str, Tensor]] = {"arrays": {}, "strategy": {}, "selected": {}, "codec": {}}
    for name, tensor in tensors.items():
        group, _, rest = name.partition("/")
        groups[group][rest] = tensor
    return Saved(round=state["round"], notes=state["notes"], **groups)


def _unshared(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Safetensors refuses two names for one memory, as the current and the selected weights may be."""
    seen: set[int] = set()
    result = {}
    for name, tensor in tensors.items():
        result[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return result
