"""Files of a deployment: secrets that only their owner reads, and nothing overwritten silently."""

import contextlib
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import ConfigError

SECRET, PUBLIC, FOLDER = 0o600, 0o644, 0o700


@contextlib.contextmanager
def new_folder(folder: Path) -> Iterator[Path]:
    """A folder of mode 0700 that did not exist or was empty; left as it was found if making its content fails."""
    folder = folder.expanduser().absolute()
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise ConfigError(f"{folder} exists and is not empty: choose a new folder; nothing was changed")
        folder.mkdir(mode=FOLDER, parents=True, exist_ok=True)
        folder.chmod(FOLDER)
    except OSError as error:
        raise ConfigError(f"{folder} cannot be made: {error.strerror or error}") from error
    try:
        yield folder
    except BaseException:
        for path in sorted(folder.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
        folder.rmdir()
        raise


def write_new(path: Path, content: bytes | str, mode: int = PUBLIC) -> Path:
    """Create a file that must not exist yet, with its mode from the first moment on."""
    data = content.encode() if isinstance(content, str) else content
    try:
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
    except FileExistsError as error:
        raise ConfigError(f"{path} exists already and stays as it is: move it away first") from error
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror or error}") from error
    with os.fdopen(handle, "wb") as file:
        os.fchmod(handle, mode)  # whatever the umask
        file.write(data)
    return path


def replace(path: Path, content: bytes | str, mode: int = PUBLIC) -> None:
    """Put a new file in the place of an old one in one step."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    part.unlink(missing_ok=True)
    write_new(part, content, mode)
    part.replace(path)


def missing(*paths: Path) -> list[str]:
    """A sentence for each path that is no readable file."""
    faults = []
    for path in paths:
        if not path.is_file():
            faults.append(f"{path} does not exist")
        elif not os.access(path, os.R_OK):
            faults.append(f"{path} cannot be read by this user")
    return faults


def exposed(path: Path) -> list[str]:
    """A sentence if others than its owner can reach a secret, or if another user owns it."""
    found = path.stat()
    mode = stat.S_IMODE(found.st_mode)
    if mode & 0o077:
        return [f"{path} has mode {mode:04o}, others can reach this secret: chmod 600 {path}"]
    if found.st_uid not in (os.geteuid(), 0):
        return [f"{path} belongs to user {found.st_uid}, this process runs as {os.geteuid()}: run it as the owner"]
    return []


def attempt(check: Callable[[], list[str]]) -> list[str]:
    """The faults that a check finds, or the one that stopped it."""
    try:
        return check()
    except ConfigError as error:
        return error.faults
