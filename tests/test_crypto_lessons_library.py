"""What broke elsewhere because of how a library of primitives is called, and holds here.

Rows of "Cryptography and membership" of the design's list; the others stand in
test_crypto_lessons.py.
"""

from __future__ import annotations

import re
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path

import pytest
from nacl import bindings

from crypto import pairing, primitives
from crypto.cert import DeviceCert
from crypto.epoch import EpochKeys
from crypto.errors import CryptoError, FormatError, OpenError
from crypto.keys import Identity, Recipient
from crypto.pairing import Invite, PairingKeys
from tests.vectors.badlinks import LOW_ORDER, ghost
from tests.vectors.story import story

ROOT = Path(__file__).resolve().parent.parent


def sources(*packages: str) -> list[Path]:
    """The Python files of some packages."""
    return [path for package in packages for path in sorted((ROOT / package).rglob("*.py"))]


@pytest.mark.parametrize("name", LOW_ORDER)
def test_low_order_points(name: str) -> None:
    """vodozemac before 0.10 (2026), "all-zero X25519 result accepted": low-order points
    refused."""
    point = LOW_ORDER[name]
    with pytest.raises(FormatError, match="low-order"):
        primitives.refuse_low_order(point)
    with pytest.raises(FormatError, match="low-order"):
        Recipient(point).seal(b"epoch key")
    cert = replace(DeviceCert.of(ghost()), box_pk=point)
    with pytest.raises(FormatError, match="low-order"):
        DeviceCert.decode(cert.encode())
    with pytest.raises(OpenError):
        story().people["A"].open(point + bytes(260))


FORBIDDEN = ("is_valid_point", "pk_to_curve25519", "sk_to_curve25519", "crypto_core_ed25519")


def test_point_validation() -> None:
    """libsodium CVE-2025-69277, "point validation": PyNaCl >= 1.6.2; `is_valid_point` and
    `pk_to_curve25519` unused."""
    assert tuple(int(part) for part in version("pynacl").split(".")[:3]) >= (1, 6, 2)
    assert re.search(r'"pynacl>=1\.6\.2', (ROOT / "pyproject.toml").read_text())
    for path in sources("crypto", "client", "services"):
        text = path.read_text()
        assert not [name for name in FORBIDDEN if name in text], path


def test_lengths_that_pynacl_does_not_check() -> None:
    """PyNaCl 1.6.2, "`crypto_scalarmult(_base)`, `crypto_sign`, `crypto_sign_open` don't check
    key length; AEAD open of under 16 bytes raises builtin ValueError; `str(PrivateKey)` prints
    the secret": check lengths first; one error type out of `crypto/`; key types own repr and
    str."""
    for size in (0, 1, 31, 33, 63, 65):
        key = bytes(size)
        for attempt in (
            lambda key=key: primitives.box_public(key),
            lambda key=key: primitives.refuse_low_order(key),
            lambda key=key: primitives.sign_keypair(key),
            lambda key=key: primitives.sign(key, b"pss1/test", b""),
            lambda key=key: primitives.verify(key, b"pss1/test", b"", bytes(64)),
            lambda key=key: primitives.seal(key, b""),
            lambda key=key: primitives.seal_open(key, key, bytes(48)),
            lambda key=key: primitives.aead_open(key, bytes(24), b"", bytes(16)),
            lambda key=key: primitives.aead_seal(key, bytes(24), b"", b""),
        ):
            with pytest.raises(CryptoError):
                attempt()
    for size in range(16):
        with pytest.raises(OpenError):
            primitives.aead_open(bytes(32), bytes(24), b"", bytes(size))
    with pytest.raises(ValueError):  # noqa: PT011 - that it is a bare one is the point
        bindings.crypto_aead_xchacha20poly1305_ietf_decrypt(b"", b"", bytes(24), bytes(32))
    for kind in (Identity, Recipient, EpochKeys, PairingKeys, pairing.TypedInvite, Invite):
        assert "__repr__" in vars(kind), kind
    for kind in (Identity, EpochKeys, PairingKeys):
        assert kind.__str__ is object.__str__  # which asks repr


def test_only_one_file_calls_pynacl() -> None:
    """PyNaCl 1.6.2, the same row: the checks can't be gone round, for nothing else in crypto/
    imports it."""
    imports = re.compile(r"^(import|from) nacl", re.MULTILINE)
    importing = [path.name for path in sources("crypto") if imports.search(path.read_text())]
    assert importing == ["primitives.py"]
