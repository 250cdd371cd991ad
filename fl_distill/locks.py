"""Files that are locked while a process lives, however it ends."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO


def locked(path: Path) -> TextIO:
    """A new file, open for writing, that is locked from the first moment that anybody can see it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.part")
    file = part.open("w", encoding="utf-8")
    fcntl.flock(file, fcntl.LOCK_EX)
    part.replace(path)
    return file


def is_locked(path: Path) -> bool:
    """Whether the process that made the file is still there."""
    if not path.exists():
        return False
    with path.open(encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@contextmanager
def alone(path: Path) -> Iterator[None]:
    """Be the only one who changes the file at `path`, which may be replaced meanwhile; waits for who was first."""
    handle = os.open(path.with_name(f".{path.name}.lock"), os.O_RDWR | os.O_CREAT, 0o600)
    with os.fdopen(handle, "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
