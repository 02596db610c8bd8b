"""What a vector file says of its account: devices, chain states and epoch keys.

Everything is looked up on demand, so that a file without a section only fails the entries
that need it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from client.vectors.fields import Entry, Malformed, data, entry
from crypto import link
from crypto.chain import EMPTY, Chain
from crypto.epoch import EpochKeys
from crypto.errors import ChainError, CryptoError
from crypto.ids import AccountId, DeviceId
from crypto.keys import Identity, device_id
from crypto.link import Link, SignedLink
from crypto.primitives import sign_keypair

_GENERATION = re.compile(r"bk_sk_gen([0-9]{1,9})")


def signed_link(row: Entry) -> SignedLink:
    """A link of the file with its signatures."""
    return SignedLink(data(row, "link"), data(row, "sig", b""), data(row, "pop", b""))


class World:
    """The file's account. `chains[n]` is the chain after `n` links, as far as they apply."""

    def __init__(self, file: Entry) -> None:
        self.file = file
        self.chains: list[Chain] = [EMPTY]
        for row in file["links"] if isinstance(file.get("links"), list) else ():
            try:
                self.chains.append(self.chains[-1].apply(signed_link(entry(row))))
            except (CryptoError, Malformed):
                break

    @property
    def account(self) -> AccountId:
        """The account that the file names, or that its genesis link gives."""
        if self.file.get("account_id") is not None:
            return AccountId.of(data(self.file, "account_id"))
        if len(self.chains) > 1:
            return self.chains[1].account
        raise Malformed("the file names no account")

    def chain_after(self, count: int) -> Chain:
        """The chain of the first `count` links."""
        if not 0 <= count < len(self.chains):
            raise Malformed(f"the file has no chain of {count} links that apply")
        return self.chains[count]

    def link_at(self, seq: int) -> tuple[Link, Chain]:
        """The link with this seq, and the chain with it."""
        if not 0 <= seq < len(self.chains) - 1:
            raise ChainError("grant-link", f"there is no link {seq} that it could travel with")
        row = entry(self.file["links"][seq])
        return link.parse(data(row, "link")), self.chains[seq + 1]

    def device(self, name: object) -> Entry:
        """The row of a device."""
        devices = self.file.get("devices")
        if not isinstance(devices, Mapping) or not isinstance(name, str) or name not in devices:
            raise Malformed(f"the file has no device {name!r}")
        return entry(devices[name])

    def identities(self, name: object) -> list[Identity]:
        """The device's keys, one identity for each of its box keys, newest first."""
        row = self.device(name)
        seed = data(row, "ik_seed")
        generations = {1: data(row, "bk_sk")}
        for key in row:
            if match := _GENERATION.fullmatch(key):
                generations[int(match[1])] = data(row, key)
        return [Identity(seed, generations[gen]) for gen in sorted(generations, reverse=True)]

    def identity(self, name: object) -> Identity:
        """The device with its newest box key."""
        return self.identities(name)[0]

    def public_key(self, name: object) -> bytes:
        """The device's identity key, from its row."""
        row = self.device(name)
        if row.get("ik_pk") is not None:
            return data(row, "ik_pk")
        return sign_keypair(data(row, "ik_seed"))[0]

    def public_key_of(self, author: DeviceId) -> bytes | None:
        """The identity key of a device id, from the chain or else from the devices."""
        if (found := self.chains[-1].find(author)) is not None:
            return found.ik_pk
        devices = self.file.get("devices")
        for name in devices if isinstance(devices, Mapping) else ():
            if device_id(key := self.public_key(name)) == author:
                return key
        return None

    def epoch_key(self, epoch: int) -> bytes:
        """The epoch's secret key."""
        keys = self.file.get("epoch_key")
        if not isinstance(keys, Mapping) or keys.get(str(epoch)) is None:
            raise Malformed(f"the file has no key of epoch {epoch}")
        return data(keys, str(epoch))

    def epochs(self) -> dict[int, EpochKeys]:
        """The keys of all epochs of the file."""
        keys = self.file.get("epoch_key")
        numbers = [int(name) for name in keys] if isinstance(keys, Mapping) else []
        return {number: self.keys(number) for number in numbers}

    def keys(self, epoch: int) -> EpochKeys:
        """The epoch's keys for this account."""
        return EpochKeys(self.account, epoch, self.epoch_key(epoch))
