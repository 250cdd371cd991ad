"""What a worker process does: take a message, run the ClientApp, hand back reply and state; again."""

import contextlib
import logging
import os
import random
import socket
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from flwr.app import Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from ..seeds import seed_torch, untouched
from . import frames, wire
from .flower_private import NO_REPLY, RAISED, node_config
from .shared import Region
from .tasks import late_in_queue

SLOTS = 2
"""Messages that a worker holds at most, and reply memories that it uses in turn."""

INLINE_LIMIT = 1 << 14
"""Buffers of a reply that sum up to more than this go through shared memory."""

_LONGEST_REASON = 2000


@dataclass(frozen=True)
class Job:
    """What all workers of a grid have in common."""

    app: ClientApp
    first_node: int
    nodes: int
    threads: int
    run_config: dict[str, bool | float | int | str] = field(default_factory=dict)


def answer(job: Job, message: Message, state: RecordDict) -> tuple[Message, RecordDict | None]:
    """The app's reply and the node's new state; None, so that the old one stays, when the app failed."""
    node = message.metadata.dst_node_id
    config = node_config(node - job.first_node, job.nodes)
    context = Context(message.metadata.run_id, node, config, state, dict(job.run_config))
    try:
        reply = job.app(message, context)
        _check_reply(reply, message)
    except (Exception, SystemExit) as error:
        logging.getLogger(__name__).debug("The ClientApp failed at node %d.", node, exc_info=True)
        return Message(Error(RAISED, _reason(error)), reply_to=message), None
    return reply, context.state


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run with the global generators of Python, numpy and torch seeded; afterwards they are as before.

    Apps that draw from them then depend neither on the worker that serves them nor on the server's draws.
    """
    with untouched():
        seed_globally(seed)
        yield


def seed_globally(seed: int) -> None:
    """Seed the global generators of Python, numpy and torch (CPU)."""
    random.seed(seed)
    np.random.seed(seed & 0xFFFFFFFF)
    seed_torch(seed)


def _check_reply(reply: object, message: Message) -> None:
    if not isinstance(reply, Message):
        raise TypeError(f"Expected a Message from the ClientApp, got {type(reply).__name__}.")
    if reply.metadata.reply_to_message_id != message.metadata.message_id:
        raise ValueError("Expected a reply to the message given: make it with Message(…, reply_to=message).")


def _reason(error: BaseException) -> str:
    """Type, text and place of an exception."""
    frames_ = traceback.extract_tb(error.__traceback__)
    place = f" ({os.path.basename(frames_[-1].filename)}:{frames_[-1].lineno})" if frames_ else ""
    return f"{type(error).__name__}: {error}"[:_LONGEST_REASON] + place


class Worker:
    """The loop of one worker process."""

    def __init__(self, job: Job, parent: socket.socket, library: int, slots: Sequence[int]) -> None:
        self._job = job
        self._parent = parent
        self._library = Region(library, writable=False)
        self._slots = [Region(slot, writable=True) for slot in slots]
        self._kept: dict[int, bytes] = {}
        self._served = 0

    def run(self) -> None:
        """Serve until the parent is gone."""
        # GNU OpenMP ties its pool to the thread that forked: a parallel region would wait for threads that only
        # the parent has. A new thread gets a pool of its own.
        thread = threading.Thread(target=self._loop)
        thread.start()
        thread.join()

    def _loop(self) -> None:
        torch.set_num_threads(self._job.threads)
        with contextlib.suppress(EOFError, BrokenPipeError, ConnectionResetError):
            while True:
                self._parent.sendall(self._serve(*wire.receive(self._parent)))
                sys.stdout.flush()
                sys.stderr.flush()

    def _serve(self, header: bytes, inline: bytes) -> bytes:
        envelope, content, state = frames.parse(header)
        for serial in envelope["drop"]:
            self._kept.pop(serial, None)
        buffers = wire.gather(envelope["places"], inline, kept=self._keep)
        split = envelope["split"]
        message = frames.rebuild(envelope["metadata"], frames.restore(content, buffers[:split]))
        before = frames.restore(state or [], buffers[split:])
        known = {id(b): p[1] for b, p in zip(buffers, envelope["places"], strict=True) if p[0] == "kept"}
        if time.monotonic() > envelope["deadline"]:
            late = Message(Error(NO_REPLY, late_in_queue(message.metadata.ttl)), reply_to=message)
            return self._pack(late, None, known)
        seed_globally(envelope["seed"])
        return self._pack(*answer(self._job, message, before), known)

    def _keep(self, serial: int, offset: int, length: int) -> bytes:
        """Bytes of the library, read once and kept until the parent says that their place is taken."""
        data = self._kept.get(serial)
        if data is None:
            data = self._kept[serial] = self._library.read(offset, length)
        return data

    def _pack(self, reply: Message, state: RecordDict | None, known: dict[int, int]) -> bytes:
        content, buffers = frames.encode(reply.content) if reply.has_content() else (b"null", [])
        split = len(buffers)
        described = b"null"
        if state:
            described, more = frames.encode(state)
            buffers += more
        places, inline = self._place(buffers, known)
        envelope: dict[str, Any] = {
            "metadata": frames.metadata_fields(reply.metadata),
            "error": [reply.error.code, reply.error.reason] if reply.has_error() else None,
            "keep_state": state is None,
            "split": split,
            "places": places,
        }
        return wire.frame(b"[%b,%b,%b]" % (frames.to_json(envelope), content, described), inline)

    def _place(self, buffers: list[bytes], known: dict[int, int]) -> tuple[list[wire.Place], list[bytes]]:
        """Decide where each buffer of a reply travels."""
        # The parent hands out another message only after it has copied a reply, so at most SLOTS replies are
        # unread, this one among them: by now the slot whose turn it is has been read.
        slot = self._slots[self._served % SLOTS]
        self._served += 1
        new = [buffer for buffer in buffers if id(buffer) not in known]
        if not (here := sum(map(len, new)) <= INLINE_LIMIT):
            slot.write(0, *new)
        places: list[wire.Place] = []
        offset = 0
        for buffer in buffers:
            if id(buffer) in known:
                places.append(["same", known[id(buffer)]])
            elif here:
                places.append(["here", len(buffer)])
            else:
                places.append(["slot", offset, len(buffer)])
                offset += len(buffer)
        return places, new if here else []
