"""What a site keeps between rounds, in files of its own."""

from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from .files import load_tensors, rounds_in, save_tensors


class SiteStore:
    """Tensors of one site by round: `folder/<site>/round-<n>.safetensors`, each written atomically."""

    def __init__(self, folder: Path, site: str) -> None:
        self._folder = folder / site

    def load(self, before: int) -> dict[str, Tensor] | None:
        """The newest state of a round earlier than `before`, or None."""
        rounds = [number for number in rounds_in(self._folder) if number < before]
        return load_tensors(self._path(max(rounds)))[0] if rounds else None

    def at(self, number: int) -> dict[str, Tensor] | None:
        """The state of exactly this round, or None."""
        path = self._path(number)
        return load_tensors(path)[0] if path.is_file() else None

    def save(self, number: int, tensors: Mapping[str, Tensor], needed_from: int) -> None:
        """Keep the state of round `number`; drop what no resumption from round `needed_from` on can need."""
        save_tensors(self._path(number), tensors)
        held = rounds_in(self._folder)
        base = max((n for n in held if n <= needed_from), default=-1)
        for old in held:
            if old < base:
                self._path(old).unlink(missing_ok=True)

    def _path(self, number: int) -> Path:
        return self._folder / f"round-{number}.safetensors"
