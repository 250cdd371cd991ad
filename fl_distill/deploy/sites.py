"""Which sites a federation admits: Flower's register of keys, with the names that the operator gave them."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ..errors import ConfigError, FlDistillError
from ..locks import alone
from ..programs import flwr
from ..registered import LIST, entries
from . import keys, processes
from .federation import connect
from .private import SECRET, replace
from .settings import Federation, name_faults, read_federation

CONNECTION = "federation"
GONE = ("unregistered", "deleted")
Known = dict[str, dict[str, str]]
"""What the list says of each name."""


def register(folder: Path, public: Path, name: str, expected: str | None = None) -> list[str]:
    """Admit the site that holds the private key of `public`, under a name that no other site has.

    Where the site said the fingerprint that it was shown, that is `expected`, no other key is admitted.
    """
    at, mark = read_federation(folder), mark_of(public)
    with alone(at.path(LIST)):
        known = _known(at)
        if faults := _register_faults(at, public, name, expected, mark, known):
            raise ConfigError(faults)
        answer = _flwr(at, "register", str(public), CONNECTION, "--name", name)
        now = datetime.now(UTC).isoformat("T", "seconds")
        _write(at, known | {name: {"node_id": str(answer["node-id"]), "key": mark, "registered": now}})
    compared = [] if expected else ["compare that key with what the site was shown"]
    return [f"{name} may join {at.name} with key {mark}", *compared]


def _register_faults(
    at: Federation, public: Path, name: str, expected: str | None, mark: str, known: Known
) -> list[str]:
    faults = name_faults(name, "--name")
    if expected not in (None, mark):
        faults.append(f"{public} holds key {mark}, not {expected}: do not admit it, ask the site for its key.pub again")
    if name in known:
        faults.append(
            f"the name {name} is taken, by key {known[name]['key']}: choose another, "
            f"or first `fl-distill federation remove {at.folder} {name}`"
        )
    return faults + [f"{public} is the key of {other} already" for other, s in known.items() if s["key"] == mark]


def mark_of(public: Path) -> str:
    """The fingerprint of the key in a site's key.pub."""
    return keys.fingerprint(keys.public_key(public))


def listed(folder: Path) -> list[str]:
    """A line for each site: name, whether it is online, and its key."""
    at = read_federation(folder)
    states = _states(at)
    names = {site["node_id"]: (name, site["key"]) for name, site in _known(at).items()}
    rows = [("site", "state", "key")]
    rows += [(*_named(names, node)[:1], state, _named(names, node)[1]) for node, state in sorted(states.items())]
    if len(rows) == 1:
        return [f"{at.name} has no sites yet: fl-distill federation register {at.folder} SITE.pub --name SITE"]
    widths = [max(len(row[at]) for row in rows) for at in range(2)]
    return [f"{name:<{widths[0]}}  {state:<{widths[1]}}  {key}" for name, state, key in sorted(rows[1:])]


def remove(folder: Path, name: str) -> list[str]:
    """Shut a site out; its key can never be registered again, so it needs a new one to return."""
    at = read_federation(folder)
    with alone(at.path(LIST)):
        known = _known(at)
        if name not in known:
            raise ConfigError(
                f"{at.name} has no site {name!r}: choose {', '.join(sorted(known)) or 'none, it has no sites'}"
            )
        node = known[name]["node_id"]
        if node in _states(at):
            _flwr(at, "unregister", node, CONNECTION)
        _write(at, {other: site for other, site in known.items() if other != name})
    return [f"{name} was removed; to come back it needs a new key (`fl-distill site new`)"]


def _named(names: Mapping[str, tuple[str, str]], node: str) -> tuple[str, str]:
    return names.get(node, (f"(node {node})", "registered without this command"))


def _states(at: Federation) -> dict[str, str]:
    nodes = _flwr(at, "list", CONNECTION)["nodes"]
    return {node["node-id"]: node["status"] for node in nodes if node["status"] not in GONE}


def _known(at: Federation) -> Known:
    file = at.path(LIST)
    try:
        return entries(file)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{file} cannot be read ({error}): restore it; a new one, with nothing but {{}}, admits no site of before"
        ) from error


def _write(at: Federation, known: Known) -> None:
    replace(at.path(LIST), json.dumps(known, indent=2) + "\n", SECRET)


def _flwr(at: Federation, *arguments: str) -> dict[str, Any]:
    """What `flwr supernode` answers, as JSON."""
    connect(at)
    if not processes.port_in_use(at.superlink_port):
        raise FlDistillError(f"no SuperLink runs on {at.superlink}: first `fl-distill federation start {at.folder}`")
    try:
        answer, said = flwr(at.home, "supernode", *arguments)
    except TimeoutError as error:
        raise FlDistillError(f"the SuperLink on {at.superlink} did not answer: {error}") from error
    if answer:
        return answer
    raise FlDistillError(_reason(said))


def _reason(output: str) -> str:
    said = " ".join(output.split())
    if "already in use" in said.lower():
        return (
            "this key is known to the SuperLink, of a site that was removed or under another name: "
            "the site makes a new one with `fl-distill site new`"
        )
    return f"flwr supernode: {said[-500:] or 'no reason given'}"
