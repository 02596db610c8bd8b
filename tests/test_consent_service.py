"""Consent at the service: chains by compare-and-set, and contributions that prove it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from crypto import consent
from crypto.consent import Entry, Proof, Receipt
from crypto.keys import Identity
from mpc.manifest import Manifest
from rookery.v1 import accounts_pb2, policy_pb2, rounds_pb2
from services.policy.consents import check_proof
from services.rounds import contribute
from services.store.governance import ConsentClaim
from tests.governed_service import KEYS, Governed
from tests.governed_worlds import CUISINE, bundle, killing
from tests.relay_worlds import PARTIES, Relay, manifest, people, refused, relaying, report, task
from tests.worlds import World

RECORD = "/rookery.v1.Policy/RecordConsent"
LIST = "/rookery.v1.Policy/ListReceipts"
DELETE = "/rookery.v1.Accounts/DeleteAccount"
PURPOSE = "product"
KEY = b"\x0b" * 32


class Person:
    """An account's chain of consent, as its devices make it."""

    def __init__(self, relay: Relay, world: World) -> None:
        self.relay = relay
        self.world = world
        self.entries: list[Entry] = []

    @property
    def identity(self) -> Identity:
        return self.world.authors[0].identity

    def entry(self, purpose: str = PURPOSE, *, granted: bool = True) -> Entry:
        """The next one, not sent yet."""
        receipt = Receipt(
            self.world.account_id, purpose, 1, bytes(32), granted, 1, consent.FIRST, bytes(32)
        )
        before = self.entries[-1] if self.entries else None
        return consent.next_pair(receipt, aggregation_key=KEY, before=before)[0]

    async def record(self, entry: Entry, sig: bytes | None = None, by: bytes = b"") -> bytes:
        """Sends it, as this person's device signed it; its hash by the service."""
        sig = consent.sign(self.identity, entry) if sig is None else sig
        message = policy_pb2.RecordConsentRequest(
            entry=policy_pb2.ConsentEntry(entry=entry.encode(), sig=sig, device_id=by)
        )
        raw = await self.relay.call(self.world, RECORD, message)
        answer = policy_pb2.RecordConsentResponse.FromString(raw)
        assert answer.seq == entry.seq
        if entry not in self.entries:
            self.entries.append(entry)
        return answer.hash

    async def say(self, purpose: str = PURPOSE, *, granted: bool = True) -> Entry:
        """Records the next one."""
        entry = self.entry(purpose, granted=granted)
        assert await self.record(entry) == entry.hash
        return entry

    async def listed(self, after: int = 0) -> policy_pb2.ListReceiptsResponse:
        """What the service has."""
        raw = await self.relay.call(self.world, LIST, policy_pb2.ListReceiptsRequest(after=after))
        return policy_pb2.ListReceiptsResponse.FromString(raw)

    def proof(self, seq: int, purpose: str = PURPOSE) -> Proof:
        return Proof(consent.salt(KEY, purpose), seq)

    async def contribute(
        self, message: rounds_pb2.ContributeRequest, proof: Proof | None = None
    ) -> None:
        """With a proof, or without."""
        sent = rounds_pb2.ContributeRequest()
        sent.CopyFrom(message)
        if proof is not None:
            sent.consent.salt, sent.consent.seq = proof.salt, proof.seq
        await self.relay.contribute(self.world, sent)


@pytest.fixture
async def relay(tmp_path: Path) -> AsyncIterator[Relay]:
    """A relay under a policy that declares the tasks of these tests."""
    async with governed_relay(tmp_path) as made:
        yield made


@asynccontextmanager
async def governed_relay(path: Path, **settings: Any) -> AsyncIterator[Relay]:
    """The same, with other settings."""
    async with relaying(path, **(KEYS | settings)) as made:
        await Governed(made.service).publish(bundle())
        yield made


async def opened(relay: Relay) -> Manifest:
    """The round of a declared task that is open now."""
    made = task("cuisine", purpose=PURPOSE)
    await relay.publish(made)
    round_ = manifest(made, relay.now_ms - 1_000)
    await relay.collect(round_)
    return round_


async def person(relay: Relay) -> Person:
    """An account that has said nothing yet."""
    [world] = await people(relay, 1)
    return Person(relay, world)


# --- the chain ---


async def test_entries_are_listed_as_they_were_signed(relay: Relay) -> None:
    """In their order, with who signed and when it came; from any seq on."""
    one = await person(relay)
    said = [await one.say(), await one.say("statistics"), await one.say(granted=False)]
    listed = await one.listed()
    assert [row.entry for row in listed.entries] == [entry.encode() for entry in said]
    for row, entry in zip(listed.entries, said, strict=True):
        assert consent.verify(row.entry, row.sig, one.identity.ik_pk) == entry
        assert row.device_id == one.identity.device_id
        assert abs(row.recorded_ms - relay.now_ms) < 60_000
    assert [row.entry for row in (await one.listed(2)).entries] == [said[2].encode()]
    assert not (await one.listed(3)).entries


async def test_an_account_sees_its_own_chain_and_no_other(relay: Relay) -> None:
    """There is no way to name another one."""
    worlds = await people(relay, 2)
    one, other = (Person(relay, world) for world in worlds)
    await one.say()
    assert not (await other.listed()).entries
    stolen = one.entry()
    for by, rule in ((one, "signature"), (other, "account")):
        failed = await refused(other.record(stolen, consent.sign(by.identity, stolen)))
        assert failed == ("INVALID_ARGUMENT", "CONSENT_INVALID", {"rule": rule})


async def test_the_head_answers_whoever_comes_second(relay: Relay) -> None:
    """Compare-and-set: the equal entry again is fine, everything else is told what stands."""
    one = await person(relay)
    first = await one.say()
    await one.record(first)
    second = one.entry("statistics")
    stale = replace(second, seq=1, prev=consent.FIRST)
    skipping = replace(second, seq=3)
    forked = replace(second, prev=b"\7" * 32)
    for bad in (stale, skipping, forked):
        failed = await refused(one.record(bad))
        head = {"seq": "1", "hash": first.hash.hex()}
        assert failed == ("ABORTED", "CONSENT_CONFLICT", head)
        one.entries = [first]
    await one.record(second)
    failed = await refused(one.record(first))
    assert failed[1] == "CONSENT_CONFLICT"


async def test_what_is_no_entry_of_a_device_is_refused(relay: Relay) -> None:
    """Another form, another key, another signer: nothing is stored."""
    one = await person(relay)
    entry = one.entry()
    stranger = Identity(b"\1" * 32, b"\2" * 32)
    cases = (
        (entry.encode()[:-1], consent.sign(one.identity, entry), b"", "length"),
        (b"PSN2" + entry.encode()[4:], consent.sign(one.identity, entry), b"", "consent"),
        (entry.encode(), consent.sign(stranger, entry), b"", "signature"),
        (entry.encode(), consent.sign(stranger, entry), stranger.device_id, "signer"),
    )
    for raw, sig, by, rule in cases:
        message = policy_pb2.RecordConsentRequest(
            entry=policy_pb2.ConsentEntry(entry=raw, sig=sig, device_id=by)
        )
        failed = await refused(relay.call(one.world, RECORD, message))
        assert failed == ("INVALID_ARGUMENT", "CONSENT_INVALID", {"rule": rule})
    assert not (await one.listed()).entries


async def test_a_device_uploads_what_another_one_signed(relay: Relay) -> None:
    """So a chain that the service lost comes back as it was."""
    one = await person(relay)
    entry = one.entry()
    await one.record(entry, by=one.identity.device_id)
    assert [row.device_id for row in (await one.listed()).entries] == [one.identity.device_id]


async def test_a_full_chain_takes_withdrawals(tmp_path: Path) -> None:
    """Nobody is held to what they said because they said much; only grants are refused."""
    async with governed_relay(tmp_path, consents_max=3) as relay:
        one = await person(relay)
        for granted in (True, False, True, False):
            await one.say(granted=granted)
        failed = await refused(one.record(one.entry()))
        assert failed[:2] == ("RESOURCE_EXHAUSTED", "QUOTA")
        round_ = await opened(relay)
        failed = await refused(one.contribute(report(round_, 1), one.proof(3)))
        assert failed[1] == "CONSENT_MISSING"


# --- the gate ---


async def test_without_consent_nothing_is_stored(relay: Relay) -> None:
    """No proof, one of another purpose, of another account, of another seq, of a withdrawal."""
    worlds = await people(relay, 2)
    one, other = (Person(relay, world) for world in worlds)
    round_ = await opened(relay)
    message = report(round_, 1)
    missing: tuple[str, str, dict[str, str]] = ("FAILED_PRECONDITION", "CONSENT_MISSING", {})
    assert await refused(one.contribute(message)) == missing
    assert await refused(one.contribute(message, one.proof(1))) == missing
    await other.say()
    assert await refused(one.contribute(message, one.proof(1))) == missing
    await one.say("statistics")
    assert await refused(one.contribute(message, one.proof(1, "statistics"))) == missing
    assert await refused(one.contribute(message, one.proof(1))) == missing
    await one.say()
    for bad in (Proof(bytes(32), 2), Proof(b"", 2), one.proof(1), one.proof(3)):
        assert await refused(one.contribute(message, bad)) == missing
    await one.say(granted=False)
    for seq in (2, 3):
        assert await refused(one.contribute(message, one.proof(seq))) == missing
    assert not any(box in relay.stored() for box in message.boxes)


async def test_with_consent_a_contribution_is_taken(relay: Relay) -> None:
    """By the newest grant; after a withdrawal and a new grant by that one."""
    one = await person(relay)
    round_ = await opened(relay)
    await one.say("statistics")
    await one.say()
    message = report(round_, 1)
    await one.contribute(message, one.proof(2))
    await one.contribute(message, one.proof(2))
    await one.say(granted=False)
    failed = await refused(one.contribute(message, one.proof(2)))
    assert failed[1] == "CONSENT_MISSING"
    await one.say()
    await one.contribute(message, one.proof(4))
    assert (await relay.round(one.world, round_.round_id)).contributed


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"flags": (killing("task", "cuisine"),)}, "task-killed"),
        ({"flags": (killing("purpose", PURPOSE),)}, "task-killed"),
        ({"flags": (killing("signal", "region"),)}, "task-killed"),
        ({"tasks": (), "experiments": ()}, "task-undeclared"),
        (
            {"tasks": (replace(CUISINE, purpose="statistics"),), "experiments": ()},
            "task-purpose",
        ),
    ],
)
async def test_what_the_policy_stops_takes_no_more_contributions(
    relay: Relay, changes: dict[str, Any], rule: str
) -> None:
    """Neither does what it no longer declares, in rounds too that were opened before, whatever
    consent stands."""
    worlds = await people(relay, 2)
    one, other = (Person(relay, world) for world in worlds)
    round_ = await opened(relay)
    for person_ in (one, other):
        await person_.say()
    await one.contribute(report(round_, 0), one.proof(1))
    await Governed(relay.service).publish(bundle(bundle(), **changes))
    failed = await refused(other.contribute(report(round_, 1), other.proof(1)))
    assert failed == ("FAILED_PRECONDITION", "TASK_UNDECLARED", {"rule": rule})
    assert not any(box in relay.stored() for box in report(round_, 1).boxes)
    assert (await relay.round(one.world, round_.round_id)).contributed


async def test_a_withdrawal_that_overtakes_a_contribution_stops_it(
    relay: Relay, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Recorded after the proof was looked at and before anything was stored: nothing is."""
    one = await person(relay)
    round_ = await opened(relay)
    await one.say()
    no = one.entry(granted=False)
    looked = check_proof

    async def overtaken(*args: Any) -> ConsentClaim:
        claim = await looked(*args)
        assert await withdrawn(one, no, consent.salt(KEY, PURPOSE)) == 0
        return claim

    monkeypatch.setattr(contribute, "check_proof", overtaken)
    failed = await refused(one.contribute(report(round_, 1), one.proof(1)))
    assert failed == ("FAILED_PRECONDITION", "CONSENT_MISSING", {})
    assert not (await relay.round(one.world, round_.round_id)).contributed
    fetched = await relay.fetch(PARTIES[0], round_.round_id)
    assert (list(fetched.last.erased), len(fetched.boxes)) == ([], 0)


async def test_a_withdrawal_takes_back_what_is_held(relay: Relay) -> None:
    """Of its purpose, if it says which; the parties are told, and nothing is left in the file."""
    worlds = await people(relay, 2)
    one, other = (Person(relay, world) for world in worlds)
    round_ = await opened(relay)
    for number, person_ in enumerate((one, other)):
        await person_.say()
        await person_.contribute(report(round_, number), person_.proof(1))
    await one.say("statistics")
    no = one.entry("statistics", granted=False)
    assert await withdrawn(one, no, consent.salt(KEY, "statistics")) == 0
    assert await withdrawn(one, one.entry(granted=False), b"") == 0
    assert (await relay.round(one.world, round_.round_id)).contributed
    again = one.entries[-1]
    assert await withdrawn(one, again, consent.salt(KEY, "statistics")) == 0
    assert await withdrawn(one, again, consent.salt(KEY, PURPOSE)) == 1
    assert await withdrawn(one, again, consent.salt(KEY, PURPOSE)) == 0
    assert not (await relay.round(one.world, round_.round_id)).contributed
    fetched = await relay.fetch(PARTIES[0], round_.round_id)
    assert (list(fetched.last.erased), len(fetched.boxes)) == ([1], 1)
    assert not any(box in relay.stored() for box in report(round_, 0).boxes)
    assert all(box in relay.stored() for box in report(round_, 1).boxes)
    for entry, salt in ((one.entry(), consent.salt(KEY, PURPOSE)), (again, b"short")):
        failed = await refused(withdrawn(one, entry, salt))
        assert failed == ("INVALID_ARGUMENT", "MALFORMED", {"field": "salt"})


async def withdrawn(one: Person, entry: Entry, salt: bytes) -> int:
    """How many contributions the service says that it erased."""
    message = policy_pb2.RecordConsentRequest(
        entry=policy_pb2.ConsentEntry(entry=entry.encode(), sig=consent.sign(one.identity, entry)),
        salt=salt,
    )
    answer = await one.relay.call(one.world, RECORD, message)
    if entry not in one.entries:
        one.entries.append(entry)
    return policy_pb2.RecordConsentResponse.FromString(answer).taken_back


async def test_a_service_under_no_policy_asks_for_no_consent(tmp_path: Path) -> None:
    """As it was before there was one."""
    async with relaying(tmp_path) as relay:
        one = await person(relay)
        await one.contribute(report(await opened(relay), 1))


async def test_what_is_stored_and_logged_names_no_purpose(relay: Relay) -> None:
    """The tag is all there is of it, and no log line has that."""
    one = await person(relay)
    entry = await one.say("a-purpose-that-is-nowhere-else")
    salt = consent.salt(KEY, "a-purpose-that-is-nowhere-else")
    stored, log = relay.stored(), relay.service.log.getvalue()
    assert entry.tag in stored
    assert b"a-purpose-that-is-nowhere-else" not in stored
    assert salt not in stored
    for told in (entry.tag.hex(), salt.hex(), "nowhere-else", one.world.account_id.hex()):
        assert told not in log


async def test_deleting_the_account_deletes_its_chain(relay: Relay) -> None:
    """Entries, tags, signatures: nothing is left in the file, nor in its log."""
    one = await person(relay)
    said = [await one.say(), await one.say("statistics")]
    with relay.later(1_000):
        delete = accounts_pb2.DeleteAccountRequest(account_id=one.world.account_id)
        await relay.call(one.world, DELETE, delete)
    stored = relay.stored()
    for entry in said:
        for part in (entry.tag, entry.receipt_hash, consent.sign(one.identity, entry)):
            assert part not in stored
    assert bytes(one.world.account_id) not in stored
