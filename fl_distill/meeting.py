"""Calls that take turns in one process, so that what each of them needs is done once for all of them.

A call runs until it asks for something by `together`; then the next one runs, until all have asked or ended. What they
asked for is done in one go, and each goes on with its part of the answer. One runs at a time, all in one thread, so
what they share needs no locks; but others have used it by the time that `together` returns.
"""

import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, final

import torch
from greenlet import GreenletExit, getcurrent, greenlet

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


def together(kind: Hashable, question: Q, work: Callable[[Sequence[Q]], Sequence[A]]) -> A:
    """The answer to a question, worked out with those of the same kind that the other calls of a `meet` have by then.

    `work` gives an answer for each question; outside `meet` it gets this one alone. Not for use inside of
    `torch.inference_mode` or `autocast`, which are the thread's, and so would be those of the other calls.
    """
    seat = getcurrent()
    if not isinstance(seat, _Seat):
        return work([question])[0]
    answer: A = seat.ask(_Asks(kind, question, work))
    return answer


def meet(calls: Iterator[Callable[[], T]], most: int) -> Iterator[tuple[int, Done[T]]]:
    """Run calls, `most` at a time; the number of each, from 0, and what it returned, as soon as it has.

    What a call raises is raised here, and those that have not ended by then end by `Abandoned`. With `most` of 1 none
    waits for another.
    """
    if most == 1:
        yield from enumerate(map(_alone, calls))
        return
    begun, seats = 0, [_Seat() for _ in range(most)]
    waiting: dict[_Seat, tuple[int, _Asks, float]] = {}
    try:
        before = -1
        while before < begun:
            before = begun
            for seat, call in zip(seats, calls, strict=False):  # asks for no call that has no seat
                begun += 1
                if (done := _resumed(waiting, seat, begun - 1, call, 0.0)) is not None:
                    yield done
            while waiting:
                yield from _answered(waiting)
    finally:
        for seat in waiting:
            seat.resume(_Raised(Abandoned()))


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
class _Seat(greenlet):
    """A stack of its own for one call at a time, which runs only while somebody waits for it.

    Threads would do; but to change between them takes longer than a small site's own work, and each brings its own
    place on the processor and in memory.
    """

    _passed: Any = None
    """What is handed over; not as an argument of `switch`, which would keep it until the way back."""

    def resume(self, value: object) -> object:
        """Begin a call, or go on with an answer; what is said next."""
        self.parent, self._passed = getcurrent(), value
        _switch(self)
        return self._taken()

    def ask(self, asks: _Asks) -> Any:
        """Say that a call waits; its answer."""
        self._passed = asks
        _switch(self.parent)
        answer = self._taken()
        if isinstance(answer, _Raised):
            raise answer.error
        return answer

    def run(self) -> None:
        """Call after call."""
        while True:
            try:
                self._passed = self._taken()()
            except GreenletExit:  # nobody resumes it any more
                return
            except BaseException as error:
                self._passed = _Raised(error)
            _switch(self.parent)

    def _taken(self) -> Any:
        value, self._passed = self._passed, None
        return value


def _switch(to: greenlet | None) -> None:
    """Let another go on, until it is one's turn again; who wants no gradients says so to the thread, and so to all."""
    gradients = torch.is_grad_enabled()
    if to is not None:
        to.switch()
    torch.set_grad_enabled(gradients)
