"""The finest codec of a kind whose bytes stay within a budget."""

import math
import re
from collections.abc import Callable

from torch import Tensor

from ..checks import require, whole
from .chain import Chain, chain
from .coder import About
from .presets import PRESETS

SAMPLE = 65_536
"""Numbers that are enough to tell how well the rest compresses."""
WITH_BITS = ("uniform", "lloydmax")
"""Grids whose first number is how many bits a code has."""

_STEP = re.compile(r"\bstep(\d+(\.\d+)?)?(?=\s|$)")
_BITS = re.compile(r"\b({})(\d+)(?=x|\s|$)")
_FINEST, _COARSEST = -1500, 1000  # widths are 10^(i / 500): from 0.001 to 100, half a percent apart
_UNITS = {"": 1, "b": 1} | {
    f"{letter}{i}b": (1024 if i else 1000) ** power for power, letter in enumerate("kmgt", start=1) for i in ("", "i")
}
_SIZE = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([a-zA-Z]*)\s*")


class TooFew(ValueError):
    """Nothing of a kind keeps to a budget; `needed` bytes are the least it can do with."""

    def __init__(self, said: str, needed: int, budget: int) -> None:
        super().__init__(f"codec {said!r} needs {needed} bytes, more than the budget of {budget}; none is coarser")
        self.needed = needed


def sample(x: Tensor) -> Tensor:
    """At most 65,536 numbers of a vector, at equal distances, so that every layer has its part; contiguous."""
    return x[:: max(1, math.ceil(len(x) / SAMPLE))].contiguous()


def fitted(said: str, seen: Tensor, numel: int, budget: int) -> str:
    """The text of a chain like `said` whose bytes for `numel` numbers are at most `budget`, and as near as may be.

    Of a chain with `step` the width is found by bisection, from what the numbers `seen` (see `sample`) come to: of a
    large model within a sixth, mostly too short. Where its bytes are then B, ask again with budget^2 / B. Of a chain
    with bits, the most that surely fit; any other as it is. `TooFew` where nothing fits, with the least possible.
    """
    require((whole(budget), f"a budget must be a whole number of bytes >= 1, not {budget!r}"))
    said = PRESETS.get(said.strip(), said)
    if _STEP.search(said):
        return _by_width(said, seen, numel, budget)
    pattern = _with_bits()
    if pattern.search(said):
        texts = [pattern.sub(rf"\g<1>{bits}", said) for bits in range(8, 0, -1)]
        return _first([text for text in texts if _exists(text)] or [said], lambda text: _bound(text, numel), budget)
    return _first([said], lambda text: _bound(text, numel), budget)


def adjustable(said: str) -> bool:
    """Whether a sentence has a width or bits that `fitted` can choose."""
    return bool(_STEP.search(said) or _with_bits().search(said))


def parse_size(text: str | int) -> int:
    """Bytes: `200kB` is 200,000, `1.5MB` 1,500,000, `64KiB` 65,536; a plain number is bytes."""
    found = _SIZE.fullmatch(str(text))
    unit = _UNITS.get(found[2].lower()) if found else None
    count = round(float(found[1]) * unit) if found and unit else 0
    require((count >= 1, f"a size is a number of bytes such as 200kB, 1.5MB or 64KiB, not {text!r}"))
    return count


def _with_bits() -> re.Pattern[str]:
    return re.compile(_BITS.pattern.format("|".join(WITH_BITS)))


def _by_width(said: str, seen: Tensor, numel: int, budget: int) -> str:
    def text(index: int) -> str:
        return _STEP.sub(f"step{10 ** (index / 500):.4g}", said)

    def size(index: int) -> int:
        return math.ceil(len(_made(text(index)).coder.encode(seen, About(((len(seen),),)))) * numel / max(1, len(seen)))

    coarse, fine = _COARSEST, _FINEST - 1
    _first([text(coarse)], lambda _: size(coarse), budget)
    while coarse - fine > 1:
        middle = (coarse + fine) // 2
        coarse, fine = (middle, fine) if size(middle) <= budget else (coarse, middle)
    return text(coarse)


def _first(texts: list[str], size: Callable[[str], int], budget: int) -> str:
    """The first text that fits; they come from the largest to the smallest."""
    for text in texts:
        if (needed := size(text)) <= budget:
            return text
    raise TooFew(texts[-1], needed, budget)


def _exists(text: str) -> bool:
    try:
        return chain(text) is not None
    except ValueError:
        return False


def _made(text: str) -> Chain:
    made = chain(text)
    if made is None:
        raise ValueError(f"codec {text!r} has no bytes to fit into a budget")
    return made


def _bound(text: str, numel: int) -> int:
    return _made(text).coder.lengths(About(((numel,),)))[1]
