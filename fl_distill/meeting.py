"""Calls that take turns in one process, so that what each of them needs is done once for all of them.

A call runs until it asks for something by `together`; then the next one runs, until all have asked or ended. What they
asked for is done in one go, and each goes on with its part of the answer. One runs at a time, so what they share needs
no locks; but others have used it by the time that `together` returns.
"""

import os
import threading
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, Generic, TypeVar, final

import torch

A = TypeVar("A")
Q = TypeVar("Q")
T = TypeVar("T")


class Abandoned(BaseException):
    """Nobody waits for the call any more; not an Exception, which apps take for a fault of their own."""


@dataclass(frozen=True)
class Done(Generic[T]):
    """What a call returned, and the seconds that it took, its part of what was done for several among them."""

    result: T
    seconds: float


@dataclass(frozen=True)
class _Asks:
    kind: Hashable
    question: Any
    work: Callable[[Sequence[Any]], Sequence[Any]]


@dataclass(frozen=True)
class _Raised:
    error: BaseException


_here = threading.local()


def together(kind: Hashable, question: Q, work: Callable[[Sequence[Q]], Sequence[A]]) -> A:
    """The answer to a question, worked out with those of the same kind that the other calls of a `meet` have by then.

    `work` gives an answer for each question; outside `meet` it gets this one alone.
    """
    seat: _Seat | None = getattr(_here, "seat", None)
    if seat is None:
        return work([question])[0]
    answer: A = seat.ask(_Asks(kind, question, work))
    return answer


def meet(calls: Iterator[Callable[[], T]], most: int) -> Iterator[tuple[int, Done[T]]]:
    """Run calls, `most` at a time; the number of each, from 0, and what it returned, as soon as it has.

    What a call raises is raised here, and those that have not ended by then end by `Abandoned`. With `most` of 1 there
    are no threads, and nothing waits.
    """
    if most == 1:
        yield from enumerate(map(_alone, calls))
        return
    begun = 0
    waiting: dict[_Seat, tuple[int, _Asks, float]] = {}
    try:
        before = -1
        while before < begun:
            before = begun
            for seat, call in zip(_seats(most), calls, strict=False):  # asks for no call that has no seat
                begun += 1
                if (done := _resumed(waiting, seat, begun - 1, call, 0.0)) is not None:
                    yield done
            while waiting:
                yield from _answered(waiting)
    finally:
        for seat in waiting:
            seat.resume(_Raised(Abandoned()))
        if waiting:  # who catches even this may still be at it
            _made.clear()


def _alone(call: Callable[[], T]) -> Done[T]:
    began = time.perf_counter()
    result = call()
    return Done(result, time.perf_counter() - began)


def _answered(waiting: "dict[_Seat, tuple[int, _Asks, float]]") -> Iterator[tuple[int, Done[Any]]]:
    """Work on all questions of one kind, and let those who asked them go on."""
    first = next(iter(waiting.values()))[1]
    asking = [seat for seat, (_, asks, _) in waiting.items() if asks.kind == first.kind]
    began = time.perf_counter()
    answers = _answers(first.work, [waiting[seat][1].question for seat in asking])
    share = (time.perf_counter() - began) / len(asking)
    for seat, answer in zip(asking, answers, strict=True):
        number, _, spent = waiting.pop(seat)
        if (done := _resumed(waiting, seat, number, answer, spent + share)) is not None:
            yield done


def _answers(work: Callable[[Sequence[Any]], Sequence[Any]], questions: Sequence[Any]) -> Sequence[Any]:
    """An answer for each; what cannot be done for all is done for each alone, so that a fault is one question's."""
    try:
        return work(questions)
    except Exception as error:
        if len(questions) == 1:
            return [_Raised(error)]
        return [_answers(work, [question])[0] for question in questions]


def _resumed(
    waiting: "dict[_Seat, tuple[int, _Asks, float]]", seat: "_Seat", number: int, value: object, spent: float
) -> tuple[int, Done[Any]] | None:
    """What a call returned that goes on with a value; None where it has asked something (else)."""
    began = time.perf_counter()
    said = seat.resume(value)
    spent += time.perf_counter() - began
    if isinstance(said, _Asks):
        waiting[seat] = number, said, spent
        return None
    if isinstance(said, _Raised):
        raise said.error
    return number, Done(said, spent)


@final
class _Seat:
    """A thread that runs only while somebody waits for it."""

    def __init__(self) -> None:
        self._values: SimpleQueue[Any] = SimpleQueue()
        self._said: SimpleQueue[Any] = SimpleQueue()
        threading.Thread(target=self._run, daemon=True).start()

    def resume(self, value: object) -> object:
        """Begin a call, or go on with an answer; what is said next."""
        self._values.put(value)
        return self._said.get()

    def ask(self, asks: _Asks) -> Any:
        """Say that a call waits; its answer."""
        self._said.put(asks)
        answer = self._values.get()
        if isinstance(answer, _Raised):
            raise answer.error
        return answer

    def _run(self) -> None:
        torch.set_num_threads(1)  # a new thread has as many as the machine
        _here.seat = self
        while True:
            call = self._values.get()
            try:
                said = call()
            except BaseException as error:
                said = _Raised(error)
            self._said.put(said)
            del call, said


_made: dict[int, list[_Seat]] = {}


def _seats(count: int) -> list[_Seat]:
    """This process's seats: a fork has none of its parent's threads."""
    seats = _made.setdefault(os.getpid(), [])
    seats += [_Seat() for _ in range(len(seats), count)]
    return seats[:count]
