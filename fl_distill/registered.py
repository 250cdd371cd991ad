"""Which node bears which name, where an operator keeps a list of the keys that were admitted."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

Registered = Callable[[], Mapping[str, int]] | None
"""Names of sites and their nodes, as they are at the moment; None where nobody keeps a list, and names are free."""

LIST = "sites.json"


def entries(path: Path) -> dict[str, dict[str, str]]:
    """What the list says of each site; OSError or ValueError where it cannot be read, or is not there."""
    found = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(found, dict):
        raise ValueError("it is no map of names")
    return found


def nodes(path: Path) -> dict[str, int]:
    """The node of each name in the list; OSError or ValueError where it cannot be read."""
    return {name: _node(entry) for name, entry in entries(path).items()}


def misnamed(name: str, node: int, registered: Registered) -> str | None:
    """Why a node may not call itself `name`, if so; a list that cannot be read admits nobody."""
    if registered is None:
        return None
    try:
        known = registered()
    except (OSError, ValueError) as error:
        return f"the operator's list of sites cannot be read ({error}): restore it"
    owner = next((listed for listed, owned in known.items() if owned == node), None)
    if owner == name:
        return None
    if owner is not None:
        return f"it calls itself {name!r}, its key is registered for {owner!r}: that belongs in its site.yaml as name"
    if name in known:
        return f"it calls itself {name!r}, which is registered for another key"
    return (
        f"it calls itself {name!r}, its key is not in the operator's list of sites: the operator admits it with "
        "`fl-distill federation register`"
    )


def name_of(node: int, registered: Registered) -> str | None:
    """The name that a node was registered under, if there is one to be read."""
    if registered is None:
        return None
    try:
        return next((name for name, owned in registered().items() if owned == node), None)
    except (OSError, ValueError):
        return None


def _node(entry: Any) -> int:
    try:
        return int(entry["node_id"])
    except (KeyError, TypeError) as error:
        raise ValueError("an entry without node_id") from error
