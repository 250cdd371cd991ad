"""Files that are either whole or absent, whatever kills the process."""

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

_ORDER = "fl_distill.order"
_ROUND = re.compile(r"round-(\d+)\.safetensors")


def replace_with(path: Path, data: bytes) -> None:
    """Write `data` beside `path`, then put it in place in one step: safe against a kill, whenever it comes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(data)
        part.replace(path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """Write a safetensors file, whole or not at all; the format sorts names, so their order is noted beside them."""
    from safetensors.torch import save

    contiguous = {name: t.detach().cpu().contiguous() for name, t in tensors.items()}
    replace_with(path, save(contiguous, {**(metadata or {}), _ORDER: json.dumps(list(tensors))}))


def rounds_in(folder: Path) -> list[int]:
    """The rounds n of the files `round-<n>.safetensors` in a folder, ascending."""
    if not folder.is_dir():
        return []
    found = (_ROUND.fullmatch(path.name) for path in folder.iterdir())
    return sorted(int(match[1]) for match in found if match)


def load_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors, in the order saved, and the metadata of a safetensors file.

    Raises OSError or ValueError for a damaged one.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), "pt") as file:
            metadata = dict(file.metadata() or {})
            held = {*file.keys()}
            ordered = [name for name in json.loads(metadata.pop(_ORDER, "[]")) if name in held]
            return {name: file.get_tensor(name) for name in [*ordered, *sorted(held - {*ordered})]}, metadata
    except SafetensorError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
