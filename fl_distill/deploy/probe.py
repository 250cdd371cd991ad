"""What a site finds at its federation's address before it starts: TLS by the right authority, and the same time."""

import http.client
import socket
import ssl
import time
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

from .settings import split

TIMEOUT_S = 10.0
CLOCK_S = 300.0
"""Flower takes a signature that is this old, and refuses one from the future."""
FUTURE_S = 5.0
_PLAIN = ("WRONG_VERSION_NUMBER", "HTTP_REQUEST", "RECORD_LAYER_FAILURE")
"""What OpenSSL makes of an answer without TLS."""
_EXPIRED, _NOT_YET, _OTHER_NAME, _OTHER_ADDRESS = 10, 9, 62, 64


def refusals(address: str, ca: Path) -> tuple[list[str], list[str]]:
    """(why this site cannot join, what may pass by itself) as sentences; both empty when all is well."""
    host, port = split(address)
    try:
        context = ssl.create_default_context(cafile=str(ca))
        with (
            socket.create_connection((host, port), TIMEOUT_S) as plain,
            context.wrap_socket(plain, server_hostname=host) as secure,
        ):
            return _clock(secure, host, address), []
    except ssl.SSLCertVerificationError as error:
        return [certificate(error, address, ca)], []
    except ssl.SSLError as error:
        if error.reason not in _PLAIN:  # cut off in the middle, as where a proxy restarts
            return [], [f"{address} ended the handshake ({error.reason or error})"]
        return [
            f"{address} does not speak TLS ({error.reason or error}): a federation's proxy does; "
            "are host and port right, and is it https there?"
        ], []
    except socket.gaierror:
        return [], [f"the name {host} is not known on this machine"]
    except OSError as error:
        return [], [f"nothing answers at {address} ({error.strerror or error})"]


def certificate(error: ssl.SSLCertVerificationError, address: str, ca: Path) -> str:
    """What to do about a certificate that does not count."""
    if error.verify_code == _EXPIRED:
        return f"a certificate of {address} has expired: its operator runs `fl-distill federation renew`"
    if error.verify_code == _NOT_YET:
        return f"a certificate of {address} is not valid yet: is this machine's clock right?"
    if error.verify_code in (_OTHER_NAME, _OTHER_ADDRESS):
        return (
            f"the certificate of {address} is for other names ({error.verify_message}): use one of those, or renew it"
        )
    return f"{address} has a certificate that {ca} did not sign ({error.verify_message}): ask the operator for ca.pem"


def _clock(secure: ssl.SSLSocket, host: str, address: str) -> list[str]:
    secure.sendall(f"HEAD / HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
    answer = http.client.HTTPResponse(secure, method="HEAD")
    try:
        answer.begin()
        said = parsedate_to_datetime(answer.headers["Date"])
    except (http.client.HTTPException, OSError, TypeError, ValueError):
        return []
    behind = (said.astimezone(UTC) - datetime.fromtimestamp(time.time(), UTC)).total_seconds()
    if -FUTURE_S - 1 < behind < CLOCK_S:
        return []
    return [
        f"this machine's clock is {abs(behind):.0f} s {'behind' if behind > 0 else 'ahead of'} that of {address}, "
        "which will refuse this site's signatures: set it (NTP)"
    ]
