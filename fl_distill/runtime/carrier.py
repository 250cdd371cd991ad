"""The worker's side of bundles: a ClientApp that serves many sites' messages with another one."""

import time

from flwr.app import Context, Error, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp

from .bundle import Bundle, Order, Unreachable, entries_as_records, entry
from .flower_private import NO_REPLY
from .ledger import Unwanted
from .tasks import FIRST_NODE, late_in_queue
from .worker import Job, answer, seed_globally

KIND = f"{MessageType.TRAIN}.bundle"
UNREACHABLE = 1008
"""Error code of a worker that cannot reach the server's memory."""


def carrier(app: ClientApp, sites: int) -> ClientApp:
    """A ClientApp for `Packing`'s messages: each holds those of many of the `sites` that `app` serves."""
    outer = ClientApp()

    @outer.train("bundle")
    def carry(message: Message, context: Context) -> Message:
        try:
            bundle = Bundle(message.content)
        except Unreachable:
            return Message(Error(UNREACHABLE, "the server's memory is out of reach"), reply_to=message)
        except Unwanted:
            return Message(RecordDict(), reply_to=message)
        return Message(_served(bundle, Job(app, FIRST_NODE, sites, 1, dict(context.run_config))), reply_to=message)

    return outer


def _served(bundle: Bundle, job: Job) -> RecordDict:
    """Every order's answer, through the ledger where there is one, else as records."""
    ledger, entries = bundle.ledger, []
    try:
        for number, order in enumerate(bundle.orders()):
            made = entry(number, *_answered(order, job, same_clock=ledger is not None))
            if ledger is None:
                entries.append(made)
            else:
                ledger.put(*made)
    except Unwanted:
        pass
    return entries_as_records(entries)


def _answered(order: Order, job: Job, same_clock: bool) -> tuple[Message, RecordDict | None, float]:
    """The reply, the site's state afterwards, and the seconds that it took."""
    began, metadata = time.perf_counter(), order.message.metadata
    if same_clock and time.time() > metadata.created_at + metadata.ttl:
        return Message(Error(NO_REPLY, late_in_queue(metadata.ttl)), reply_to=order.message), None, 0.0
    seed_globally(order.seed)
    reply, state = answer(job, order.message, order.state)
    return reply, state, time.perf_counter() - began
