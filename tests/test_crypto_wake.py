"""Wake handles: what a service can't read, and what a gateway takes."""

from __future__ import annotations

import pytest

from crypto import wake
from crypto.errors import CryptoError, FormatError
from crypto.keys import Recipient
from crypto.wake import GatewayKey, Platform, PushToken
from tests.vectors import wake as vectors

AUDIENCE = "test.rookery"
KEY = GatewayKey(b"\x05" * 32)
GATEWAY = Recipient(KEY.public)


def sealed(token: bytes = b"token", *, expires_ms: int = 2) -> bytes:
    """A handle that ends at 2."""
    push_token = PushToken(Platform.FCM, token)
    return wake.seal(GATEWAY, push_token, audience=AUDIENCE, expires_ms=expires_ms)


@pytest.mark.parametrize("size", [1, 32, wake.TOKEN_BYTES_MAX])
def test_every_handle_has_one_length(size: int) -> None:
    """What a service stores says nothing of the token, its length or its platform."""
    handle = sealed(b"t" * size)
    assert len(handle) == wake.HANDLE_BYTES
    assert KEY.open(handle, audience=AUDIENCE, now_ms=1) == PushToken(Platform.FCM, b"t" * size)


def test_two_handles_of_one_token_have_nothing_in_common() -> None:
    """Sealed anew each time: who can't open them can't tell that it is one phone."""
    first, second = sealed(), sealed()
    assert all(a != b for a, b in zip(_pieces(first), _pieces(second), strict=True))


def _pieces(handle: bytes) -> list[bytes]:
    return [handle[at : at + 16] for at in range(0, len(handle), 16)]


@pytest.mark.parametrize("size", [0, wake.TOKEN_BYTES_MAX + 1])
def test_a_token_that_does_not_fit_is_refused(size: int) -> None:
    """Before anything is sealed."""
    with pytest.raises(FormatError, match="478"):
        sealed(b"t" * size)


def test_a_gateway_key_of_low_order_is_refused() -> None:
    """Everybody could open what is sealed to it."""
    with pytest.raises(FormatError, match="low order"):
        wake.seal(Recipient(bytes(32)), PushToken(Platform.FCM, b"t"), audience="a", expires_ms=1)


def test_what_a_gateway_must_not_take_is_refused_by_its_rule() -> None:
    """Not by another that happens to come first: `why` names it."""
    true = vectors.positives()["wake_handles"][1]
    rows = list(vectors.negatives(true))
    for row in rows:
        with pytest.raises(CryptoError) as refused:
            GatewayKey(bytes.fromhex(row["gateway_sk"])).open(
                bytes.fromhex(row["handle"]), audience=row["audience"], now_ms=row["now_ms"]
            )
        assert refused.value.rule == row["why"], row["name"]
    assert len(rows) >= 20


def test_neither_key_nor_token_shows() -> None:
    """repr and str of what holds a secret hide it."""
    token = PushToken(Platform.APNS, b"a-very-private-token")
    for shown in (repr(token), str(token), repr(KEY), str(KEY)):
        assert "very-private" not in shown
        assert "05" * 4 not in shown
