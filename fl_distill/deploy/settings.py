"""federation.yaml and site.yaml as the commands of this package read them; other keys are left to others."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..errors import ConfigError

NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
ISOLATIONS = ("subprocess", "process")


@dataclass(frozen=True)
class Federation:
    """What the operator's commands need; paths are absolute."""

    folder: Path
    name: str
    hosts: tuple[str, ...]
    port: int
    superlink_port: int
    isolation: str

    def path(self, name: str) -> Path:
        """A file of the federation's folder."""
        return self.folder / name

    @property
    def home(self) -> Path:
        """Flower's own folder: the connection, and apps."""
        return self.folder / "flwr"

    @property
    def superlink(self) -> str:
        """Where the SuperLink listens: this machine only."""
        return f"127.0.0.1:{self.superlink_port}"


@dataclass(frozen=True)
class Site:
    """What a site's commands need; paths are absolute."""

    folder: Path
    name: str
    address: str
    ca: Path
    key: Path
    state: Path
    """What the site remembers."""

    @property
    def online(self) -> Path:
        """Locked while a process is connected, and still there when it has died."""
        return self.state / "online"

    @property
    def settings(self) -> Path:
        """The file that the site's own process reads."""
        return self.folder / "site.yaml"

    @property
    def home(self) -> Path:
        """Flower's own folder: apps that the federation sent."""
        return self.folder / "flwr"


def read_federation(folder: Path) -> Federation:
    """Read FOLDER/federation.yaml, with every fault found at once."""
    folder = folder.expanduser().absolute()
    raw = _mapping(folder / "federation.yaml", "fl-distill federation new")
    inner = raw.get("superlink")
    inner = inner if isinstance(inner, Mapping) else {}
    faults = name_faults(raw.get("name"), "name")
    faults += port_faults(raw.get("port"), "port") + port_faults(inner.get("port"), "superlink.port")
    hosts = raw.get("hosts")
    if not isinstance(hosts, list) or not hosts or not all(isinstance(host, str) for host in hosts):
        faults.append(f"hosts must be a list of names or addresses, not {hosts!r}")
    isolation = inner.get("isolation", ISOLATIONS[0])
    if isolation not in ISOLATIONS:
        faults.append(f"superlink.isolation must be one of {', '.join(ISOLATIONS)}, not {isolation!r}")
    if faults:
        raise ConfigError([f"{folder / 'federation.yaml'}: {fault}" for fault in faults])
    return Federation(folder, raw["name"], tuple(raw["hosts"]), raw["port"], inner["port"], isolation)


def read_site(folder: Path) -> Site:
    """Read FOLDER/site.yaml, with every fault found at once."""
    folder = folder.expanduser().absolute()
    file = folder / "site.yaml"
    raw = _mapping(file, "fl-distill site new")
    inner = raw.get("federation")
    if not isinstance(inner, Mapping):
        raise ConfigError(f"{file}: federation must hold address, ca and key, not {inner!r}")
    faults = name_faults(raw.get("name"), "name") + address_faults(inner.get("address"))
    faults += [
        f"federation.{key} must be a path, not {inner.get(key)!r}"
        for key in ("ca", "key")
        if not isinstance(inner.get(key), str) or not inner[key]
    ]
    if faults:
        raise ConfigError([f"{file}: {fault}" for fault in faults])
    ca, key = (folder / Path(inner[key]).expanduser() for key in ("ca", "key"))
    state = folder / Path(str(raw.get("folder") or "state")).expanduser()
    return Site(folder, raw["name"], inner["address"], ca, key, state)


def split(address: str) -> tuple[str, int]:
    """Host and port of `host:port` or `[IPv6]:port`."""
    host, _, port = address.rpartition(":")
    return host.strip("[]"), int(port)


def name_faults(name: object, what: str) -> list[str]:
    """A sentence if `name` cannot name a federation or a site."""
    if isinstance(name, str) and NAME.fullmatch(name):
        return []
    return [f"{what} must be 1 to 63 of a-z, 0-9, '.', '_' and '-', beginning with a letter or digit, not {name!r}"]


def port_faults(port: object, what: str) -> list[str]:
    """A sentence if `port` is no TCP port."""
    if isinstance(port, int) and not isinstance(port, bool) and 0 < port < 65536:
        return []
    return [f"{what} must be a port from 1 to 65535, not {port!r}"]


def address_faults(address: object) -> list[str]:
    """A sentence if `address` is not host:port."""
    shape = r"(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+):([0-9]{1,5})"
    found = re.fullmatch(shape, address) if isinstance(address, str) else None
    if found and 0 < int(found[2]) < 65536:
        return []
    return [f"the federation's address must be host:port such as fl.example.org:9092, not {address!r}"]


def _mapping(path: Path, maker: str) -> dict[str, Any]:
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}): `{maker}` makes such a folder") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} must hold settings as `key: value`, not {type(raw).__name__}")
    return raw
