"""Granting, withdrawing, pausing: the ledger, the vault and the service, put together.

A grant needs the service and takes effect with its answer. A withdrawal takes effect here at
once, everywhere else with the next sync, and its receipt follows, by whichever device is first.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from client.consent.comparing import Comparison, compare
from client.consent.ledger import ConsentLedger, Standing
from client.consent.purging import Purged, purge, strip_undo
from client.consent.records import ID_BYTES, Recorded, Stub
from client.consent.remote import ConsentCalls
from client.consent.underway import Underway
from client.errors import NotAllowed, NothingThere, UserError, WordsChanged
from client.intelligence import exposures
from client.measure.consent import COLLECTION
from client.profile import Name
from client.remoteerrors import RemoteError
from client.resetting import Undone
from client.rows import Changes
from crypto import consent
from crypto.consent import BLIND_BYTES, FIRST, Entry, Receipt
from crypto.policy.document import Bundle
from crypto.policy.purposes import Purpose

if TYPE_CHECKING:
    from client.sync import SyncedDevice

ROWS: Final = "shell/consent/"
DOUBTED_ROW: Final = ROWS + "doubted"
UNKNOWN_ROW: Final = ROWS + "unknown"
"""When an entry without a receipt was first seen, u64 milliseconds, and its hash."""
UNKNOWN_MS: Final = 86_400_000
"""So long a receipt may be on its way: its device writes it right after the entry."""
TRIES_MAX: Final = 8
_UNKNOWN: Final = (
    "The service holds a record of consent by one of your devices, and for a day none of your"
    " devices has shown what it says. If you remove that device, what it recorded stays visible."
)


@dataclass(frozen=True, slots=True)
class Withdrawn:
    """What a withdrawal did."""

    purged: tuple[Purged, ...]
    receipt: Receipt | None
    """None: it follows with the next sync."""


class Consenting:
    """One device's part in what its person agrees to."""

    def __init__(self, synced: SyncedDevice, ledger: ConsentLedger) -> None:
        self.synced = synced
        self.ledger = ledger
        self.records = ledger.records
        self.underway = Underway(synced)
        ledger.doubted = DOUBTED_ROW in synced.kept

    @property
    def _calls(self) -> ConsentCalls:
        self.synced.sign_as_device()
        signer = self.synced.remote.signer
        assert signer is not None
        return ConsentCalls(self.synced.transport, signer)

    # -- what a person says -------------------------------------------------------------

    async def grant(self, purpose: str, *, text_hash: bytes | None = None) -> Receipt:
        """Switches a purpose on, to the words that were shown: those of this hash; without one
        those of the policy that is held before it syncs. WordsChanged if the newest policy has
        other words, NothingThere for a purpose that it doesn't have, RemoteError, AccountGone."""
        shown = self._words(purpose)[1].text_hash if text_hash is None else text_hash
        await self.synced.sync_once()
        bundle, words = self._words(purpose)
        if words.text_hash != shown:
            raise WordsChanged(f"the words of {purpose} have changed: read them, then grant it")
        if bundle.killed("purpose", purpose):
            raise NotAllowed("the policy has stopped this purpose: it can't be granted now")
        state = self.ledger.state(purpose)
        if state.standing is Standing.GRANTED and state.newest is not None:
            return state.newest.receipt
        said = self._receipt(
            purpose,
            policy_sequence=bundle.sequence,
            text_hash=words.text_hash,
            granted=True,
            at_ms=self.synced.now_ms(),
        )
        answers = frozenset(one.id for one in self.records.withdrawals() if one.purpose == purpose)
        made = await self._record(said, answers, (words.text, words.benefit), await self._compare())
        await self._send_rest()
        return made.receipt

    def _words(self, purpose: str) -> tuple[Bundle, Purpose]:
        bundle = self.ledger.policy
        if bundle is None:
            raise NotAllowed("this device has no policy yet: sync it, then try again")
        words = bundle.purpose(purpose)
        if words is None:
            text = f"the policy has no purpose {purpose}: `rookery device consent` lists all"
            raise NothingThere(text)
        return bundle, words

    def check_withdrawal(self, purpose: str) -> None:
        """NothingThere for a purpose that was never granted."""
        if self.ledger.state(purpose).newest is None and not self.underway.grants(purpose):
            raise NothingThere(f"{purpose} was never granted: it is off")

    async def withdraw(self, purpose: str, *, offline: bool = False) -> Withdrawn:
        """Switches a purpose off, at once and whether or not the service can be reached, and
        removes what nothing else needs. NothingThere for one that was never granted."""
        self.check_withdrawal(purpose)
        now_ms = self.synced.now_ms()
        core = self.synced.core
        self.records.withdraw(purpose, secrets.token_bytes(ID_BYTES), now_ms=now_ms)
        core.put_reserved(Name(COLLECTION, purpose), False, now_ms=now_ms)
        purged = purge(self.ledger, now_ms=now_ms)
        self.synced.save(strip_undo(self.ledger, self.synced.kept))
        self.synced.woken.set()
        if not offline:
            await self._send_rest()
        after = self.ledger.state(purpose).newest
        receipt = after.receipt if after is not None and not after.entry.granted else None
        return Withdrawn(tuple(purged), receipt)

    def pause(self, paused: bool) -> None:
        """Stops all recording and contributing, on all devices with their next sync, or goes on."""
        self.records.pause(paused, now_ms=self.synced.now_ms())
        self.synced.save()
        self.synced.woken.set()

    def reset(self) -> int:
        """Removes everything that apps recorded, on all devices with their next sync; how much it
        was. For a week this device, and no other, can `undo` it, but for what it took part in of
        experiments."""
        synced = self.synced
        count, rows = synced.core.reset(id_=secrets.token_bytes(ID_BYTES), now_ms=synced.now_ms())
        trials = exposures.forget(synced.core, lambda _: True, now_ms=synced.now_ms())
        synced.save(rows)
        synced.woken.set()
        return count + len(trials)

    def undo(self) -> Undone:
        """Puts back what this device's last reset removed, as far as it could be recorded now.
        NothingThere; SignalRefused while everything is paused: it can be undone afterwards."""
        synced = self.synced
        done, rows = synced.core.undo_reset(synced.kept, now_ms=synced.now_ms())
        synced.save(rows)
        synced.woken.set()
        return done

    # -- after each sync ----------------------------------------------------------------

    async def settle(self) -> None:
        """In each sync, once what is new is here: compares the service's list with the receipts,
        and has withdrawals recorded that have no receipt yet. What it writes is for the caller to
        send. RemoteError."""
        compared = await self._compare()
        for state, withdrawal in self.ledger.unreceipted():
            assert state.newest is not None
            given = state.newest
            newest = compared.now.get(given.entry.tag)
            if newest is not None and not newest.granted:
                continue  # it is off there, by a device whose receipt is on its way, or never comes
            said = self._receipt(
                state.name,
                policy_sequence=given.receipt.policy_sequence,
                text_hash=given.receipt.text_hash,
                granted=False,
                at_ms=withdrawal.at_ms,
            )
            await self._record(said, state.withdrawn, given.words, compared)
            compared = await self._compare()

    async def _send_rest(self) -> None:
        """What was written is told to the other devices; with a later sync, if not now."""
        try:
            await self.synced.sync_once()
        except RemoteError as error:
            if not error.transient:
                raise

    # -- the service --------------------------------------------------------------------

    async def _compare(self) -> Comparison:
        """The service's list, judged. What it lost is uploaded again; what was sent by a run that
        was cut off is taken up, if it arrived."""
        listed = await self._calls.list()
        await self._take_pending([one.raw for one in listed])
        found = compare(self.synced.core, self.records.entries(), listed)
        self.records.put_stubs(found.unknown, now_ms=self.synced.now_ms())
        self._tell(found)
        for one in found.lost:
            raw = one.entry.encode()
            if not await self._calls.record(raw, one.sig, one.device_id):
                break  # another device was first; the next sync compares again
            found.head = one.entry
        return found

    async def _take_pending(self, listed: list[bytes]) -> None:
        for one in self.underway.all():
            seq = one.entry.seq
            if seq <= len(listed) and listed[seq - 1] == one.entry.encode():
                if not one.entry.granted:
                    await self._say(one)  # its answer was lost, and maybe what follows on it
                self._keep(one)
        self.underway.forget(len(listed))

    def _tell(self, found: Comparison) -> None:
        core, now_ms = self.synced.core, self.synced.now_ms()
        for alarm in found.alarms:
            core.alarm(
                alarm.rule, alarm.sentence, *alarm.evidence, about=alarm.about, now_ms=now_ms
            )
        self.ledger.doubted = not found.sound
        rows: Changes = {DOUBTED_ROW: None if found.sound else b"1"}
        last = found.unknown[-1].entry if found.unknown else None
        rows[UNKNOWN_ROW] = self._unknown_since(last, now_ms) if last is not None else None
        self.synced.save(rows)

    def _unknown_since(self, entry: Entry, now_ms: int) -> bytes:
        row = self.synced.kept.get(UNKNOWN_ROW, b"")
        if row[8:] != entry.hash:
            return max(0, now_ms).to_bytes(8, "big") + entry.hash
        if now_ms >= int.from_bytes(row[:8], "big") + UNKNOWN_MS:
            raw = entry.encode()
            self.synced.core.alarm(
                "consent-unknown", _UNKNOWN, raw, about=entry.hash, now_ms=now_ms
            )
        return row

    def _receipt(
        self, purpose: str, *, policy_sequence: int, text_hash: bytes, granted: bool, at_ms: int
    ) -> Receipt:
        return Receipt(
            account=self.synced.core.account_id,
            purpose=purpose,
            policy_sequence=policy_sequence,
            text_hash=text_hash,
            granted=granted,
            at_ms=max(0, at_ms),
            prev=FIRST,
            blind=secrets.token_bytes(BLIND_BYTES),
        )

    async def _record(
        self,
        said: Receipt,
        answers: frozenset[bytes],
        words: tuple[str, str],
        compared: Comparison,
    ) -> Recorded:
        """Has the service take the entry, behind whatever is the newest there, and keeps the
        receipt. UserError if the service's list can't be built on."""
        core = self.synced.core
        key = core.aggregation_key
        if key is None:
            raise NotAllowed("the account's secret has not arrived here: sync, then try again")
        for _ in range(TRIES_MAX):
            if not compared.sound:
                raise UserError(
                    "the service's record of your consent is not what you gave: see the alarm in"
                    " `rookery device status`"
                )
            entry, receipt = consent.next_pair(said, aggregation_key=key, before=compared.head)
            sig = consent.sign(core.identity, entry)
            one = Recorded(entry, sig, core.identity.device_id, receipt, answers, words)
            one = self.underway.note(one)
            if await self._say(one):
                self._keep(one, compared.unknown)
                return one
            compared = await self._compare()
        raise UserError("other devices keep changing what is agreed to: try again in a moment")

    async def _say(self, one: Recorded) -> bool:
        """To the service. With a withdrawal of what it knows the purpose of goes the salt: what
        was contributed to rounds that are not settled is taken back."""
        salt, purpose = b"", one.receipt.purpose
        key = self.synced.core.aggregation_key
        if not one.entry.granted and key is not None and self.records.is_opened(purpose):
            salt = consent.salt(key, purpose)
        raw = one.entry.encode()
        return await self._calls.record(raw, one.sig, one.device_id, salt=salt)

    def _keep(self, one: Recorded, unknown: Sequence[Stub] = ()) -> None:
        """The service has the entry: receipt and switch are stored in one write, with what it is
        built on."""
        core, now_ms = self.synced.core, self.synced.now_ms()
        purpose, seq = one.receipt.purpose, one.entry.seq
        newest = self.ledger.state(purpose).newest
        self.records.put(one, now_ms=now_ms)
        self.records.put_stubs(unknown, now_ms=now_ms)
        if newest is None or newest.entry.seq < seq:
            core.put_reserved(Name(COLLECTION, purpose), one.entry.granted, now_ms=now_ms)
        self.synced.save()
        self.underway.forget(seq)
        self.synced.woken.set()
