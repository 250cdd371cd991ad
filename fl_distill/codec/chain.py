"""Codecs as sentences: `delta residual rotate lloydmax4` is read from left to right, as data flows."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

from ..targets import close

# A step exists once it is imported.
from . import classes, codebook, floats, lloydmax, low_rank, ring, rotate, sign, sparse, step, uniform, zstd  # noqa: F401
from .coder import Coder, Entropy, Grid, Transform, words
from .presets import PRESETS, STEPS

NONE = "none"
_WORD = re.compile(r"([a-z][a-z_]*)((?:\d{1,9}(?:\.\d{1,15})?)(?:x\d{1,9}(?:\.\d{1,15})?)*)?")
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
KINDS: tuple[type, ...] = (Transform, Grid, Entropy)


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
    steps = parts[len(sources) :]
    if any(part in SOURCES for part in steps) or len({*sources}) < len(sources):
        raise ValueError(f"codec {text!r}: {', '.join(SOURCES)} come first, each once")
    classes_of = [_class(part) for part in steps]
    kinds = [next(kind for kind in KINDS if issubclass(cls, kind)) for cls in classes_of]
    if kinds.count(Grid) != 1 or kinds != sorted(kinds, key=KINDS.index):
        raise ValueError(f"codec {text!r}: transforms come first, then one grid, then an entropy coder")
    grid = kinds.index(Grid)
    coder = _made(classes_of[grid], steps[grid])
    for at in [*range(grid)[::-1], *range(grid + 1, len(steps))]:
        coder = _made(classes_of[at], steps[at], coder)
    return Chain(text, coder, **{source: source in sources for source in SOURCES})


def _class(part: str) -> type[Coder]:
    found = _WORD.fullmatch(part)
    known = words(Coder)  # type: ignore[type-abstract]
    if found and found[1] in known:
        return known[found[1]]
    if part in PRESETS:
        raise ValueError(f"{part!r} is a preset, which stands alone; it means {PRESETS[part]!r}: write those steps")
    if part == NONE:
        raise ValueError(f"{NONE!r} stands alone: nothing is coded")
    steps = STEPS | {word: word for word in known if word not in STEPS}
    names = list(dict.fromkeys([*PRESETS, *SOURCES, *steps.values(), NONE]))
    meant = close(part, names) or [steps[word] for word in close(found[1] if found else part, steps)]
    hint = f"did you mean {' or '.join(map(repr, meant))}?" if meant else f"there are {', '.join(names)}"
    raise ValueError(f"there is no codec or step {part!r}; {hint}")


def _made(cls: type[Coder], part: str, *inner: Coder) -> Coder:
    found = _WORD.fullmatch(part)
    texts = found[2].split("x") if found and found[2] else []
    numbers = [float(text) if "." in text else int(text) for text in texts]
    try:
        return cls(*inner, *numbers)
    except TypeError as error:
        raise ValueError(f"codec: {part!r} has too many numbers, or too few") from error
