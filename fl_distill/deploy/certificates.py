"""A federation's own certificate authority, and the server certificate that it signs."""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ..errors import ConfigError

DAYS, CA_DAYS = 825, 3650
SLACK = timedelta(hours=1)
"""How far a clock may be behind the operator's and still take a new certificate."""
ALWAYS = ("localhost", "127.0.0.1")
_LABEL = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)")


@dataclass(frozen=True)
class Signed:
    """A certificate and its private key."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey

    @property
    def pem(self) -> bytes:
        """The certificate as PEM."""
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    @property
    def key_pem(self) -> bytes:
        """The private key as PEM: a secret."""
        form = serialization.PrivateFormat.PKCS8
        return self.key.private_bytes(serialization.Encoding.PEM, form, serialization.NoEncryption())


def authority(name: str, days: int = CA_DAYS, start: datetime | None = None) -> Signed:
    """A new certificate authority that may sign servers, and no further authorities."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name(f"{name} federation CA")
    draft = _draft(subject, subject, key.public_key(), days, start)
    draft = draft.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
    draft = draft.add_extension(_usage(key_cert_sign=True, crl_sign=True), critical=True)
    return Signed(draft.sign(key, hashes.SHA256()), key)


def server(ca: Signed, hosts: Sequence[str], days: int = DAYS, start: datetime | None = None) -> Signed:
    """A server certificate for `hosts`, localhost and 127.0.0.1; it never outlives its authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    left = (ca.certificate.not_valid_after_utc - (start or datetime.now(UTC))).days
    draft = _draft(_name(hosts[0]), ca.certificate.subject, key.public_key(), min(days, max(left, 1)), start)
    names = [_alternative(host) for host in dict.fromkeys((*hosts, *ALWAYS))]
    issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(ca.key.public_key())
    for extension, critical in (
        (x509.BasicConstraints(ca=False, path_length=None), True),
        (_usage(digital_signature=True), True),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), False),
        (x509.SubjectAlternativeName(names), False),
        (issuer, False),
    ):
        draft = draft.add_extension(extension, critical=critical)
    return Signed(draft.sign(ca.key, hashes.SHA256()), key)


def host_faults(hosts: Sequence[str]) -> list[str]:
    """A sentence for each host that is neither a DNS name nor an IP address."""
    return [
        f"--host {host}: expected a DNS name such as fl.example.org or an IP address, without a port"
        for host in hosts
        if _address(host) is None and (len(host) > 253 or not all(_LABEL.fullmatch(part) for part in host.split(".")))
    ]


def load(path: Path) -> x509.Certificate:
    """The first certificate of a PEM file."""
    try:
        return x509.load_pem_x509_certificate(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is no PEM certificate: {error}") from error


def load_signed(path: Path, key: Path) -> Signed:
    """A certificate with its key, from two PEM files."""
    try:
        private = serialization.load_pem_private_key(key.read_bytes(), None)
    except (OSError, ValueError, TypeError) as error:
        raise ConfigError(f"{key} holds no unencrypted PEM key") from error
    certificate = load(path)
    if not isinstance(private, ec.EllipticCurvePrivateKey) or private.public_key() != certificate.public_key():
        raise ConfigError(f"{key} is not the key of {path}")
    return Signed(certificate, private)


def validity_faults(path: Path, renew: str) -> list[str]:
    """A sentence if the certificate in `path` is expired or not valid yet; `renew` says what to do."""
    certificate, now = load(path), datetime.now(UTC)
    if now > certificate.not_valid_after_utc:
        return [f"the certificate {path} expired on {certificate.not_valid_after_utc:%Y-%m-%d %H:%M} UTC: {renew}"]
    if now < certificate.not_valid_before_utc:
        begins = f"{certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC"
        return [f"the certificate {path} is not valid before {begins}: is this machine's clock right?"]
    return []


def pair_faults(path: Path, key: Path, ca: Path) -> list[str]:
    """A sentence if `ca` did not sign the certificate in `path`; raises ConfigError if `key` is not its key."""
    load_signed(path, key)
    try:
        load(path).verify_directly_issued_by(load(ca))
    except Exception as error:  # an unknown algorithm, another issuer, a bad signature: each has its own class
        return [f"{path} was not signed by {ca} ({error or type(error).__name__}): use the pair that belongs together"]
    return []


def _draft(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, days: int, start: datetime | None
) -> x509.CertificateBuilder:
    begin = start or datetime.now(UTC)
    draft = x509.CertificateBuilder(issuer, subject, key, x509.random_serial_number())
    draft = draft.not_valid_before(begin - SLACK).not_valid_after(begin + timedelta(days=days))
    return draft.add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text[:64])])


def _alternative(host: str) -> x509.GeneralName:
    address = _address(host)
    return x509.DNSName(host.lower()) if address is None else x509.IPAddress(address)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host)
    except ValueError:
        return None


def _usage(*, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )
