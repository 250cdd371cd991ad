"""Who waits is woken by whoever rings, from another process too."""

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from fl_distill.runtime import bell as bells
from fl_distill.runtime.bell import Bell, rope
from fl_distill.runtime.ledger import Reader, Writer
from fl_distill.runtime.shared import Address, Region

LONG = 30.0


@pytest.fixture
def bell() -> Iterator[Bell]:
    held, bells._held = bells._held, {}
    one = Bell()
    yield one
    one.close()
    one.close()
    for end in bells._held.values():
        os.close(end)
    bells._held = held


def waited(bell: Bell, seconds: float = LONG) -> float:
    began = time.monotonic()
    bell.wait(seconds)
    return time.monotonic() - began


def test_it_wakes_who_waits_from_another_process(bell: Bell) -> None:
    address = Address.of(bell.descriptor)
    child = os.fork()
    if not child:
        code = 1
        try:
            ring = rope(address)
            assert ring is not None
            ring()
            code = 0
        finally:
            os._exit(code)
    assert waited(bell) < LONG / 2
    assert os.waitpid(child, 0)[1] == 0


def test_it_wakes_once_for_all_that_was_rung_before(bell: Bell) -> None:
    ring = rope(Address.of(bell.descriptor))
    assert ring is not None
    for _ in range(100_000):  # more than a pipe holds
        ring()
    assert waited(bell) < LONG / 2
    while bell._poll.poll(0):  # the rest of what a full pipe holds
        bell.wait(0)
    assert waited(bell, 0.05) > 0.04
    threading.Timer(0.05, ring).start()
    assert waited(bell) < LONG / 2


@pytest.mark.usefixtures("bell")
def test_ringing_what_is_gone_does_no_harm() -> None:
    gone = Bell()
    ring = rope(Address.of(gone.descriptor))
    gone.close()
    assert ring is not None
    ring()


def test_only_the_bell_that_is_meant_is_taken_for_it(bell: Bell, tmp_path: Path) -> None:
    address = Address.of(bell.descriptor)
    device, inode = address.file
    with (tmp_path / "other").open("w") as other:
        wrong = [
            replace(address, file=(device, inode + 1)),
            replace(address, process=2**22 + 5),
            replace(address, machine="another"),
            Address.of(other.fileno()),
        ]
        assert [rope(at) for at in wrong] == [None] * 4


def test_a_worker_rings_for_an_answer_and_when_it_waits_for_more(bell: Bell) -> None:
    reader, rung = Reader(bell), []
    writer = Writer(Region(os.dup(reader.descriptor), writable=True), lambda: rung.append(reader._get(0)))
    writer.put(b"head", [b"body"])
    assert rung == [1]  # what is rung for is there
    assert writer.posted(0, 0.0) is None
    assert len(rung) == 2
    assert reader.awaited
    reader.close()


def test_the_ropes_that_were_wanted_last_are_held(bell: Bell, tmp_path: Path) -> None:
    ring = rope(Address.of(bell.descriptor))
    assert ring is not None
    others = [Bell() for _ in range(bells._MOST_HELD)]
    for one in others[:-1]:
        assert rope(Address.of(one.descriptor)) is not None
    rope(Address.of(bell.descriptor))
    assert rope(Address.of(others[-1].descriptor)) is not None  # drops that of the first of the others
    ring()
    assert waited(bell) < LONG / 2
    for one in others[:-1]:
        assert rope(Address.of(one.descriptor)) is not None
    with (tmp_path / "another").open("wb", buffering=0) as file:  # has the number of a rope by now
        ring()
        assert file.tell() == 0
    for one in others:
        one.close()
