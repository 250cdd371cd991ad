"""The operator's side: a folder that holds a whole federation, and its SuperLink."""

import os
import secrets
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import ConfigError
from ..programs import environment, program
from ..registered import LIST
from . import certificates, processes, proxy, units
from .private import FOLDER, SECRET, attempt, exposed, missing, new_folder, replace, write_new
from .settings import Federation, name_faults, port_faults, read_federation

SUPERLINK_PORT = 9093
_YAML = """\
# Made by `fl-distill federation new`. Other files lie in the same folder under fixed names: ca.pem and ca.key (the
# authority; move ca.key to a safe place, only `renew` needs it), server.pem and server.key, superexec.secret.
name: {name}
hosts: [{hosts}]
port: {port}                      # sites reach this one: the proxy, see nginx.conf
superlink:
  port: {inner}                    # on 127.0.0.1 only, behind the proxy
  isolation: subprocess         # process: start `flower-superexec` yourself, with superexec.secret
"""
_TOML = """\
[superlink]
default = "federation"

[superlink.federation]
address = "{address}"
root-certificates = '{ca}'
"""


def new(
    folder: Path,
    hosts: Sequence[str],
    *,
    name: str | None = None,
    port: int = 9092,
    superlink_port: int = SUPERLINK_PORT,
    days: int = certificates.DAYS,
    ca_days: int = certificates.CA_DAYS,
) -> list[str]:
    """Make the folder of a federation; returns what to tell the operator."""
    name = name or folder.expanduser().absolute().name.lower()
    faults = certificates.host_faults(hosts) + name_faults(name, "the federation's name (--name)")
    faults += port_faults(port, "--port") + port_faults(superlink_port, "--superlink-port")
    if port == superlink_port:
        faults.append(f"--port and --superlink-port are both {port}: sites reach the proxy, the proxy the SuperLink")
    faults += [f"--{key} must be at least 1" for key, value in (("days", days), ("ca-days", ca_days)) if value < 1]
    if faults:
        raise ConfigError(faults)
    with new_folder(folder) as made:
        ca = certificates.authority(name, ca_days)
        _certify(made, ca, certificates.server(ca, hosts, days))
        write_new(made / "superexec.secret", secrets.token_hex(32), SECRET)
        text = _YAML.format(name=name, hosts=", ".join(f'"{h}"' for h in hosts), port=port, inner=superlink_port)
        write_new(made / "federation.yaml", text)
        write_new(made / LIST, "{}\n", SECRET)  # from now on a node that it does not name is nobody
        write_new(made / "nginx.conf", proxy.nginx(port, superlink_port))
        write_new(made / "superlink.service", units.superlink(made, name))
        write_new(made / "proxy.service", units.proxy(made, name))
        write_new(made / "compose.yaml", units.compose(port))
        for inner in ("nginx", "flwr"):
            (made / inner).mkdir(FOLDER)
        connect(read_federation(made))
    return [
        f"{made} holds the federation {name} for {', '.join(hosts)}, port {port}",
        f"give every site {made / 'ca.pem'}; keep the rest here, ca.key above all",
        f"next: fl-distill federation start {made}",
    ]


def renew(folder: Path, hosts: Sequence[str] = (), days: int = certificates.DAYS) -> list[str]:
    """A new server certificate from the same authority, so that no site has to change anything."""
    at = read_federation(folder)
    hosts = hosts or at.hosts
    faults = certificates.host_faults(hosts) + missing(at.path("ca.pem"), at.path("ca.key"))
    if faults or days < 1:
        raise ConfigError(faults or "--days must be at least 1")
    ca = certificates.load_signed(at.path("ca.pem"), at.path("ca.key"))
    if expired := certificates.validity_faults(at.path("ca.pem"), "make a new federation, its sites need its ca.pem"):
        raise ConfigError(expired)
    fresh = certificates.server(ca, hosts, days)
    replace(at.path("server.key"), fresh.key_pem, SECRET)
    replace(at.path("server.pem"), fresh.pem)
    until = fresh.certificate.not_valid_after_utc
    return [f"server.pem is for {', '.join(hosts)} until {until:%Y-%m-%d}", "restart the SuperLink and nginx"]


def start(folder: Path) -> None:
    """Become the federation's SuperLink; returns only by raising ConfigError."""
    at = read_federation(folder)
    if faults := _faults(at):
        raise ConfigError(faults)
    connect(at)
    command, variables = superlink_command(at), environment(at.home)
    print(f"{at.name}: SuperLink on https://{at.superlink}, for the proxy only; log: {at.path('superlink.log')}")
    sys.stdout.flush()
    os.umask(0o077)  # the database and the log are the operator's
    os.execve(command[0], command, variables)


def superlink_command(at: Federation) -> list[str]:
    """flower-superlink with TLS, node authentication, a database, and no installing of what an app asks for."""
    host, port = at.superlink.split(":")
    secret = ["--superexec-auth-secret-file", str(at.path("superexec.secret"))] if at.isolation == "process" else []
    return [
        program("flower-superlink"),
        *("--host", host, "--port", port),
        *("--ssl-certfile", str(at.path("server.pem")), "--ssl-keyfile", str(at.path("server.key"))),
        *("--ssl-ca-certfile", str(at.path("ca.pem"))),
        "--enable-supernode-auth",
        *("--database", str(at.path("superlink.db"))),
        "--disable-runtime-dependency-installation",
        *("--log-file", str(at.path("superlink.log"))),
        *("--isolation", at.isolation, *secret),
    ]


def connect(at: Federation) -> None:
    """Write the connection `federation`, the default one, for Flower's own command with FLWR_HOME=FOLDER/flwr."""
    at.home.mkdir(FOLDER, exist_ok=True)
    file, text = at.home / "config.toml", _TOML.format(address=at.superlink, ca=at.path("ca.pem"))
    if not file.is_file() or file.read_text(encoding="utf-8") != text:
        replace(file, text)


def _certify(folder: Path, ca: certificates.Signed, server: certificates.Signed) -> None:
    for stem, pair in (("ca", ca), ("server", server)):
        write_new(folder / f"{stem}.pem", pair.pem)
        write_new(folder / f"{stem}.key", pair.key_pem, SECRET)


def _faults(at: Federation) -> list[str]:
    ca, server, key, secret = (at.path(n) for n in ("ca.pem", "server.pem", "server.key", "superexec.secret"))
    if absent := missing(ca, server, key, secret):
        return [*absent, "such a folder is made by `fl-distill federation new`"]
    renewal = f"fl-distill federation renew {at.folder}"
    faults = exposed(key) + exposed(secret)
    faults += attempt(lambda: certificates.validity_faults(ca, "make a new federation, its sites need its ca.pem"))
    faults += attempt(lambda: certificates.validity_faults(server, renewal))
    faults += attempt(lambda: certificates.pair_faults(server, key, ca))
    return faults + processes.port_in_use(at.superlink_port)
