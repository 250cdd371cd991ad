"""A site that is slower than the others gets no new work while it is busy with old work."""

import time

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from fl_distill import owed
from fl_distill.asked import Passing
from fl_distill.owed import Owed
from fl_distill.roster import Member
from fl_distill.runtime.process_grid import ProcessGrid


def app() -> ClientApp:
    made = ClientApp()

    @made.query()
    def query(message: Message, context: Context) -> Message:
        return Message(RecordDict({"site": ConfigRecord({})}), reply_to=message)

    return made


class Losing(Passing):
    """A grid that loses what it is given at first."""

    lost = 1

    def push_messages(self, messages):  # type: ignore[no-untyped-def]
        if self.lost:
            self.lost -= 1
            return ["lost" for _ in messages]
        return self.grid.push_messages(messages)


def heard(node: int, content: RecordDict) -> None:
    assert "site" in content


def members(grid: ProcessGrid) -> list[Member]:
    return [Member(f"site-{at}", node, "mlp", (1,)) for at, node in enumerate(sorted(grid.get_node_ids()))]


def test_a_site_is_left_alone_until_it_answers() -> None:
    with ProcessGrid(app(), nodes=3, workers=0) as grid:
        slow, *others = members(grid)
        waiting = Owed(Losing(grid), 60, heard)
        assert waiting.split([slow, *others], 1) == ([slow, *others], {})
        waiting.add(slow.node, 4)
        assert waiting.split([slow, *others], 1) == (others, {slow.name: "not asked: it has not answered round 4 yet"})
        assert waiting.split([slow, *others], 3) == ([slow, *others], {}), "too few would be left"


def test_what_is_lost_is_asked_again(monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(owed, "AGAIN_S", 0.0)
    with ProcessGrid(app(), nodes=2, workers=0) as grid:
        slow, other = members(grid)
        waiting = Owed(Losing(grid), 60, heard)
        waiting.add(slow.node, 4)
        deadline = time.monotonic() + 30
        while waiting.split([slow, other], 1)[1]:
            waiting.refresh()
            assert time.monotonic() < deadline
            time.sleep(0.01)
        assert waiting.split([slow, other], 1) == ([slow, other], {})


def test_a_site_that_is_gone_owes_nothing() -> None:
    with ProcessGrid(app(), nodes=2, workers=0) as grid:
        (known, *_) = members(grid)
        gone = Member("gone", 12345, "mlp", (1,))
        waiting = Owed(Losing(grid), 60, heard)
        waiting.add(gone.node, 4)
        waiting.refresh()
        assert waiting.split([known, gone], 1) == ([known, gone], {})
