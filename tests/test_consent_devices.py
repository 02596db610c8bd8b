"""Two devices of one account and a real service: what is said on one holds everywhere."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from client import remoteerrors as reasons, values
from client.consent.ledger import Standing
from client.consent.records import RECEIPTS
from client.consent.remote import ConsentCalls
from client.consent.shell import UNKNOWN_MS, UNKNOWN_ROW, Consenting
from client.consent.underway import ROW as PENDING_ROW
from client.device import Device
from client.errors import AccountGone, NothingThere, UserError, WordsChanged
from client.gate import SignalRefused
from client.measure.participant import Outcome
from client.profile import Name
from client.remoteerrors import RemoteError
from client.resetting import UNDO_ROW
from client.sync import SyncedDevice
from client.vault import MemoryVault
from crypto import consent
from crypto.policy.access import Access, Grant
from crypto.policy.generalise import TopK
from crypto.policy.values import Choices
from mpc.manifest import Manifest
from tests.consent_worlds import (
    ADVICE,
    COUNTING,
    PURPOSES,
    House,
    favourites,
    house,
    policy,
    rate,
    record,
    taking_part,
)
from tests.governed_worlds import KEY, shown as signed
from tests.relay_worlds import report
from tests.shell_worlds import DAY_MS, Clock, Watching, rules, shown


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as made:
        yield made


def standing(synced: SyncedDevice, purpose: str = COUNTING) -> Standing:
    return synced.ledger.state(purpose).standing


def liked(synced: SyncedDevice, *members: str) -> None:
    def change(core: Device, now_ms: int) -> None:
        for member in members:
            core.add_member("liked", member, now_ms=now_ms)

    synced.edit(change)


async def listed(synced: SyncedDevice) -> list[consent.Entry]:
    """The account's chain at the service."""
    return [consent.Entry.parse(one.raw) for one in await synced.consenting._calls.list()]


class Away:
    """The service can't be reached, for the time of the block."""

    def __init__(self, *those: SyncedDevice) -> None:
        self.those = those

    def __enter__(self) -> None:
        async def unreachable(*_: Any, **__: Any) -> Any:
            raise RemoteError(reasons.UNREACHABLE, status="UNAVAILABLE")

        for synced in self.those:
            synced.transport.call = unreachable  # type: ignore[method-assign]

    def __exit__(self, *_: object) -> None:
        for synced in self.those:
            del synced.transport.call


# --- granting ---


async def test_everything_is_off_until_it_is_granted(home: House) -> None:
    """Recording and contributing are refused, by the rule's name."""
    assert [state.standing for state in home.a.ledger.states()] == [Standing.NEVER] * 2
    with pytest.raises(SignalRefused) as refused:
        record(home.a, "food/cuisine", "thai")
    assert refused.value.rule == "purpose-off"
    await home.round()
    [given] = await home.contribute(home.a)
    assert (given.outcome, given.rule) == (Outcome.REFUSED, "consent")
    with pytest.raises(NothingThere, match="no purpose"):
        await home.a.consenting.grant("elsewhere")
    assert await listed(home.a) == []


async def test_a_grant_on_one_device_holds_on_the_other(home: House) -> None:
    """With the words that were read, a receipt that follows on the one before, and no word of it
    at the service."""
    receipt = await home.a.consenting.grant(COUNTING)
    assert receipt.text_hash == PURPOSES[0].text_hash
    assert receipt.policy_sequence == 1
    await home.both()
    for synced in (home.a, home.b):
        assert standing(synced) is Standing.GRANTED
        assert standing(synced, ADVICE) is Standing.NEVER
        [one] = synced.ledger.records.chain()
        assert (one.receipt, one.words) == (receipt, (PURPOSES[0].text, PURPOSES[0].benefit))
    second = await home.b.consenting.grant(ADVICE)
    assert second.prev == receipt.hash
    record(home.b, "food/cuisine", "thai")
    await home.round()
    await home.both()
    [given] = await home.contribute(home.a)
    assert given.outcome is Outcome.CONTRIBUTED
    assert [entry.seq for entry in await listed(home.a)] == [1, 2]
    assert await home.a.consenting.grant(COUNTING) == receipt
    assert len(await listed(home.a)) == 2


async def test_two_devices_that_grant_at_once_make_one_chain(home: House) -> None:
    """Who comes second builds anew on the first one's entry."""
    first = await home.a.consenting.grant(COUNTING)
    # b has not heard of it: its own receipt is behind the service's head all the same.
    second = await home.b.consenting.grant(ADVICE)
    await home.both()
    assert second.prev == first.hash
    for synced in (home.a, home.b):
        assert [one.receipt for one in synced.ledger.records.chain()] == [first, second]
        assert rules(synced) == []


async def test_a_grant_needs_the_service(home: House) -> None:
    """Nothing is on before the service has the entry."""
    with Away(home.a), pytest.raises(RemoteError):
        await home.a.consenting.grant(COUNTING)
    assert standing(home.a) is Standing.NEVER


async def test_a_grant_that_was_cut_off_behind_the_service_is_taken_up(home: House) -> None:
    """The next sync finds that it arrived, and keeps its receipt."""
    await home.a.consenting.grant(ADVICE)
    row = home.a.core.get(RECEIPTS, f"{1:012d}")
    assert isinstance(row, list)
    home.a.core.put_reserved(Name(RECEIPTS, f"{1:012d}"), None, now_ms=home.a.now_ms())
    home.a.save({PENDING_ROW: values.encode([row])})
    again = home.devices.again(home.a)
    assert standing(again, ADVICE) is Standing.NEVER
    await again.sync_once()
    assert standing(again, ADVICE) is Standing.GRANTED
    assert PENDING_ROW not in again.vault.load()
    assert rules(again) == []


class Late:
    """The next entries are sent, and their callers give up before they arrive."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.patch = monkeypatch
        self.sent: list[Any] = []

    def __enter__(self) -> Late:
        async def given_up(calls: Any, *args: Any, **kwargs: Any) -> bool:
            self.sent.append((calls, args, kwargs))
            raise RemoteError(reasons.UNREACHABLE, status="DEADLINE_EXCEEDED")

        self.patch.setattr(ConsentCalls, "record", given_up)
        return self

    def __exit__(self, *_: object) -> None:
        self.patch.undo()

    async def arrive(self) -> None:
        for calls, args, kwargs in self.sent:
            await calls.record(*args, **kwargs)


async def test_a_grant_that_arrives_after_its_call_was_given_up_is_taken_up(
    home: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However many syncs later: it is noted until something stands in its place."""
    with Late(monkeypatch) as late, pytest.raises(RemoteError):
        await home.b.consenting.grant(COUNTING)
    await home.b.sync_once()
    assert standing(home.b) is Standing.NEVER
    await late.arrive()
    await home.both()
    for synced in (home.a, home.b):
        assert standing(synced) is Standing.GRANTED
    assert PENDING_ROW not in home.b.vault.load()
    assert [entry.granted for entry in await listed(home.b)] == [True]


async def test_a_grant_that_is_given_again_sends_the_same_entry(
    home: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So whichever of the two calls arrives, its receipt is known."""
    with Late(monkeypatch) as late:
        for _ in range(2):
            with pytest.raises(RemoteError):
                await home.b.consenting.grant(COUNTING)
    first, second = (args for _, args, _ in late.sent)
    assert first == second
    await home.b.consenting.grant(COUNTING)
    await late.arrive()
    await home.both()
    assert standing(home.a) is Standing.GRANTED
    assert len(await listed(home.b)) == 1


async def test_a_grant_that_is_overtaken_is_dropped(
    home: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another entry stands in its place: it can't arrive any more."""
    with Late(monkeypatch) as late, pytest.raises(RemoteError):
        await home.b.consenting.grant(COUNTING)
    await home.a.consenting.grant(ADVICE)
    await home.b.sync_once()
    assert PENDING_ROW not in home.b.vault.load()
    await late.arrive()
    await home.both()
    assert standing(home.b) is Standing.NEVER
    assert len(await listed(home.b)) == 1


async def test_what_may_still_arrive_can_be_withdrawn(
    home: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A grant whose answer did not come, taken back before it arrives, switches nothing on."""
    with Late(monkeypatch) as late, pytest.raises(RemoteError):
        await home.b.consenting.grant(COUNTING)
    await home.b.consenting.withdraw(COUNTING)
    await late.arrive()
    await home.both()
    for synced in (home.a, home.b):
        assert standing(synced) is Standing.WITHDRAWN
    assert [entry.granted for entry in await listed(home.b)] == [True, False]


async def test_a_device_that_died_behind_the_service_stops_nobody(
    home: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its entry stands without a receipt: others build on it, in as many entries as they say
    things, and all agree on what counts."""
    await home.b.consenting.grant(ADVICE)
    await home.both()
    await dies_behind_the_service(home, monkeypatch, home.a.consenting.grant(COUNTING))
    await home.b.consenting.grant(COUNTING)
    assert standing(home.b) is Standing.GRANTED
    record(home.b, "food/cuisine", "thai")
    done = await home.b.consenting.withdraw(ADVICE)
    assert done.receipt is not None
    for _ in range(3):
        await home.b.sync_once()
    assert [entry.granted for entry in await listed(home.b)] == [True, True, True, False]
    await home.a.sync_once()
    for synced in (home.a, home.b):
        assert (standing(synced), standing(synced, ADVICE)) == (
            Standing.GRANTED, Standing.WITHDRAWN,
        )  # fmt: skip
        assert rules(synced) == []
    other = await home.devices.another(home.b)
    other.pin_policy(KEY.public)
    other.on_policy(signed(home.held))
    await other.sync_once()
    assert standing(other) is Standing.GRANTED


async def test_a_late_grant_behind_an_entry_without_a_receipt_is_taken_up(
    home: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both at once: one device died, the call of the other one was given up before it arrived."""
    await dies_behind_the_service(home, monkeypatch, home.a.consenting.grant(ADVICE))
    with Late(monkeypatch) as late, pytest.raises(RemoteError):
        await home.b.consenting.grant(COUNTING)
    await late.arrive()
    again = home.b = home.devices.again(home.b)
    await again.sync_once()
    await home.both()
    for synced in (home.a, home.b):
        assert standing(synced) is Standing.GRANTED
        assert rules(synced) == []


async def dies_behind_the_service(
    home: House, monkeypatch: pytest.MonkeyPatch, saying: Any
) -> bytes:
    """A device is killed once the service has its entry, and its state is the one of before. What
    it had noted, should it come back."""

    def killed(*_: Any, **__: Any) -> None:
        raise KilledError

    with monkeypatch.context() as patch:
        patch.setattr(Consenting, "_keep", killed)
        with pytest.raises(KilledError):
            await saying
    noted = home.a.kept[PENDING_ROW]
    home.a.save({PENDING_ROW: None})
    return noted


class KilledError(Exception):
    pass


async def test_a_receipt_that_comes_after_it_was_built_on_says_what_it_says(
    home: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The device that was slow, not dead: its grant counts once its receipt is here."""
    row = await dies_behind_the_service(home, monkeypatch, home.a.consenting.grant(COUNTING))
    await home.b.consenting.grant(ADVICE)
    await home.both()
    assert (standing(home.b), standing(home.b, ADVICE)) == (Standing.NEVER, Standing.GRANTED)
    home.a.save({PENDING_ROW: row})
    await home.both()
    for synced in (home.a, home.b):
        assert standing(synced) is Standing.GRANTED
        assert [one.entry.seq for one in synced.ledger.records.chain()] == [1, 2]


async def test_a_withdrawal_without_a_receipt_is_obeyed_once_it_is_built_on(
    home: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its tag says which purpose, and to switch off needs no words; nobody appends another."""
    await home.a.consenting.grant(COUNTING)
    await home.both()
    with Away(home.b):
        await home.b.consenting.withdraw(COUNTING)
    await dies_behind_the_service(home, monkeypatch, home.a.consenting.withdraw(COUNTING))
    await home.b.sync_once()
    await home.b.consenting.grant(ADVICE)
    for _ in range(3):
        await home.b.sync_once()
    assert standing(home.b) is Standing.WITHDRAWN
    assert [entry.granted for entry in await listed(home.b)] == [True, False, True]
    await home.b.consenting.grant(COUNTING)
    assert standing(home.b) is Standing.GRANTED


async def test_other_words_need_consent_anew(home: House) -> None:
    """What was recorded stays, nothing of it is used, and nothing is recorded."""
    await home.a.consenting.grant(COUNTING)
    record(home.a, "food/cuisine", "thai")
    await home.both()
    changed = (replace(PURPOSES[0], text="Counts, and sells."), PURPOSES[1])
    await home.publish(policy(home.held, purposes=changed))
    await home.both()
    await home.round()
    for synced in (home.a, home.b):
        assert standing(synced) is Standing.OUTDATED
        assert shown(synced) == {"food/cuisine": "thai"}
        with pytest.raises(SignalRefused):
            record(synced, "food/cuisine", "lao")
        [given] = await home.contribute(synced)
        assert given.rule == "consent"
    receipt = await home.b.consenting.grant(COUNTING)
    assert (receipt.policy_sequence, receipt.text_hash) == (2, changed[0].text_hash)
    await home.both()
    record(home.a, "food/cuisine", "lao")
    [given] = await home.contribute(home.a)
    assert given.outcome is Outcome.CONTRIBUTED


async def test_a_grant_is_for_the_words_that_were_shown(home: House) -> None:
    """A policy that arrives in between is not agreed to by whoever read the one before."""
    read = PURPOSES[0].text_hash
    changed = (replace(PURPOSES[0], text="Counts, and sells."), PURPOSES[1])
    await home.publish(policy(home.held, purposes=changed))
    for hashes in ({}, {"text_hash": read}, {"text_hash": bytes(32)}):
        with pytest.raises(WordsChanged, match="read them"):
            await home.a.consenting.grant(COUNTING, **hashes)
        home.a = home.devices.again(home.a)
        if not hashes:
            assert home.a.policy is not None
            assert home.a.policy.sequence == 2
    assert await listed(home.a) == []
    receipt = await home.a.consenting.grant(COUNTING, text_hash=changed[0].text_hash)
    assert receipt.text_hash == changed[0].text_hash


# --- withdrawing ---


async def test_a_purpose_that_is_switched_off_is_off_everywhere(home: House) -> None:
    """The other device, the relay and the next round all obey; the receipt says so for good."""
    await home.a.consenting.grant(COUNTING)
    record(home.a, "food/cuisine", "thai")
    first = await home.round()
    await home.both()
    [given] = await home.contribute(home.b)
    assert given.outcome is Outcome.CONTRIBUTED
    rounds = taking_part(home.a).rounds
    assert (await rounds.round(first.round_id)).contributed
    await home.both()
    done = await home.a.consenting.withdraw(COUNTING)
    assert [one.name for one in done.purged] == ["food/cuisine"]
    assert done.receipt is not None
    assert not done.receipt.granted
    assert [entry.granted for entry in await listed(home.a)] == [True, False]
    # What the other device gave to a round that is still open is taken back.
    assert not (await rounds.round(first.round_id)).contributed
    # The other device, before it knows: its own ledger still says yes, and the relay says no.
    second = await home.round("food/cuisine/v2")
    assert home.b.ledger.allows(COUNTING)
    stale = home.b.ledger.proof(COUNTING)
    assert stale is not None
    assert await taking(home.b, second, stale) == reasons.CONSENT_MISSING
    await home.b.sync_once()
    assert standing(home.b) is Standing.WITHDRAWN
    assert shown(home.b) == {}
    with pytest.raises(SignalRefused):
        record(home.b, "food/cuisine", "thai")
    for synced in (home.a, home.b):
        reports = await home.contribute(synced)
        assert {one.rule for one in reports} == {"consent"}
    assert not (await taking_part(home.b).rounds.round(second.round_id)).contributed


async def taking(synced: SyncedDevice, round_: Manifest, proof: consent.Proof) -> str:
    """What the relay says to a device that goes on as if nothing had been withdrawn."""
    sent = report(round_, "stubborn", favourites("food/cuisine/v2"))
    rounds = taking_part(synced).rounds
    try:
        await rounds.contribute(sent.round_id, sent.header, tuple(sent.boxes), proof)
    except RemoteError as error:
        return error.reason
    return "taken"


async def test_a_withdrawal_without_the_service_holds_at_once(home: House) -> None:
    """Here; with the next sync everywhere, and whichever device is first has it recorded."""
    await home.a.consenting.grant(COUNTING)
    record(home.a, "food/cuisine", "thai")
    await home.both()
    with Away(home.a):
        done = await home.a.consenting.withdraw(COUNTING)
    assert done.receipt is None
    assert standing(home.a) is Standing.WITHDRAWN
    assert shown(home.a) == {}
    assert [entry.granted for entry in await listed(home.a)] == [True]
    again = home.devices.again(home.a)
    assert standing(again) is Standing.WITHDRAWN
    await again.sync_once()
    await home.b.sync_once()
    assert [entry.granted for entry in await listed(home.b)] == [True, False]
    last = home.b.ledger.records.chain()[-1].receipt
    assert (last.granted, last.purpose) == (False, COUNTING)
    assert rules(home.b) == []


async def test_a_withdrawal_beats_a_grant_that_did_not_know_of_it(home: House) -> None:
    """Whichever of the two arrives first: what is refused needs nobody's agreement."""
    await home.a.consenting.grant(COUNTING)
    await home.both()
    changed = (replace(PURPOSES[0], text="Counts, in other words."), PURPOSES[1])
    await home.publish(policy(home.held, purposes=changed))
    with Away(home.a):
        await home.a.consenting.withdraw(COUNTING)
    await home.b.sync_once()
    await home.b.consenting.grant(COUNTING)
    assert standing(home.b) is Standing.GRANTED
    await home.both()
    for synced in (home.a, home.b):
        assert standing(synced) is Standing.WITHDRAWN
    assert [entry.granted for entry in await listed(home.a)] == [True, True, False]
    await home.b.consenting.grant(COUNTING)
    await home.both()
    assert standing(home.a) is Standing.GRANTED


async def test_only_what_no_other_purpose_needs_is_removed(home: House) -> None:
    """Settings, members, what stays on the device, and each device's own share of a score."""
    for purpose in (COUNTING, ADVICE):
        await home.a.consenting.grant(purpose)
    await home.both()
    for name, value in (("food/cuisine", "thai"), ("food/spice", "hot"), ("notes/note", "yes")):
        record(home.a, name, value)
    home.a.edit(lambda core, now_ms: core.add_member("liked", "lao", now_ms=now_ms))
    rate(home.a, "thai", 2)
    await home.both()
    rate(home.b, "thai", 3)
    rate(home.b, "lao", 1)
    await home.both()
    done = await home.a.consenting.withdraw(COUNTING)
    removed = ["food/cuisine", "liked/lao", "notes/note", "rating/thai"]
    assert sorted(one.name for one in done.purged) == removed
    assert shown(home.a) == {"food/spice": "hot", "rating/thai": 3.0, "rating/lao": 1.0}
    await home.both()
    for synced in (home.a, home.b):
        assert shown(synced) == {"food/spice": "hot"}
    done = await home.b.consenting.withdraw(ADVICE)
    assert [one.name for one in done.purged] == ["food/spice"]
    with pytest.raises(NothingThere, match="never granted"):
        await home.a.consenting.withdraw("elsewhere")


async def test_a_device_that_watches_obeys_at_once(home: House) -> None:
    """It need not sync: the withdrawal comes by its stream, and its own share goes."""
    await home.a.consenting.grant(COUNTING)
    await home.both()
    rate(home.b, "thai", 3)
    await home.both()
    watching = Watching(home.b)
    await watching.until_live()
    await home.a.consenting.withdraw(COUNTING)
    await watching.until(lambda: standing(home.b) is Standing.WITHDRAWN)
    await watching.until(lambda: shown(home.b) == {})
    await watching.until(lambda: home.b.core.status.edits_waiting == 0)
    await watching.stop()


async def test_a_pause_stops_everything_and_forgets_nothing(home: House) -> None:
    """On both devices; afterwards all goes on as it was granted."""
    await home.a.consenting.grant(COUNTING)
    record(home.a, "food/cuisine", "thai")
    await home.round()
    home.a.consenting.pause(True)
    await home.both()
    for synced in (home.a, home.b):
        with pytest.raises(SignalRefused) as refused:
            record(synced, "food/cuisine", "lao")
        assert refused.value.rule == "paused"
        [given] = await home.contribute(synced)
        assert given.rule == "paused"
        assert shown(synced) == {"food/cuisine": "thai"}
        assert standing(synced) is Standing.GRANTED
    home.b.consenting.pause(False)
    await home.both()
    record(home.a, "food/cuisine", "lao")
    [given] = await home.contribute(home.a)
    assert given.outcome is Outcome.CONTRIBUTED


# --- what the service says ---


REPEATED = (
    "INSERT INTO consent SELECT consent_id + 1, prev, hash, tag, granted, device_id, entry, sig,"
    " at_ms FROM consent"
)


def tamper(home: House, *statements: str) -> None:
    """Somebody at the service changes what it holds."""
    with closing(sqlite3.connect(home.relay.service.path / "rookery.db")) as db:
        for statement in statements:
            db.execute(statement)
        db.commit()


async def test_a_consent_that_the_service_lost_is_an_alarm_and_recorded_again(home: House) -> None:
    """As it was signed, by whichever device sees it first."""
    await home.a.consenting.grant(COUNTING)
    await home.a.consenting.grant(ADVICE)
    await home.both()
    before = await listed(home.a)
    tamper(home, "DELETE FROM consent WHERE consent_id & 0xFFFFFFFF > 1", "DELETE FROM consent_now")
    assert len(await listed(home.a)) == 1
    for _ in range(2):
        await home.b.sync_once()
        assert rules(home.b) == ["consent-missing"]
        assert await listed(home.b) == before
    assert standing(home.b) is Standing.GRANTED


@pytest.mark.parametrize(
    "lie",
    [
        "UPDATE consent SET entry = zeroblob(144)",
        "UPDATE consent SET sig = zeroblob(64)",
        "UPDATE consent SET device_id = zeroblob(16)",
        REPEATED,
    ],
)
async def test_a_consent_that_nobody_gave_stops_all_contributions(home: House, lie: str) -> None:
    """An alarm with the evidence, and it stays stopped until the service shows what is true."""
    await home.a.consenting.grant(COUNTING)
    record(home.a, "food/cuisine", "thai")
    await home.round()
    await home.both()
    tamper(home, "CREATE TABLE kept AS SELECT * FROM consent", lie)
    for synced in (home.a, home.b):
        [given] = await home.contribute(synced)
        assert given.rule == "consent-forged"
        assert rules(synced) == ["consent-forged"]
        assert home.devices.again(synced).ledger.doubted
    with pytest.raises(UserError, match="not what you gave"):
        await home.a.consenting.grant(ADVICE)
    tamper(home, "DELETE FROM consent", "INSERT INTO consent SELECT * FROM kept")
    [given] = await home.contribute(home.a)
    assert given.outcome is Outcome.CONTRIBUTED


async def test_an_entry_whose_receipt_never_comes_is_an_alarm_after_a_day(home: House) -> None:
    """Until then it may be on its way: a device writes the receipt right after the entry."""
    await home.a.consenting.grant(COUNTING)
    await home.both()
    home.b.core.put_reserved(Name(RECEIPTS, f"{1:012d}"), None, now_ms=home.b.now_ms())
    await home.b.sync_once()
    assert rules(home.b) == []
    since = home.b.kept[UNKNOWN_ROW]
    earlier = int.from_bytes(since[:8], "big") - UNKNOWN_MS
    home.b.save({UNKNOWN_ROW: earlier.to_bytes(8, "big") + since[8:]})
    await home.b.sync_once()
    assert rules(home.b) == ["consent-unknown"]


async def test_an_account_that_is_made_again_has_its_consent_again(tmp_path: Path) -> None:
    """The service lost everything: what was agreed to comes back with the account, as it was
    signed."""
    folders = tmp_path / "first", tmp_path / "second"
    for folder in folders:
        folder.mkdir()
    async with house(folders[0]) as home:
        await home.a.consenting.grant(COUNTING)
        await home.a.consenting.withdraw(COUNTING)
        await home.a.consenting.grant(COUNTING)
        before, rows = await listed(home.a), home.a.vault.load()
    async with house(folders[1]) as elsewhere:
        moved = MemoryVault(rows)
        moved.apply({"shell/endpoint": elsewhere.a.transport.endpoint.encode()})
        again = elsewhere.devices.again(elsewhere.a, moved)
        await again.make_again()
        await again.sync_once()
        assert await listed(again) == before
        assert standing(again) is Standing.GRANTED


async def test_a_device_that_was_removed_syncs_no_consent_and_says_so_as_ever(
    home: House,
) -> None:
    """Under a policy it learns of its end in the same words as without one."""
    await home.a.consenting.grant(COUNTING)
    await home.both()
    gone = home.b.core.identity.device_id
    home.a.edit(lambda core, _: core.rotate([gone]))
    await home.a.sync_once()
    with pytest.raises(AccountGone):
        await home.b.sync_once()
    assert standing(home.a) is Standing.GRANTED
    await home.a.consenting.grant(ADVICE)
    assert rules(home.a) == []


async def test_a_service_that_takes_no_consent_keeps_nobody_from_syncing(home: House) -> None:
    """Its policy does not let devices call it: an alarm, and everything else goes on."""
    grants = tuple(
        Grant("anyone", f"/rookery.v1.{name}/*", ("*",))
        for name in ("Accounts", "Sync", "Rounds", "Parties")
    )
    open_policy = Grant("anyone", "/rookery.v1.Policy/GetPolicy", ("*",))
    closed = Access((), (*grants, open_policy))
    await home.publish(policy(home.held, access=closed))
    for synced in (home.a, home.b):
        await synced.sync_once()
        assert rules(synced) == ["consent-refused"]
    assert home.a.holding.sequence == 2


# --- starting anew ---


async def test_a_reset_empties_the_profile_on_all_devices(home: House) -> None:
    """What was agreed to stays agreed to; each device removes its own share of scores."""
    await home.a.consenting.grant(COUNTING)
    await home.both()
    for synced, amount in ((home.a, 2), (home.b, 3)):
        record(synced, "notes/note", "yes")
        rate(synced, "thai", amount)
        await home.both()
    record(home.a, "food/cuisine", "thai")
    await home.both()
    assert home.a.consenting.reset() == 3
    await home.both()
    for synced in (home.a, home.b):
        assert shown(synced) == {}
        assert standing(synced) is Standing.GRANTED
    rate(home.b, "lao", 1)
    await home.both()
    for synced in (home.a, home.b):
        assert shown(synced) == {"rating/lao": 1.0}


async def test_a_reset_is_undone_on_the_device_that_did_it(home: House) -> None:
    """Everything is back with the times that it had; what was written since stays as it is, and
    what is no longer agreed to stays gone."""
    for purpose in (COUNTING, ADVICE):
        await home.a.consenting.grant(purpose)
    await home.both()
    rate(home.b, "thai", 3)
    await home.both()
    rate(home.a, "thai", 2)
    for name, value in (("food/cuisine", "thai"), ("food/spice", "hot"), ("notes/note", "yes")):
        record(home.a, name, value)
    home.a.edit(lambda core, now_ms: core.add_member("liked", "lao", now_ms=now_ms))
    await home.both()
    before = shown(home.a)
    home.a.consenting.reset()
    await home.both()
    with pytest.raises(NothingThere):
        home.b.consenting.undo()
    record(home.a, "food/spice", "mild")
    done = home.a.consenting.undo()
    assert (done.restored, done.refused, done.newer) == (4, 0, 1)
    await home.both()
    assert shown(home.a) == before | {"food/spice": "mild"}
    assert shown(home.b) == {k: v for k, v in shown(home.a).items() if k != "notes/note"}
    with pytest.raises(NothingThere):
        home.a.consenting.undo()


async def test_an_undo_brings_back_nothing_that_was_withdrawn(home: House) -> None:
    """What a withdrawal removes is not kept to be undone, either."""
    for purpose in (COUNTING, ADVICE):
        await home.a.consenting.grant(purpose)
    record(home.a, "food/cuisine", "thai")
    record(home.a, "food/spice", "hot")
    home.a.consenting.reset()
    await home.a.consenting.withdraw(COUNTING)
    assert b"hot" in home.a.vault.load()[UNDO_ROW]
    assert b"thai" not in home.a.vault.load()[UNDO_ROW]
    await home.a.consenting.grant(COUNTING)
    done = home.a.consenting.undo()
    assert (done.restored, done.refused, done.newer) == (1, 0, 0)
    assert shown(home.a) == {"food/spice": "hot"}


async def test_an_undo_goes_no_further_than_recording_does(home: House) -> None:
    """A score stays within its cap, a set within its size, a value in the range that the policy
    has by then; what is left out is counted."""
    await home.a.consenting.grant(COUNTING)
    for _ in range(11):
        rate(home.a, "thai", 9)
    record(home.a, "food/cuisine", "thai")
    liked(home.a, *(f"old{number}" for number in range(9)))
    home.a.consenting.reset()
    for _ in range(3):
        rate(home.a, "thai", 9)
    liked(home.a, *(f"new{number}" for number in range(8)))
    cuisine, *rest = home.held.signals
    greek = replace(cuisine, values=Choices(("greek", "lao")))
    await home.publish(policy(home.held, signals=(greek, *rest)))
    await home.both()
    done = home.a.consenting.undo()
    assert (done.restored, done.refused, done.newer) == (2, 9, 0)
    await home.both()
    for synced in (home.a, home.b):
        assert synced.core.score("rating", "thai", now_ms=synced.now_ms()) == 99
        members = synced.core.members("liked")
        assert {f"new{number}" for number in range(8)} < members
        assert len(members) == 9
        assert synced.core.get("food", "cuisine") is None


async def test_an_undo_waits_until_recording_goes_on(home: House) -> None:
    """While everything is paused nothing comes back, and nothing is lost by having asked."""
    await home.a.consenting.grant(COUNTING)
    record(home.a, "food/cuisine", "thai")
    home.a.consenting.reset()
    home.a.consenting.pause(True)
    with pytest.raises(SignalRefused, match="rule paused"):
        home.a.consenting.undo()
    assert shown(home.a) == {}
    home.a.consenting.pause(False)
    assert home.a.consenting.undo().restored == 1
    assert shown(home.a) == {"food/cuisine": "thai"}


async def test_an_undo_comes_back_as_coarse_as_the_policy_is_by_then(home: House) -> None:
    """And a score of a collection of few does not push out a larger one."""
    await home.a.consenting.grant(COUNTING)
    rate(home.a, "thai", 1)
    rate(home.a, "greek", 5)
    home.a.consenting.reset()
    rate(home.a, "lao", 3)
    signals = tuple(
        replace(one, generalise=(TopK(2),)) if one.name == "rating" else one
        for one in home.held.signals
    )
    await home.publish(policy(home.held, signals=signals))
    await home.both()
    done = home.a.consenting.undo()
    assert (done.restored, done.refused) == (1, 1)
    assert shown(home.a) == {"rating/lao": 3.0, "rating/greek": 5.0}


async def test_a_withdrawal_elsewhere_empties_the_undo_of_this_device(home: House) -> None:
    """Settings, members and scores of what was withdrawn: with the next sync no row has them."""
    await home.a.consenting.grant(COUNTING)
    record(home.a, "food/cuisine", "thai")
    home.a.edit(lambda core, now_ms: core.add_member("liked", "laksa", now_ms=now_ms))
    rate(home.a, "greek", 2)
    home.a.consenting.reset()
    await home.both()
    kept = home.a.vault.load()[UNDO_ROW]
    said = (b"thai", b"laksa", b"greek")
    assert all(word in kept for word in said)
    await home.b.consenting.withdraw(COUNTING)
    await home.a.sync_once()
    left = home.a.vault.load().get(UNDO_ROW, b"")
    assert not any(word in left for word in said)


async def test_an_undo_lasts_a_week_and_stands_on_one_device_alone(home: House) -> None:
    """Then its row is gone from the vault; no record of the profile ever held it."""
    await home.a.consenting.grant(COUNTING)
    record(home.a, "food/cuisine", "thai")
    await home.both()
    home.a.consenting.reset()
    await home.both()
    assert UNDO_ROW in home.a.vault.load()
    assert UNDO_ROW not in home.b.vault.load()
    assert isinstance(home.a.transport.clock, Clock)
    home.a.transport.clock.offset_ms += 7 * DAY_MS + 1
    with pytest.raises(NothingThere):
        home.a.consenting.undo()
    await home.a.sync_once()
    assert UNDO_ROW not in home.a.vault.load()
