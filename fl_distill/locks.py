"""Files that are locked while a process lives, however it ends."""

import fcntl
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
