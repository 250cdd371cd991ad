"""How a site comes to its federation and stays there: what passes is waited for, what does not is said."""

import logging
import math
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import NoReturn

from ..errors import FlDistillError
from ..locks import is_locked
from ..runtime.faults import Gone, NotAdmitted, Refusal, Unsigned, Untrusted
from ..runtime.link import Link
from ..runtime.patience import Reasons, growing
from . import keys, probe
from .settings import Site

REFUSED_S = 120.0
"""For how long a site that was connected bears refusals: a SuperLink may come back before its database does."""
CRASHED_S = 90.0
"""For how long the SuperLink may hold a crashed process for the one that is online."""
APART_S = 60.0
"""Refusals farther apart than this are no ongoing ones."""
STEADY_S = 60.0
"""A connection that held for so long was a good one."""
LOOK_S = 5.0
"""Seconds between two looks at the clock."""

log = logging.getLogger("fl_distill.site")


class Barred(FlDistillError):
    """What keeps a site out and will not pass by itself."""


@dataclass
class Joining:
    """One site's way to its SuperLink, and back to it."""

    site: Site
    connect: Callable[[], AbstractContextManager[Link]]
    serve: Callable[[Link], None]
    reasons: Reasons = field(default_factory=lambda: Reasons(log.warning))
    sleep: Callable[[float], None] = time.sleep
    clock: Callable[[], float] = time.monotonic
    _connected: bool = False
    _refused: float | None = None
    """When the refusals began that still go on."""
    _heard: float = -math.inf
    """When the last one came."""
    _pauses: Iterator[float] = field(default_factory=growing)

    def __post_init__(self) -> None:
        self._crashed = self.site.online.exists()

    def stay(self) -> NoReturn:
        """Serve until KeyboardInterrupt; raises `Barred` where waiting does not help."""
        try:
            while True:
                self._once()
                self.sleep(next(self._pauses))
        finally:
            if self._connected or not is_locked(self.site.online):  # else it is another process's
                self.site.online.unlink(missing_ok=True)

    def _once(self) -> None:
        """Come in and serve until something happens."""
        came = None
        try:
            with self.connect() as link:
                came = self._came(link)
                self.serve(link)
        except Untrusted as fault:
            raise Barred(probe.certificate(fault.error, self.site.address, self.site.ca)) from fault
        except Refusal as refusal:
            self._bear(refusal)
        except (Exception, Gone) as error:
            log.debug("the connection ended", exc_info=error)
            self.reasons.arose(type(error).__name__, f"the connection failed ({_said(error)}): trying again")
        if came is not None and self.clock() - came > STEADY_S:
            self._pauses = growing()

    def _came(self, link: Link) -> float:
        log.info("connected to %s as node %s", self.site.address, link.node)
        self.reasons.passed()
        self._connected, self._refused = True, None
        return self.clock()

    def _bear(self, refusal: Refusal) -> None:
        if isinstance(refusal, Unsigned) and self._waited_for_the_clock():
            self._refused = None
            return
        now, patience = self.clock(), self._patience(refusal)
        if self._refused is None or now - self._heard > APART_S:
            self._refused = now
        self._heard = now
        if now - self._refused >= patience:
            raise Barred(self._words(refusal)) from refusal
        sentence = f"{self._words(refusal)}; trying again for {patience:.0f} s"
        self.reasons.arose(type(refusal).__name__, sentence)

    def _patience(self, refusal: Refusal) -> float:
        if self._connected or isinstance(refusal, Unsigned):
            return REFUSED_S
        itself = self._crashed or (isinstance(refusal, NotAdmitted) and refusal.perhaps_online)
        return CRASHED_S if itself else 0.0

    def _waited_for_the_clock(self) -> bool:
        """Whether a wrong clock is why signatures were refused; if so, it is right now."""
        waited = False
        while wrong := probe.refusals(self.site.address, self.site.ca)[0]:
            self.reasons.arose("clock", f"{wrong[0]}; this site goes on by itself when that is done")
            waited = True
            self.sleep(LOOK_S)
        return waited

    def _words(self, refusal: Refusal) -> str:
        site, mark = self.site, keys.fingerprint(keys.public_of(self.site.key))
        if isinstance(refusal, NotAdmitted):
            return (
                f"{site.address} does not admit {site.name}: either key {mark} is not registered there (send "
                "key.pub to the operator), or a process with this key is online already; "
                "one that crashed counts as online for a minute"
            )
        return f"{site.address} refuses key {mark}: it was removed by the operator, or this machine's clock is wrong"


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
