"""`fl-distill federation …` and `fl-distill site …`."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from . import certificates

if TYPE_CHECKING:
    _Commands = argparse._SubParsersAction[argparse.ArgumentParser]


def run(argv: Sequence[str]) -> int:
    """Run one of the commands; `argv` begins with `federation` or `site`."""
    arguments = _parser().parse_args(argv)
    code: int = arguments.do(arguments)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="fl-distill")
    sides = parser.add_subparsers(required=True, metavar="federation | site")
    operator = sides.add_parser(
        "federation", help="the operator's side", description="A federation: its certificates, SuperLink and sites."
    )
    _federation(operator.add_subparsers(required=True, metavar="COMMAND"))
    site = sides.add_parser("site", help="a site's side", description="A site: its key, its settings, its process.")
    _site(site.add_subparsers(required=True, metavar="COMMAND"))
    return parser


def _federation(commands: "_Commands") -> None:
    new = _command(commands, "new", "make a folder with certificates, units and proxy configuration", _new_federation)
    new.add_argument("--host", action="append", required=True, help="name or address that sites use; may be repeated")
    new.add_argument("--name", help="of the federation (default: the folder's)")
    new.add_argument("--port", type=int, default=9092, help="that sites reach: the proxy's (default: %(default)s)")
    new.add_argument("--superlink-port", type=int, default=9093, help="on 127.0.0.1 only (default: %(default)s)")
    _days(new)
    new.add_argument("--ca-days", type=int, default=certificates.CA_DAYS, help="the CA is valid (default: %(default)s)")
    renew = _command(commands, "renew", "sign a new server certificate; sites need change nothing", _renew)
    renew.add_argument("--host", action="append", default=[], help="as for new (default: as in federation.yaml)")
    _days(renew)
    _command(commands, "start", "run the SuperLink in the foreground", _start_federation)
    register = _command(commands, "register", "admit a site by its public key", _register)
    register.add_argument("public", metavar="SITE.pub", type=Path, help="the site's key.pub")
    register.add_argument("--name", required=True, help="of the site")
    register.add_argument("--fingerprint", metavar="SHA256:…", help="what the site was shown: admit no other key")
    _command(commands, "sites", "list the sites, and whether they are online", _sites)
    remove = _command(commands, "remove", "shut a site out", _remove)
    remove.add_argument("name", metavar="NAME", help="of the site")


def _site(commands: "_Commands") -> None:
    new = _command(commands, "new", "make a folder with a key and a settings file", _new_site)
    new.add_argument("--name", required=True, help="of the site")
    new.add_argument("--federation", required=True, metavar="HOST:PORT", help="where the federation's proxy listens")
    new.add_argument("--ca", required=True, type=Path, metavar="ca.pem", help="the operator's ca.pem")
    _command(commands, "start", "serve the federation in the foreground, with the data of this site", _start_site)


def _command(commands: "_Commands", name: str, about: str, do: object) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(name, help=about, description=about)
    parser.add_argument("folder", metavar="FOLDER", type=Path)
    parser.set_defaults(do=do)
    return parser


def _days(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--days", type=int, default=certificates.DAYS, help="server.pem is valid (default: %(default)s)"
    )


def _tell(lines: Sequence[str]) -> int:
    print("\n".join(lines))
    return 0


def _new_federation(asked: argparse.Namespace) -> int:
    from . import federation

    return _tell(
        federation.new(
            asked.folder,
            asked.host,
            name=asked.name,
            port=asked.port,
            superlink_port=asked.superlink_port,
            days=asked.days,
            ca_days=asked.ca_days,
        )
    )


def _renew(asked: argparse.Namespace) -> int:
    from . import federation

    return _tell(federation.renew(asked.folder, asked.host, asked.days))


def _start_federation(asked: argparse.Namespace) -> int:
    from . import federation

    federation.start(asked.folder)
    return 0


def _register(asked: argparse.Namespace) -> int:
    from . import sites

    print(f"{asked.public} holds key {sites.mark_of(asked.public)}", flush=True)
    return _tell(sites.register(asked.folder, asked.public, asked.name, asked.fingerprint))


def _sites(asked: argparse.Namespace) -> int:
    from . import sites

    return _tell(sites.listed(asked.folder))


def _remove(asked: argparse.Namespace) -> int:
    from . import sites

    return _tell(sites.remove(asked.folder, asked.name))


def _new_site(asked: argparse.Namespace) -> int:
    from . import site

    return _tell(site.new(asked.folder, asked.name, asked.federation, asked.ca))


def _start_site(asked: argparse.Namespace) -> int:
    from . import site

    return site.start(asked.folder)
