"""Sites that a round went on without: they get nothing new to do before they answer something."""

from collections.abc import Callable, Iterable, Sequence

from .roster import Member

BUSY = "not asked: it has not answered round {} yet"


class Owed:
    """Who still works on what nobody waits for any more.

    A SuperNode works on one message after the other, oldest first, so a slow one would fall ever further behind. Here
    it is asked who it is, at no cost, and gets work again with its answer, which comes after what it was busy with.
    """

    def __init__(self, ask: Callable[[int], None]) -> None:
        self._ask = ask
        self._since: dict[int, int] = {}

    def add(self, node: int, number: int) -> None:
        """A node did not answer round `number` in time."""
        if node not in self._since:
            self._since[node] = number
            self._ask(node)

    def free(self, nodes: Iterable[int]) -> None:
        """Nodes that have answered since they were asked."""
        for node in nodes:
            self._since.pop(node, None)

    def split(self, members: Sequence[Member], least: int) -> tuple[list[Member], dict[str, str]]:
        """Who may be asked, and why the others (by name) are not; all where fewer than `least` are free."""
        free = [member for member in members if member.node not in self._since]
        if len(free) < max(1, least):
            return list(members), {}
        return free, {m.name: BUSY.format(self._since[m.node]) for m in members if m.node in self._since}
