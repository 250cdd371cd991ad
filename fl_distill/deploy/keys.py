"""A site's key pair: of the kind that Flower's node authentication takes, in OpenSSH's file formats."""

import base64
import hashlib
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ..errors import ConfigError

CURVES = ("secp256r1", "secp384r1", "secp521r1")


def new_pair() -> tuple[bytes, bytes]:
    """A private key (a secret) and its public key, on NIST's P-384."""
    key = ec.generate_private_key(ec.SECP384R1())
    pem, ssh = serialization.Encoding.PEM, serialization.PrivateFormat.OpenSSH
    return key.private_bytes(pem, ssh, serialization.NoEncryption()), _public(key)


def public_key(path: Path) -> bytes:
    """The public key in a file, without its comment; refuses what Flower would refuse, and private keys."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error
    if b"PRIVATE KEY" in data:
        raise ConfigError(f"{path} is a private key, which must never leave its site: register key.pub instead")
    try:
        found = serialization.load_ssh_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{path} is no OpenSSH public key: expected the site's key.pub ({error})") from error
    if not isinstance(found, ec.EllipticCurvePublicKey) or found.curve.name not in CURVES:
        raise ConfigError(f"{path} is no key on a NIST curve: expected the key.pub that `fl-distill site new` made")
    return found.public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)


def public_of(path: Path) -> bytes:
    """The public key that belongs to the private key in a file."""
    try:
        key = serialization.load_ssh_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise ConfigError(f"{path} is no unencrypted OpenSSH private key: expected the site's `key`") from error
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise ConfigError(f"{path} is no key on a NIST curve: expected the key that `fl-distill site new` made")
    return _public(key)


def private_faults(path: Path) -> list[str]:
    """Raises ConfigError if `path` holds no private key that Flower takes."""
    public_of(path)
    return []


def fingerprint(public: bytes) -> str:
    """As `ssh-keygen -l` shows it, to be compared over the telephone."""
    digest = hashlib.sha256(base64.b64decode(public.split()[1])).digest()
    return "SHA256:" + base64.b64encode(digest).decode().rstrip("=")


def _public(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.public_key().public_bytes(serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
