"""What may stand where. What is not listed may stand nowhere, and a sort that is not known, too.

The table is the promise of docs/threat-model.md in the form in which it is tested. Whoever adds
a row says why.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

PLACES: Final[Mapping[str, str]] = {
    "store": "the service's store: every file of SQLite, or every key and file of Redis",
    "service-log": "what the service logs, at level debug, with a line for each call",
    "service-metrics": "its page of metrics",
    "party-store": "the three parties' databases",
    "party-log": "what they log, at level debug",
    "party-metrics": "their pages of metrics",
    "gateway-log": "what the push gateway logs, at level debug",
    "gateway-metrics": "its page of metrics",
    "traces": "spans of all processes, as the collector is sent them",
    "device-frames": "all bytes between the service and its devices, publishers and operators",
    "relay-frames": "all bytes between the service and the parties",
    "party-frames": "all bytes between a party and its publishers and peers",
    "gateway-frames": "all bytes between the service and the gateway",
}

_TABLE: Final = """
# `place?`: may stand there, and need not.
#
# Pseudonyms and public keys: the service works with them, nobody else is shown them, and no log,
# metric or trace tells one device's calls from another's.
account id       | store device-frames | the name under which everything of an account is stored
device id        | store device-frames | who wrote an op, who may call
public key       | store device-frames | in the device chain, by which calls are judged
chain link       | store device-frames | the device chain as it was signed
consent entry    | store device-frames | the signed copy of a receipt's hash, with its tag
consent salt     | device-frames | opens one purpose's tag, to prove consent; is not kept
nonce            | store? device-frames? | of a signed call; Redis holds it for a quarter of an hour

# Sealed or blinded: stored and passed on, but nothing to log.
tag              | store device-frames | a record's blinded name
ciphertext       | store device-frames | a sealed op
op signature     | store device-frames | its author's
sealed key       | store device-frames | an epoch's key, sealed for one device
rendezvous       | store? device-frames | random id of a pairing under way, for minutes
pairing message  | store? device-frames | sealed, for minutes
op hash          | store device-frames | the chain of a device's ops
report id        | store device-frames relay-frames party-store | names a report, and nobody
cursor           | device-frames | place in the account's ops, with the store's own MAC
wake handle      | store device-frames gateway-frames | the push token, sealed for the gateway
sealed report    | store device-frames relay-frames | shares, each sealed for one party

# Of rounds, known to everybody who takes part; still not for logs or labels, for whoever reads
# these must not learn which products measure what.
round id         | store party-store device-frames relay-frames party-frames | names a round
task             | store party-store device-frames relay-frames party-frames | public by design
round key        | store party-store device-frames relay-frames party-frames | boxes go to it
publisher key    | store party-store device-frames relay-frames party-frames | signs tasks

# Names, values, secret keys, push tokens, receipts: no row, and so nowhere.
#
# Addresses of callers are in the frames' own headers; nobody writes them down. Redis holds its
# own, by which a restart of it is noticed; the canary's is on the same machine.
address          | store? device-frames relay-frames party-frames gateway-frames | gRPC's :authority
"""


def _rows() -> Iterator[tuple[str, list[str]]]:
    for line in _TABLE.strip().splitlines():
        if line and not line.startswith("#"):
            sort, places, why = (cell.strip() for cell in line.split("|"))
            assert why, f"{sort}: say why"
            assert {one.rstrip("?") for one in places.split()} <= PLACES.keys(), sort
            yield sort, places.split()


ALLOWED: Final = {sort: {one.rstrip("?") for one in places} for sort, places in _rows()}
DUE: Final = {
    (sort, place) for sort, places in _rows() for place in places if not place.endswith("?")
}
"""(sort, place) of what is found by a canary that sees."""
STORES: Final = ("store", "party-store")
"""Where nothing of an account stands any more once it is deleted."""


def may_stand(sort: str, place: str) -> bool:
    """Whether something of this sort is at home in this place."""
    return place in ALLOWED.get(sort, ())
