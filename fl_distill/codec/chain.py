"""Codecs as sentences: `delta residual rotate lloydmax4` is read from left to right, as data flows."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from ..targets import nearest

# A step exists once it is imported.
from . import classes, codebook, floats, lloydmax, low_rank, ring, rotate, sign, sparse, step, uniform, zstd  # noqa: F401
from .coder import Coder, Entropy, Grid, Transform, words
from .presets import PRESETS

NONE = "none"
_WORD = re.compile(r"([a-z][a-z_]*)((?:\d+(?:\.\d+)?)(?:x\d+(?:\.\d+)?)*)?")
_LONGEST = 200


@dataclass(frozen=True)
class Chain:
    """What a vector goes through: its source, then a coder of nested steps.

    `delta`: the change against what the receiver already holds, where it holds something. `residual`: what was lost
    before is added (error feedback). `keep`: first, last and small layers travel as float16.
    """

    text: str
    coder: Coder
    delta: bool = False
    residual: bool = False
    keep: bool = False


SOURCES = ("delta", "residual", "keep")


def chain(said: str | Sequence[str]) -> Chain | None:
    """The chain that a preset's name, a sentence or a list of words describes; None for `none`.

    Raises ValueError for a word that is unknown, misplaced or has impossible numbers.
    """
    parts = said.split() if isinstance(said, str) else [str(word) for word in said]
    if parts in ([], [NONE]):
        return None
    if len(parts) == 1:
        parts = PRESETS.get(parts[0], parts[0]).split()
    return _parsed(" ".join(parts))


@lru_cache(maxsize=64)
def _parsed(text: str) -> Chain:
    if len(text) > _LONGEST:
        raise ValueError(f"a codec has at most {_LONGEST} characters, not {len(text)}")
    parts = text.split()
    sources = [part for part in parts if part in SOURCES]
    steps = [part for part in parts if part not in SOURCES]
    if parts != [*sources, *steps] or len({*sources}) < len(sources):
        raise ValueError(f"codec {text!r}: {', '.join(SOURCES)} come first, each once")
    kinds = [_kind(step) for step in steps]
    order = [kind for _, kind in kinds]
    grids = order.count(Grid)
    if grids != 1 or order != sorted(order, key=[Transform, Grid, Entropy].index):
        raise ValueError(f"codec {text!r}: transforms come first, then one grid, then an entropy coder")
    grid = order.index(Grid)
    coder = _made(kinds[grid][0], steps[grid])
    for (cls, _), step in zip([*kinds[:grid][::-1], *kinds[grid + 1 :]], [*steps[:grid][::-1], *steps[grid + 1 :]]):
        coder = _made(cls, step, coder)
    return Chain(text, coder, **{source: source in sources for source in SOURCES})


def _kind(step: str) -> tuple[type[Coder], type[Coder]]:
    found = _WORD.fullmatch(step)
    for kind in (Transform, Grid, Entropy):
        if found and found[1] in words(kind):
            return words(kind)[found[1]], kind
    known = [*PRESETS, *SOURCES, *(word for kind in (Transform, Grid, Entropy) for word in words(kind))]
    word = found[1] if found else step
    raise ValueError(f"codec: there is no step {step!r}{nearest(word, known)}; steps are {', '.join(sorted(known))}")


def _made(cls: type[Coder], step: str, *inner: Coder) -> Coder:
    found = _WORD.fullmatch(step)
    texts = found[2].split("x") if found and found[2] else []
    numbers = [float(text) if "." in text else int(text) for text in texts]
    try:
        return cls(*inner, *numbers)  # type: ignore[arg-type]
    except TypeError as error:
        raise ValueError(f"codec: {step!r} has too many numbers, or too few") from error
