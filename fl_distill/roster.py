"""Who takes part: which node is which site, asked of every node that connects."""

import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from . import __version__
from .asked import connections
from .checks import whole
from .collect import Collector, fault_of
from .errors import RunStopped
from .registered import Registered, misnamed, name_of
from .rollcall import RollCall, questions
from .strategies import Sender

_PATIENCE = 3
"""How often a node that fails to say who it is is asked, until it connects anew."""

RESERVED = ("server", "selected")
"""Names of models in a run's folder, which no site may have."""


@dataclass(frozen=True)
class Member:
    """One site, as it introduced itself."""

    name: str
    node: int
    model: str
    label_counts: tuple[int, ...]

    @property
    def examples(self) -> int:
        """Training examples at the site."""
        return sum(self.label_counts)


class Roster:
    """The sites of a run by name, in the order of their names."""

    def __init__(
        self,
        grid: Grid,
        collector: Collector,
        classes: tuple[str, ...],
        public: str = "",
        models: Collection[str] | None = None,
        registered: Registered = None,
    ) -> None:
        self._grid, self._collector, self._classes = grid, collector, classes
        self._public, self._models, self._registered = public, models, registered
        self._calls = RollCall(grid, collector.timeout_s)
        self._members: dict[str, Member] = {}
        self._by_node: dict[int, Member] = {}
        self._connections: Mapping[int, str] = {}
        self._due: set[int] = set()
        """Nodes to be asked again."""
        self._silent: dict[int, int] = {}
        self._doubles: dict[int, str] = {}
        """Nodes that bear the name of a member."""
        self.refused: dict[str, str] = {}
        """Nodes that may not take part, by registered name where there is one -> why."""

    @property
    def members(self) -> list[Member]:
        """All known sites, sorted by name."""
        return [self._members[name] for name in sorted(self._members)]

    def sender(self, node: int) -> Sender:
        """Which site a node is; one that is gone keeps its number as a name."""
        member = self._by_node.get(node)
        return Sender(member.name, member.model) if member else Sender(str(node))

    def ask(self, node: int) -> None:
        """Ask a node anew who it is; `refresh` will say when it has answered."""
        self._calls.ask([node])

    def refresh(self) -> set[int]:
        """Forget nodes that are gone, ask those that came (back) who they are; returns those that have answered.

        It waits for nobody: a node takes part from its answer on, however busy it was when it came.
        """
        there = connections(self._grid)
        new = self._newcomers(there)
        answers = self._calls.answers(there)
        for node, answer in answers.items():
            self._heard(node, answer, fault_of(answer))
        self._calls.ask(new)
        return set(answers)

    def call(self) -> None:
        """The same at the start of a run, where everybody is waited for."""
        new = self._newcomers(connections(self._grid))
        for reply in self._collector.collect(self._grid, questions(new)) if new else ():
            self._heard(reply.node, reply.message, reply.fault)

    def _newcomers(self, there: Mapping[int, str]) -> list[int]:
        """Nodes to be asked: those that have connected since the last time, and those that are due."""
        self._members = {name: member for name, member in self._members.items() if member.node in there}
        self._by_node = {member.node: member for member in self._members.values()}
        fresh = {node for node, connection in there.items() if self._connections.get(node) != connection}
        single = {node for node, name in self._doubles.items() if name not in self._members}
        new = (fresh | single | self._due) & there.keys()
        self._connections, self._due = there, set()
        self._silent = {node: times for node, times in self._silent.items() if node not in fresh}
        self._doubles = {node: name for node, name in self._doubles.items() if node not in new}
        return sorted(new)

    def _heard(self, node: int, answer: Message | None, fault: str | None) -> None:
        known = self._by_node.get(node)
        if answer is not None and fault is None:
            if known is not None:  # what it holds may have changed
                del self._members[known.name], self._by_node[node]
            self._admit(node, answer.content)
            return
        if known is not None:
            return  # what it said before still holds
        self.refused[self._label(node)] = fault or "no answer"
        self._silent[node] = self._silent.get(node, 0) + 1
        if self._silent[node] < _PATIENCE:
            self._due.add(node)

    def wait_for(self, wanted: int, least: int, seconds: float, stopped: Callable[[], None]) -> None:
        """Wait until `wanted` sites are there; after `seconds`, go on with `least`, or raise `RunStopped`."""
        deadline, pause = time.monotonic() + seconds, 0.005
        while True:
            stopped()
            if len(list(self._grid.get_node_ids())) >= wanted or time.monotonic() > deadline:
                self.call()
                if len(self._members) >= wanted or time.monotonic() > deadline:
                    break
                self._fail_early(wanted)
            time.sleep(pause)
            pause = min(2 * pause, 1.0)
        if len(self._members) < least:
            raise RunStopped(
                f"only {len(self._members)} sites joined within {seconds:.0f} s, {least} are needed{self._reasons()}"
            )

    def _fail_early(self, wanted: int) -> None:
        """A full set of answers that are all refusals will not get better by waiting."""
        if self.refused and not self._members and len(self.refused) >= wanted:
            raise RunStopped(f"no site can take part{self._reasons()}")

    def _reasons(self) -> str:
        first = list(dict.fromkeys(self.refused.values()))[:3]
        return ": " + "; ".join(first) if first else ""

    def _admit(self, node: int, content: RecordDict) -> None:
        about = content.config_records.get("site", ConfigRecord())
        if about.get("spare"):
            return
        if (fault := self._fault(node, about)) is not None:
            self.refused[self._label(node)] = fault
            if (name := str(about.get("name"))) in self._members:
                self._doubles[node] = name
            return
        counts = tuple(int(str(n)) for n in _items(about["label-counts"]))
        name = str(about["name"])
        self._members[name] = self._by_node[node] = Member(name, node, str(about["model"]), counts)
        self.refused.pop(self._label(node), None)

    def _label(self, node: int) -> str:
        return name_of(node, self._registered) or f"node {node}"

    def _fault(self, node: int, about: ConfigRecord) -> str | None:
        if missing := [key for key in ("name", "version", "model", "classes", "label-counts") if key not in about]:
            return f"it did not say its {', '.join(missing)}; is it running fl-distill {__version__}?"
        if about["version"] != __version__:
            return f"it runs fl-distill {about['version']!s}, the server {__version__}: install the same version"
        if tuple(map(str, _items(about["classes"]))) != self._classes:
            return f"its classes are {_items(about['classes'])}, the server's {list(self._classes)}"
        if not _file_name(str(about["name"])):
            return f"its name {str(about['name'])[:40]!r} cannot be that of a model's file: rename the site"
        if (why := misnamed(str(about["name"]), node, self._registered)) is not None:
            return why
        counts = _items(about["label-counts"])
        if len(counts) != len(self._classes) or not all(whole(count, 0) for count in counts):
            return f"its label-counts are no {len(self._classes)} whole numbers >= 0"
        if about.get("public", "") != self._public:
            theirs, ours = (str(text)[:8] or "none" for text in (about.get("public", ""), self._public))
            return (
                f"the public set of {about['name']!s} ({theirs}) is not the server's ({ours}): give all the same file, "
                "or in a simulation the same data, `public` and `seed`"
            )
        if self._models is not None and about["model"] not in self._models:
            return f"its model is {str(about['model'])[:40]!r}, the server knows {', '.join(sorted(self._models))}"
        known = self._members.get(str(about["name"]))
        return f"another node is already site {known.name!r}" if known and known.node != node else None


def _file_name(name: str) -> bool:
    """Whether a model's file can bear this name and lie in the folder that it should lie in."""
    fits = 0 < len(name) <= 200 and name.isprintable() and not name.startswith(".")
    return fits and not set(name) & set("/\\:") and name not in RESERVED


def _items(value: object) -> list[object]:
    return list(value) if isinstance(value, list | tuple) else [value]
