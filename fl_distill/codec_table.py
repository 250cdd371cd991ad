"""The `fl-distill-codecs` command: what each codec makes of the changes of your own model."""

import json
import math
import re
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor

from .codec.chain import Chain, chain
from .codec.coder import About
from .codec.layout import HALF, layout, schema_of_tensors
from .codec.presets import PRESETS
from .errors import BadUpdate, ConfigError, FlDistillError
from .files import load_tensors, rounds_in
from .targets import call
from .tracking.table import show

USAGE = """\
usage: fl-distill-codecs run=FOLDER | FILE.safetensors [CODEC ...]

FOLDER is that of a run whose sites send weights: compared are the changes of its newest round (from its checkpoints),
else those between its sites' models and the server's. FILE holds changes, one tensor a layer. A CODEC is a preset or a
sentence in quotes, such as "delta step0.5 zstd1"; without any, all presets are compared. A ring without a clip of its
own gets the least that clips nothing here. Seconds are the least of three, on one thread.
"""
HEAD = ("codec", "bits a number", "error (NMSE)", "encode", "decode", "encode GB/s", "decode GB/s")

Tensors = Mapping[str, Tensor]
T = TypeVar("T")
_TIMES = 3
_OPEN_RING = re.compile(r"\bring\d+x\d+(?=\s|$)")


def main(argv: Sequence[str] | None = None) -> None:
    """Entry point of the console script."""
    sys.exit(run(sys.argv[1:] if argv is None else argv))


def run(argv: Sequence[str]) -> int:
    """Print the table; returns the exit code."""
    if not argv or {"-h", "--help"} & {*argv}:
        print(USAGE, end="")
        return 0 if argv else 2
    try:
        tensors = changes(argv[0])
        torch.set_num_threads(1)
        lines = [row(said, tensors) for said in (argv[1:] or filter(_known, PRESETS))]
    except (FlDistillError, ValueError, OSError) as error:
        print(f"fl-distill-codecs: {error}", file=sys.stderr)
        return 2
    print(f"{sum(t.numel() for t in tensors.values())} numbers in {len(tensors)} tensors")
    show([HEAD, *lines], sys.stdout)
    return 0


def changes(place: str) -> dict[str, Tensor]:
    """The floating tensors to compare codecs on, as float32."""
    folder = place.removeprefix("run=")
    found = load_tensors(Path(place))[0] if folder == place else _of_run(Path(folder))
    floating = {name: t.float() for name, t in found.items() if t.is_floating_point() and t.numel()}
    if not floating:
        raise ConfigError(f"{place}: expected tensors of floating numbers, found none")
    return floating


def row(said: str, tensors: Tensors) -> tuple[str, ...]:
    """One line of the table; dashes where the codec does not take such numbers."""
    blank = ("–",) * (len(HEAD) - 1)
    if (made := chain(said)) is None:
        return (said, "32.00", "0", *blank[2:])
    if _OPEN_RING.search(made.text):
        said = _OPEN_RING.sub(lambda found: f"{found[0]}x{_clip(tensors)}", made.text)
        made = chain(said) or made
    try:
        return (said, *_measured(made, tensors))
    except (ValueError, BadUpdate) as error:
        return (f"{said} ({str(error).partition(';')[0]})", *blank)


def _known(preset: str) -> bool:
    """Whether this version has all of its steps."""
    try:
        return chain(preset) is not None
    except ValueError:
        return False


def _measured(made: Chain, tensors: Tensors) -> tuple[str, ...]:
    kept = layout(schema_of_tensors(tensors), keep=True).names(HALF) if made.keep else []
    coded = {name: t for name, t in tensors.items() if name not in kept}
    x, half = _flat(coded.values()), _flat(tensors[name] for name in kept)
    about = About(tuple(tuple(t.shape) for t in coded.values()), seed=1)
    data, encode = _timed(lambda: made.coder.encode(x, about))
    decoded, decode = _timed(lambda: made.coder.decode(data, about))
    wide, got = _flat((x, half)).double(), _flat((decoded, half.half().float()))
    error = float((wide - got).square().sum() / wide.square().sum().clamp_min(1e-300))
    speeds = (f"{4e-9 * len(x) / seconds:.2f}" for seconds in (encode, decode))
    return (
        f"{(8 * len(data) + 16 * len(half)) / len(wide):.2f}",
        f"{error:.2g}",
        f"{encode:.2g} s",
        f"{decode:.2g} s",
        *speeds,
    )


def _flat(tensors: Iterable[Tensor]) -> Tensor:
    return torch.cat([torch.empty(0), *(t.reshape(-1) for t in tensors)])


def _clip(tensors: Tensors) -> str:
    """The largest magnitude, rounded up to three digits, as a codec's sentence writes numbers."""
    largest = max(float(t.abs().max()) for t in tensors.values())
    digits = min(15, max(0, 2 - math.floor(math.log10(largest)))) if largest > 0 else 1
    return f"{math.ceil(largest * 10**digits) / 10**digits or 1:.{digits}f}"


def _timed(work: Callable[[], T]) -> tuple[T, float]:
    least = math.inf
    for _ in range(_TIMES):
        began = time.perf_counter()
        result = work()
        least = min(least, time.perf_counter() - began)
    return result, least


def _of_run(folder: Path) -> dict[str, Tensor]:
    if not folder.is_dir():
        raise ConfigError(f"run={folder}: there is no such folder")
    _check_strategy(folder)
    saved = folder / "checkpoints"
    numbers = rounds_in(saved)
    if len(numbers) >= 2:
        before, after = (_arrays(saved / f"round-{number:06d}.safetensors") for number in numbers[-2:])
        if found := _less(after, before):
            return found
    models = {file.stem: file for file in sorted((folder / "models").glob("*.safetensors"))}
    if "server" in models:
        server = load_tensors(models.pop("server"))[0]
        for file in models.values():
            if found := _less(load_tensors(file)[0], server):
                return found
    raise ConfigError(
        f"{folder} holds neither checkpoints of two rounds nor models of the server and a site of one architecture; "
        "run with checkpoint.keep=2 or more"
    )


def _check_strategy(folder: Path) -> None:
    """Raise `ConfigError` where sites do not send weights, so that nothing in the folder is like what travels."""
    try:
        config = json.loads((folder / "job.json").read_text(encoding="utf-8"))["config"]
    except (OSError, ValueError, KeyError):
        return  # an older folder, or one put together by hand
    if not call(config["strategy"]).has_server_model:
        raise ConfigError(
            f"{folder}: strategy={config['names']['strategy']} exchanges no weights, so there are no changes of a "
            "model to compare; name a run of fedavg, fedprox, fedsgd or feddf, or a file of tensors"
        )


def _arrays(path: Path) -> dict[str, Tensor]:
    tensors = load_tensors(path)[0]
    return {name.removeprefix("arrays/"): t for name, t in tensors.items() if name.startswith("arrays/")}


def _less(after: Tensors, before: Tensors) -> dict[str, Tensor]:
    """The change in each tensor; nothing where the models differ in form, or not at all."""
    if after.keys() != before.keys() or any(after[name].shape != t.shape for name, t in before.items()):
        return {}
    found = {name: after[name] - t for name, t in before.items() if t.is_floating_point()}
    return found if any(bool(t.any()) for t in found.values()) else {}


if __name__ == "__main__":
    main()
