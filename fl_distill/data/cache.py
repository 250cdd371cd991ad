"""Results that are slow to compute, kept between processes; a cache that cannot be used is never an error."""

import contextlib
import hashlib
import os
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from torch import Tensor


class Entry(NamedTuple):
    """Named tensors with a few words beside them."""

    tensors: Mapping[str, Tensor]
    words: Mapping[str, str]


def folder() -> Path:
    """`$FL_DISTILL_CACHE`, else `~/.cache/fl-distill`."""
    return Path(os.environ.get("FL_DISTILL_CACHE") or Path.home() / ".cache" / "fl-distill")


def key(kind: str, *parts: object) -> str:
    """A file name for the result of kind `kind` that depends on `parts` alone."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part if isinstance(part, bytes) else str(part).encode())
        digest.update(b"\x1f")
    return f"{kind}-{digest.hexdigest()[:32]}"


def fingerprint(files: Iterable[Path], root: Path) -> str:
    """What tells one state of these files from another: names under `root`, sizes and times."""
    stats = ((file.absolute().relative_to(root.absolute()).as_posix(), file.stat()) for file in files)
    return repr([(name, stat.st_size, stat.st_mtime_ns) for name, stat in stats])


def state_of(paths: Iterable[str | Iterable[str]]) -> str:
    """What tells one state of files, of lists of them and of everything in folders from another."""
    named = [Path(path).expanduser() for some in paths for path in ([some] if isinstance(some, str) else some)]
    files = [file for path in named for file in (sorted(path.rglob("*")) if path.is_dir() else [path])]
    return fingerprint([file for file in files if file.is_file()], Path("/")) if files else ""


def read(name: str) -> Entry | None:
    """The entry, its tensors mapped from the file so that processes share them; None when there is none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder() / f"{name}.safetensors", framework="pt") as file:
            tensors = {label: file.get_tensor(label) for label in file.keys()}  # noqa: SIM118
            return Entry(tensors, dict(file.metadata() or {}))
    except (OSError, RuntimeError, SafetensorError):
        return None


def write(name: str, entry: Entry) -> None:
    """Keep the entry: whole or not at all."""
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    with contextlib.suppress(OSError, RuntimeError, SafetensorError):
        target = folder() / f"{name}.safetensors"
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, draft = tempfile.mkstemp(prefix=f".{name}-", dir=target.parent)
        os.close(handle)
        try:
            save_file(dict(entry.tensors), draft, metadata=dict(entry.words))
            os.replace(draft, target)
        finally:
            Path(draft).unlink(missing_ok=True)
