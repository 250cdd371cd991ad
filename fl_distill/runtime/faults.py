"""What a failed request to a SuperLink means for whoever made it."""

import json
import ssl
from contextlib import suppress

import httpx

from .flower_private import Gone

__all__ = ["Away", "Gone", "NotAdmitted", "Refusal", "Unsigned", "Untrusted", "fault"]

PASSING = (408, 429, 502, 503, 504)
"""Answers of a proxy whose SuperLink is not there, and of servers that have too much to do."""
_UNSIGNED, _OVER, _ACTIVATION = 401, 403, 2004


class Away(Exception):
    """Nobody who could answer was reached; that passes by itself."""

    def __init__(self, kind: str, sentence: str) -> None:
        super().__init__(sentence)
        self.kind = kind


class Refusal(Exception):
    """Somebody answered, and will not let this site in."""


class Unsigned(Refusal):
    """The SuperLink does not take this key's signature: it knows no such node, or another time."""


class NotAdmitted(Refusal):
    """The SuperLink does not know this key, or holds somebody with it for online."""

    perhaps_online = False
    """Whether this process itself may be who is online."""


class Untrusted(Refusal):
    """Whoever answers there has no certificate that counts."""

    def __init__(self, error: ssl.SSLCertVerificationError) -> None:
        super().__init__(error.verify_message)
        self.error = error


def fault(error: httpx.HTTPError) -> BaseException:
    """What to raise instead of `error`: the same, where there is no name for it."""
    if isinstance(error, httpx.HTTPStatusError):
        return _answered(error)
    cause = _root(error)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return Untrusted(cause)
    if isinstance(error, httpx.TransportError):
        words = getattr(cause, "strerror", None) or str(cause) or type(cause).__name__
        return Away(type(cause).__name__, f"the SuperLink cannot be reached ({words})")
    return error


def _answered(error: httpx.HTTPStatusError) -> BaseException:
    status = error.response.status_code
    if status in PASSING:
        return Away(str(status), f"the SuperLink cannot be reached ({status} {error.response.reason_phrase})")
    known = {_UNSIGNED: Unsigned, _OVER: Gone}
    if status in known:
        return known[status]()
    return NotAdmitted() if _code(error.response) == _ACTIVATION else error


def _code(response: httpx.Response) -> object:
    """The number that Flower gives to what went wrong, if it was Flower that answered."""
    with suppress(ValueError):
        body = json.loads(response.text)
        return body.get("code") if isinstance(body, dict) else None
    return None


def _root(error: BaseException) -> BaseException:
    """What it began with: httpcore hides that, but keeps it."""
    while (earlier := error.__cause__ or error.__context__) is not None:
        error = earlier
    return error
