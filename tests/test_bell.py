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
    one = Bell()
    yield one
    one.close()
    one.close()
    for held in bells._held.values():
        os.close(held)
    bells._held.clear()


def waited(bell: Bell, seconds: float = LONG) -> float:
    began = time.monotonic()
    bell.wait(seconds)
    return time.monotonic() - began


def test_it_wakes_who_waits_from_another_process(bell: Bell) -> None:
    address = Address.of(bell.descriptor)
    child = os.fork()
    if not child:
        pull = rope(address)
        for _ in range(3):
            pull and pull()
        os._exit(0)
    assert waited(bell) < LONG / 2
    assert os.waitpid(child, 0)[1] == 0


def test_it_wakes_once_for_all_that_was_rung_before(bell: Bell) -> None:
    ring = rope(Address.of(bell.descriptor))
    assert ring is not None
    for _ in range(100_000):  # more than a pipe holds
        ring()
    assert waited(bell) < LONG / 2
    while waited(bell, 0.05) < 0.04:
        pass
    threading.Timer(0.05, ring).start()
    assert 0.04 < waited(bell) < LONG / 2


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
    writer = Writer(Region(os.dup(reader.descriptor), writable=True), ring=lambda: rung.append(reader._get(0)))
    writer.put(b"head", [b"body"])
    assert rung == [1]  # what is rung for is there
    assert writer.posted(0, 0.0) is None
    assert len(rung) == 2
    assert reader.awaited
    reader.close()


def test_few_ropes_are_held(bell: Bell) -> None:
    others = [Bell() for _ in range(bells._MOST_HELD + 3)]
    assert all(rope(Address.of(one.descriptor)) for one in others)
    assert len(bells._held) == bells._MOST_HELD
    for one in others:
        one.close()
