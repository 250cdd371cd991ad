"""A site's process: takes one message after the other from a SuperLink and answers it with the installed app.

It stands where `flower-supernode` would, on the same Fleet API, keys and heartbeat. What differs: no code that the
SuperLink offers is fetched, no process is started for a message, and a message that a crash interrupted is answered.
"""

import json
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from flwr.app import Context, Error, Message, MessageType, Metadata, RecordDict
from flwr.clientapp import ClientApp

from ..codec import payload_bytes
from ..files import replace_with
from ..locks import locked
from .envelope import is_sealed, marked, opened, sealed
from .flower_private import Gone, compose
from .link import Link
from .pace import Pace

LARGEST = 2**31
"""Bytes of a message that a site takes, at most."""

INTERRUPTED = 1005
"""Error code of a site that was stopped, or died, while it worked."""
UNREAD = 1006
"""Error code of a site that could not fetch what it was asked."""

_FIELDS = (
    *("run_id", "message_id", "src_node_id", "dst_node_id", "reply_to_message_id", "group_id", "created_at", "ttl"),
    *("message_type", "src_task_id", "dst_task_id"),
)
_QUICK, _SOON, _SLOW, _SHARE = 0.05, 1.0, 3.0, 0.1
"""Seconds between two looks, and their part of the time in which nothing came: see `Pace`."""

log = logging.getLogger("fl_distill.site")


@dataclass
class Node:
    """One site and what it has in hand."""

    app: ClientApp
    site_file: Path
    folder: Path
    """Where a message that is being worked on is noted."""
    online: Path
    """A file that is locked while the site is connected, and still there when its process has died."""
    name: str = ""
    """Of the site: a refusal before the server knows it says who refuses."""
    largest: int = LARGEST
    _configs: dict[int, dict[str, Any]] = field(default_factory=dict)

    def run(self, link: Link, sleep: Callable[[float], None] = time.sleep) -> None:
        """Answer messages until something raises."""
        with locked(self.online):
            self._settle(link)
            self._serve(link, sleep)

    def _serve(self, link: Link, sleep: Callable[[float], None]) -> None:
        pace = Pace(_QUICK, _SOON, _SLOW, _SHARE)
        pace.expect()
        while True:
            before = time.monotonic()
            try:
                found = link.receive(self.largest, lambda head: self._taken(head, pace))
                if found is None:
                    sleep(pace.pause(time.monotonic() - before))
                    continue
                message, fault = found if isinstance(found, tuple) else (found, None)
                self._answer(link, message, fault)
            except Gone:
                log.info("the run has ended: nobody waits for an answer")
                self._in_hand.unlink(missing_ok=True)
            pace.expect()

    def _taken(self, head: Message, pace: Pace) -> None:
        pace.came(head.metadata.run_id)
        self._note(head)

    def _answer(self, link: Link, message: Message, fault: str | None) -> None:
        before = time.monotonic()
        try:
            reply = self._reply(link, message) if fault is None else _error(message, UNREAD, fault)
        except KeyboardInterrupt:
            try:
                self._send(link, _error(message, INTERRUPTED, "the site was stopped while it worked"), before)
            except (Exception, Gone) as error:  # the stop comes first: another start will tell the server
                log.warning("that it was stopped cannot be told: %s", type(error).__name__)
            raise
        took = time.monotonic() - before
        self._send(link, reply, before)
        what = reply.error.reason if reply.has_error() else f"{payload_bytes(reply.content):,} bytes"
        log.info("%s: %.2f s, %s", message.metadata.message_type, took, what)

    def _reply(self, link: Link, message: Message) -> Message:
        context = Context(
            run_id=message.metadata.run_id,
            node_id=link.node,
            node_config={"site-config": str(self.site_file)},
            state=RecordDict(),
            run_config=self._config(link, message.metadata.run_id),
        )
        enveloped = is_sealed(message.content)
        reply = self.app(compose(message.metadata, opened(message.content)), context)
        if reply.has_error() and message.metadata.message_type == MessageType.QUERY:
            return _error(message, reply.error.code, _named(self.name, reply.error.reason or ""))
        if reply.has_content():
            reply.content = sealed(reply.content) if enveloped else marked(reply.content)
        return reply

    def _config(self, link: Link, run: int) -> dict[str, Any]:
        if run not in self._configs:
            self._configs = {run: link.run_config(run)}
        return self._configs[run]

    def _send(self, link: Link, reply: Message, since: float) -> None:
        link.send(reply, time.monotonic() - since)
        self._in_hand.unlink(missing_ok=True)

    # ------------------------------------------------------------ a crash

    @property
    def _in_hand(self) -> Path:
        return self.folder / "in-hand.json"

    def _note(self, message: Message) -> None:
        fields = {name: getattr(message.metadata, name) for name in _FIELDS}
        try:
            replace_with(self._in_hand, json.dumps(fields).encode())
        except OSError as error:
            log.warning("what is in hand cannot be noted: %s", error)

    def _settle(self, link: Link) -> None:
        """Tell the server that what an earlier process had in hand is lost: it need not wait for it."""
        try:
            fields = json.loads(self._in_hand.read_text(encoding="utf-8"))
            lost = compose(Metadata(**fields), RecordDict())
            if time.time() < lost.metadata.created_at + lost.metadata.ttl:
                self._send(link, _error(lost, INTERRUPTED, "the site was restarted while it worked"), time.monotonic())
        except FileNotFoundError:
            return
        except (Exception, Gone) as error:  # the server will learn by waiting
            log.warning("what was in hand cannot be told: %s: %s", type(error).__name__, error)
        self._in_hand.unlink(missing_ok=True)


def _named(name: str, reason: str) -> str:
    return reason if not name or reason.startswith(f"{name}: ") else f"{name}: {reason}"


def _error(message: Message, code: int, reason: str) -> Message:
    return Message(Error(code, reason), reply_to=message)
