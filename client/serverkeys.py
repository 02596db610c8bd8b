"""The service's identity key, pinned, and how a device follows when another takes its place.

A receipt must be signed by the pinned key. Only when it is not are the service's successions
asked for: each is signed by the key before, from the pinned one on, so that what the service or
the network says counts for nothing else. A device that has followed never goes back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from client.endpoint import Endpoint, Superseded
from crypto import receipt, succession
from crypto.errors import CryptoError, SignatureError
from crypto.succession import Succession


def signer_of(
    endpoint: Endpoint, data: bytes, *, nonce: bytes, deleted: bool = False, now_ms: int
) -> bytes | None:
    """The pinned key that signed a receipt, or one before it whose overlap lasts. None if none
    did; any other fault of the receipt is left to whoever opens it under the pinned key."""
    before = [row.key for row in endpoint.before if now_ms < row.until_ms]
    for key in (endpoint.server_key, *reversed(before)):
        try:
            receipt.open_(data, key, nonce=nonce, deleted=deleted)
        except SignatureError:
            continue
        except CryptoError:
            return endpoint.server_key
        return key
    return None


def followed(endpoint: Endpoint, statements: Sequence[bytes]) -> Endpoint:
    """The endpoint with the key pinned that the pinned one leads to; itself if that leads
    nowhere. CryptoError if the statements contradict each other or don't verify."""
    path = succession.follow(endpoint.server_key, statements, audience=endpoint.audience)
    if not path:
        return endpoint
    return replace(
        endpoint,
        server_key=path[-1].new,
        before=(*endpoint.before, *map(_superseded, path)),
    )


def _superseded(step: Succession) -> Superseded:
    return Superseded(step.old, step.until_ms)
