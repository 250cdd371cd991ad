"""A site that is slower than the others gets no new work while it is busy with old work."""

from fl_distill.owed import Owed
from fl_distill.roster import Member

SLOW, *OTHERS = MEMBERS = [Member(f"site-{number}", number, "mlp", (1,)) for number in range(3)]


def test_a_site_is_left_alone_until_it_answers() -> None:
    asked: list[int] = []
    waiting = Owed(asked.append)
    assert waiting.split(MEMBERS, 1) == (MEMBERS, {})
    waiting.add(SLOW.node, 4)
    waiting.add(SLOW.node, 5)
    assert asked == [SLOW.node], "once"
    assert waiting.split(MEMBERS, 1) == (OTHERS, {SLOW.name: "not asked: it has not answered round 4 yet"})
    assert waiting.split(MEMBERS, 3) == (MEMBERS, {}), "too few would be left"
    waiting.free({1, 2})
    assert waiting.split(MEMBERS, 1)[0] == OTHERS
    waiting.free({SLOW.node})
    assert waiting.split(MEMBERS, 1) == (MEMBERS, {})
    waiting.add(SLOW.node, 9)
    assert asked == [SLOW.node] * 2
