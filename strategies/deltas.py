"""Packed soft labels at the server: who holds which round's labels, so that only changes travel."""

from collections.abc import Mapping
from typing import final

import torch
from flwr.app import ArrayRecord
from torch import Tensor

from ..codec import Form, decode, encode, simplex, soft_labels
from ..errors import BadUpdate


@final
class Deltas:
    """The last labels of every site, the server's own last two, and what each site has heard.

    A site that fails, or misses a round, is forgotten: it then sends and receives everything once.
    """

    def __init__(self, bits_up: int, bits_down: int) -> None:
        self._up, self._down = bits_up, bits_down
        self._said: dict[str, tuple[int, Tensor]] = {}
        self._heard: dict[str, int] = {}
        self._answers: dict[int, Tensor] = {}
        self._asked: set[str] = set()

    @property
    def up(self) -> bool:
        """Whether sites send packed labels."""
        return self._up < 16

    @property
    def down(self) -> bool:
        """Whether sites receive packed labels."""
        return self._down < 16

    def form(self, declared: Mapping[str, Form], rows: int, classes: int) -> Form:
        """What a site's packed labels look like: their length is the site's, up to what full labels can cost."""
        form, most = declared.get("said", Form((0,), "uint8")), 1024 + 2 * rows * classes
        if len(form.shape) != 1 or form.shape[0] > most:
            raise BadUpdate(f"its packed labels are {form}, expected at most {most} bytes")
        return Form(form.shape, "uint8")

    def numbers(self) -> dict[str, Form]:
        """The rounds that a reply must name."""
        names = [*(["base"] if self.up else []), *(["heard"] if self.down else [])]
        return {name: Form((), "int64") for name in names}

    def read(self, parts: Mapping[str, Tensor], site: str, rows: int, classes: int) -> Tensor:
        """A site's probabilities (rows, classes)."""
        base = int(parts["base"])
        held = self._said.get(site)
        if base and (held is None or held[0] != base):
            raise BadUpdate(f"its labels refer to its labels of round {base}, which the server does not have")
        before = held[1] if base and held is not None else None
        return simplex.restore(soft_labels.unpack(parts["said"], rows, classes, self._up, before), self._up)

    def accept(self, parts: Mapping[str, Tensor], site: str, said: Tensor, number: int) -> None:
        """Remember what a site said in round `number`, and what it has heard."""
        if self.up:
            self._said[site] = (number, (said * (2**self._up - 1)).round().to(torch.uint8))
        if self.down:
            self._heard[site] = int(parts["heard"])
        self._asked.discard(site)

    def answered(self, levels: Tensor, number: int) -> None:
        """The server's labels of round `number`; the ones before stay, as sites may have heard no later ones."""
        newest = max(self._answers, default=None)
        self._answers = {number: levels} | ({newest: self._answers[newest]} if newest is not None else {})

    def share(self, arrays: ArrayRecord, site: str) -> ArrayRecord:
        """What one site receives: the change against what it has heard, or all, and what the server holds of it."""
        if not (self.up or self.down):
            return arrays
        if site in self._asked:  # it was asked before and did not answer: who knows what it has
            self._said.pop(site, None)
            self._heard.pop(site, None)
        self._asked.add(site)
        tensors = dict(decode(arrays))
        if self.up:
            tensors["holds"] = torch.tensor(self._said[site][0] if site in self._said else 0)
        if self.down and "consensus" in tensors:
            base = self._heard.get(site, 0)
            before = self._answers.get(base)
            tensors["consensus"] = soft_labels.pack(tensors["consensus"], self._down, before)
            tensors["base"] = torch.tensor(base if before is not None else 0)
        return encode(tensors, bare=True)

    def state(self) -> dict[str, Tensor]:
        """All labels and who holds them; sites and rounds are part of the names."""
        said = {f"said/{number}/{site}": levels for site, (number, levels) in self._said.items()}
        heard = {f"heard/{site}": torch.tensor(number) for site, number in self._heard.items()}
        asked = {f"asked/{site}": torch.tensor(1) for site in self._asked}
        return {**said, **heard, **asked, **{f"answer/{n}": levels for n, levels in self._answers.items()}}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave."""
        for name, tensor in state.items():
            kind, _, rest = name.partition("/")
            number, _, site = rest.partition("/")
            match kind:
                case "said":
                    self._said[site] = (int(number), tensor)
                case "heard":
                    self._heard[rest] = int(tensor)
                case "asked":
                    self._asked.add(rest)
                case "answer":
                    self._answers[int(rest)] = tensor
