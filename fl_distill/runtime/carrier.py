"""The worker's side of bundles: a ClientApp that serves many sites' messages with another one."""

import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial

from flwr.app import Context, Error, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp

from ..meeting import meet
from .bundle import Bundle, Desk, Order, Unreachable, bundle_of, entries_as_records, entry
from .flower_private import NO_REPLY
from .ledger import Unwanted
from .memory import keep_freed_memory
from .tasks import FIRST_NODE, late_in_queue
from .worker import Job, answer, seed_globally

KIND = f"{MessageType.TRAIN}.bundle"
UNREACHABLE = 1008
"""Error code of a worker that cannot reach the server's memory."""


def carrier(app: ClientApp, sites: int, abreast: int = 1) -> ClientApp:
    """A ClientApp for `Packing`'s messages: each holds those of many of the `sites` that `app` serves.

    `abreast`: how many of them take turns where `app` waits for others of them, see `meeting`.
    """
    outer = ClientApp()

    @outer.train("bundle")
    def carry(message: Message, context: Context) -> Message:
        keep_freed_memory()
        job = Job(app, FIRST_NODE, sites, 1, dict(context.run_config))
        answers = RecordDict()
        desk: Desk | None = None
        data: bytes | None = bundle_of(message.content)
        while data is not None:
            try:
                bundle = Bundle(data)
                answers, desk = _served(bundle, job, abreast), desk or bundle.desk
                del bundle  # and with it the models that it brought
            except Unreachable:
                return Message(Error(UNREACHABLE, "the server's memory is out of reach"), reply_to=message)
            except Unwanted:
                break
            data = None if desk is None else desk.next()
        return Message(answers, reply_to=message)

    return outer


def _served(bundle: Bundle, job: Job, abreast: int) -> RecordDict:
    """Every order's answer, through the ledger where there is one, else as records."""
    ledger, entries = bundle.ledger, []
    with suppress(Unwanted):
        for number, done in meet(_calls(bundle, job), min(abreast, len(bundle))):
            reply, state = done.result
            made = entry(number, reply, state, done.seconds)
            if ledger is None:
                entries.append(made)
            else:
                ledger.put(*made)
    return entries_as_records(entries)


def _calls(bundle: Bundle, job: Job) -> Iterator[Callable[[], tuple[Message, RecordDict | None]]]:
    with suppress(Unwanted):
        for order in bundle.orders():
            yield partial(_answered, order, job, same_clock=bundle.ledger is not None)


def _answered(order: Order, job: Job, same_clock: bool) -> tuple[Message, RecordDict | None]:
    """The reply and the site's state afterwards."""
    metadata = order.message.metadata
    if same_clock and time.time() > metadata.created_at + metadata.ttl:
        return Message(Error(NO_REPLY, late_in_queue(metadata.ttl)), reply_to=order.message), None
    seed_globally(order.seed)
    return answer(job, order.message, order.state)
