"""A compiled bundle in a file: `PSP1 | publisher[32] | sig[64] | bundle`.

A file without a publisher (zeros) can be compared and shown, and is nothing that anybody obeys.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from client.errors import UserError
from crypto.errors import CryptoError
from crypto.policy import Bundle, decode, open_
from crypto.primitives import KEY_BYTES, SIG_BYTES
from mpc.keys import PublisherKey

MAGIC: Final = b"PSP1"
_HEAD_BYTES: Final = len(MAGIC) + KEY_BYTES + SIG_BYTES
_NOBODY: Final = bytes(KEY_BYTES)
BYTES_MAX: Final = _HEAD_BYTES + (1 << 18)


@dataclass(frozen=True, slots=True)
class BundleFile:
    """What a file holds. `publisher` None: nobody signed it."""

    bundle: Bundle
    publisher: bytes | None
    sig: bytes

    @classmethod
    def signed(cls, bundle: Bundle, key: PublisherKey | None) -> BundleFile:
        """The bundle with a publisher's signature, or without any."""
        if key is None:
            return cls(bundle, None, bytes(SIG_BYTES))
        return cls(bundle, key.public, bundle.sign(key))

    def encode(self) -> bytes:
        """As it is written."""
        return MAGIC + (self.publisher or _NOBODY) + self.sig + self.bundle.encoded


def read(path: Path) -> BundleFile:
    """UserError for what is no sound bundle, or is not signed by whom it names."""
    try:
        with path.open("rb") as file:
            data = file.read(BYTES_MAX + 1)
    except OSError as error:
        raise UserError(f"{path} can't be read ({error.strerror})") from None
    if len(data) <= _HEAD_BYTES or not data.startswith(MAGIC) or len(data) > BYTES_MAX:
        raise UserError(f"{path} is no compiled policy: `rookery policy build` writes one")
    publisher = data[len(MAGIC) : len(MAGIC) + KEY_BYTES]
    sig, body = data[_HEAD_BYTES - SIG_BYTES : _HEAD_BYTES], data[_HEAD_BYTES:]
    try:
        if publisher == _NOBODY and not any(sig):
            return BundleFile(decode(body), None, sig)
        return BundleFile(open_(body, sig, publisher), publisher, sig)
    except CryptoError as error:
        raise UserError(f"{path} can't be used: {error.message}; build it again") from None


def write(path: Path, file: BundleFile, *, force: bool = False) -> None:
    """A new file; over another one only by `force`: what was published once is what the next
    number is built on, and can't be built again to the byte."""
    data = file.encode()
    is_device = path.exists() and not path.is_file()
    try:
        with path.open("wb" if force or is_device else "xb") as made:
            made.write(data)
    except FileExistsError:
        if not _holds(path, data):
            raise UserError(
                f"{path} is there and holds something else: write to a new file and name this one"
                " by --previous, or overwrite it by --force"
            ) from None
    except OSError as error:
        raise UserError(f"{path} can't be written ({error.strerror})") from None


def _holds(path: Path, data: bytes) -> bool:
    try:
        return path.read_bytes() == data
    except OSError:
        return False
