"""Ed25519 signatures of certificates."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from expunge.errors import DataError, MissingExtraError, one_line
from expunge.records.requests import Signature

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

_PACKAGE = ("cryptography", "sign")


def sign(content: bytes, key: Ed25519PrivateKey) -> Signature:
    """Return the signature of a content, with the public key."""
    return Signature(public_key=key.public_key().public_bytes_raw().hex(), value=key.sign(content).hex())


def is_valid(content: bytes, signature: Signature) -> bool:
    """Return whether a signature belongs to a content and to its own public key.

    Raises:
        MissingExtraError: The package cryptography is not installed.
    """
    try:
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
    except ImportError as error:
        raise MissingExtraError(*_PACKAGE, "verifying a signature") from error
    try:
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(signature.public_key))
        key.verify(bytes.fromhex(signature.value), content)
    except (InvalidSignature, ValueError):
        return False
    return True


def load_private_key(path: Path) -> Ed25519PrivateKey:
    """Load an Ed25519 private key from a PEM file.

    Raises:
        DataError: The file is missing, encrypted, malformed, or has a key of another kind.
        MissingExtraError: The package cryptography is not installed.
    """
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import load_pem_private_key
    except ImportError as error:
        raise MissingExtraError(*_PACKAGE, "signing a certificate") from error
    content, fix = _read(path), "Create one with: openssl genpkey -algorithm ed25519 -out key.pem"
    try:
        key = load_pem_private_key(content, password=None)
    except TypeError as error:
        raise DataError(f"the private key {path} is encrypted.", fix="Give a key without a passphrase.") from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise DataError(f"{path} is not a private key in PEM format ({one_line(error)[:100]}).", fix=fix) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise DataError(f"{path} is a key of another kind, and certificates are signed with Ed25519.", fix=fix)
    return key


def load_public_key(path: Path) -> str:
    """Load an Ed25519 public key from a PEM file; returns 32 bytes, hexadecimal.

    Raises:
        DataError: The file is missing, malformed, or has a key of another kind.
        MissingExtraError: The package cryptography is not installed.
    """
    try:
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key
    except ImportError as error:
        raise MissingExtraError(*_PACKAGE, "verifying a signature") from error
    content, fix = _read(path), "Write it with: openssl pkey -in key.pem -pubout -out public.pem"
    try:
        key = load_pem_public_key(content)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise DataError(f"{path} is not a public key in PEM format ({one_line(error)[:100]}).", fix=fix) from error
    if not isinstance(key, Ed25519PublicKey):
        raise DataError(f"{path} is a key of another kind, and certificates are signed with Ed25519.", fix=fix)
    return key.public_bytes_raw().hex()


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except (FileNotFoundError, IsADirectoryError) as error:
        raise DataError(f"the key {path} does not exist or is a folder.", fix="Give the path of a PEM file.") from error
