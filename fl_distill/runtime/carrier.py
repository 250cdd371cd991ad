"""The worker's side of bundles: a ClientApp that serves many sites' messages with another one."""

import time
from typing import final

from flwr.app import Context, Error, Message, MessageType, RecordDict
from flwr.clientapp import ClientApp

from .bundle import Bundle, Unreachable, entries_as_records, entry
from .flower_private import NO_REPLY
from .tasks import late_in_queue
from .worker import Job, answer, seed_globally

KIND = f"{MessageType.TRAIN}.bundle"
FIRST_NODE = 1001
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
        return Message(_served(bundle, Job(app, FIRST_NODE, sites, 1, dict(context.run_config))), reply_to=message)

    return outer


@final
class _NobodyWaits(Exception):
    pass


def _served(bundle: Bundle, job: Job) -> RecordDict:
    """Every order's answer, through the ledger where there is one, else as records."""
    ledger, entries = bundle.ledger, []

    def check() -> None:
        if ledger is not None and ledger.stopped:
            raise _NobodyWaits

    try:
        for number, order in enumerate(bundle.orders()):
            check()
            began = time.perf_counter()
            metadata, state = order.message.metadata, None
            if time.time() > metadata.created_at + metadata.ttl:
                reply = Message(Error(NO_REPLY, late_in_queue(metadata.ttl)), reply_to=order.message)
            else:
                seed_globally(order.seed)
                reply, state = answer(job, order.message, order.state)
            head, body = entry(number, reply, state, time.perf_counter() - began)
            if ledger is None:
                entries.append((head, body))
            else:
                ledger.put(head, body, check)
    except _NobodyWaits:
        pass
    return entries_as_records(entries)
