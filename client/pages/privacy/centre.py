"""The privacy centre of one device: its pages, and what their forms do.

The device stays its own: whoever else opens its state meanwhile is told that it is in use.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Any, Final

from client import resetting
from client.consent import exporting, taken
from client.consent.purging import SEALED
from client.errors import AccountGone, UserError
from client.intelligence import exposures
from client.intelligence.context import Context
from client.intelligence.ondevice import RANKING, OnDevice
from client.intelligence.ranking import Ranked
from client.measure.core import Answered, Measuring, Standing
from client.measure.participant import Participant
from client.measure.results import Ended, State
from client.pages.local import Action, Done, Fill, Form, LocalSite, Page
from client.pages.privacy import known, ranked, words
from client.pages.privacy.choices import choices
from client.remoteerrors import RemoteError
from client.steps import DeviceInfo, NoticeKind
from client.sync import SyncedDevice
from crypto.cert import Role
from crypto.ids import DeviceId

NAME: Final = "Rookery privacy centre"
GRANT_WORD: Final = "grant"
"""What has to be typed before something intrusive is agreed to."""
FRESH_S: Final = 5.0
"""A page that is opened so long after the last sync syncs first."""
_PART: Final = {
    Standing.STORED: "took part; not arrived yet",
    Standing.GIVEN: "took part",
    Standing.ELSEWHERE: "took part, from another device",
    Standing.MISSED: "came too late",
}
_STATE: Final = {
    State.WAITING: "not ended yet",
    State.ABANDONED: "given up: nothing was opened",
    State.DONE: "opened, with noise",
}


class PrivacyCentre:
    """What the pages show and do, for one open device."""

    def __init__(
        self,
        synced: SyncedDevice,
        *,
        purpose: str = RANKING,
        utc_offset_minutes: int = 0,
    ) -> None:
        """`purpose`: what rankings are for; `utc_offset_minutes`: of the clock on the wall."""
        self._synced = synced
        self._purpose = purpose
        self._utc_offset_minutes = utc_offset_minutes
        self._ledger = synced.ledger
        self._consenting = synced.consenting
        self._stale_s = 0.0

    def site(self) -> LocalSite:
        """To be started and stopped by whoever serves it."""
        pages = [
            Page(place, title, f"privacy_{place or 'choices'}.html", self._fresh(fill))
            for place, title, fill in (
                ("", "Your choices", self._choices),
                ("known", "What is known", self._known),
                ("ranking", "Why I see this", self._ranking),
                ("counted", "What was counted", self._counted),
                ("devices", "Devices", self._devices),
                ("leave", "Take it, or leave", self._leave),
            )
        ]
        actions = {
            "grant": self._grant,
            "withdraw": self._withdraw,
            "pause": self._pause,
            "resume": self._resume,
            "remove": self._remove,
            "revoke": self._revoke,
            "export": self._export,
            "reset": self._reset,
            "undo": self._undo,
            "forget": self._forget,
        }
        return LocalSite(
            NAME,
            pages,
            [Action(place, _reached(act)) for place, act in actions.items()],
            rand=secrets.token_bytes,
            monotonic_s=time.monotonic,
        )

    def _fresh(self, fill: Fill) -> Fill:
        """With what other devices did, if the service can be reached."""

        async def filled() -> dict[str, Any]:
            now_s = time.monotonic()
            if now_s >= self._stale_s:
                with contextlib.suppress(RemoteError, AccountGone):
                    await self._synced.sync_once()
                self._stale_s = time.monotonic() + FRESH_S
            return await fill()

        return filled

    # -- pages -----------------------------------------------------------------------------

    async def _choices(self) -> dict[str, Any]:
        policy = self._synced.policy
        return {
            "governed": self._synced.governed,
            "policy": policy
            and {
                "title": policy.title,
                "sequence": policy.sequence,
                "issued": words.day(policy.issued_ms),
            },
            "paused": self._ledger.paused,
            "choices": choices(self._ledger),
            "alarms": [
                one.sentence for one in self._synced.core.notices if one.kind is NoticeKind.ALARM
            ],
        }

    async def _known(self) -> dict[str, Any]:
        core, now_ms = self._synced.core, self._synced.now_ms()
        own = OnDevice(self._synced, purpose=self._purpose)
        moved = {
            **ranked.moved(self._rankings().values()),
            **ranked.hides(core, own.collections(), own.uses()),
        }
        return {"groups": known.groups(core, self._synced.policy, moved, now_ms=now_ms)}

    async def _ranking(self) -> dict[str, Any]:
        return {"lists": ranked.lists(self._synced.core, self._rankings(), purpose=self._purpose)}

    def _rankings(self) -> dict[str, list[Ranked]]:
        """By collection."""
        own = OnDevice(self._synced, purpose=self._purpose)
        context = Context.at(self._synced.now_ms(), utc_offset_minutes=self._utc_offset_minutes)
        ended = list(Participant(self._synced).results.ended.values())
        return {one: own.rank(one, context, ended=ended) for one in own.collections()}

    async def _counted(self) -> dict[str, Any]:
        participant = Participant(self._synced)
        measuring, kept = participant.core, participant.results
        rounds: list[tuple[Ended | Answered, Answered | None, State]] = [
            (one, measuring.answered.get(digest), one.state) for digest, one in kept.ended.items()
        ]
        rounds += [
            (one, one, State.WAITING)
            for digest, one in measuring.answered.items()
            if digest not in kept.ended
        ]
        rounds.sort(key=lambda row: -row[0].shown.manifest.close_ms)
        limits = measuring.policy.limits
        budget = [
            {
                "of": "all tasks, for all time",
                "spent": f"{measuring.spent_micro_rho():,}",
                "allowed": f"{limits.all_time_micro_rho:,}",
            }
        ]
        return {"rows": [_round(*row) for row in rounds], "budget": budget}

    async def _devices(self) -> dict[str, Any]:
        return {"devices": [_device(row) for row in self._synced.core.devices]}

    async def _leave(self) -> dict[str, Any]:
        until_ms = resetting.undo_until_ms(self._synced.kept)
        return {
            "undo_until": "" if until_ms is None else words.day(until_ms),
            "forget_words": taken.before_forgetting(self._measuring),
        }

    @property
    def _measuring(self) -> Measuring:
        return Measuring(self._synced.core, self._synced.vault.load())

    # -- forms -----------------------------------------------------------------------------

    async def _grant(self, form: Form) -> Done:
        purpose, shown = _needed(form, "purpose"), _needed(form, "text_hash")
        policy = self._synced.policy
        words_ = None if policy is None else policy.purpose(purpose)
        if words_ is not None and words_.intrusive and form.get("word") != GRANT_WORD:
            raise UserError(f"nothing was granted: type the word {GRANT_WORD}, and nothing else")
        await self._consenting.grant(purpose, text_hash=_hash(shown))
        return Done(f"{purpose} is on, on all your devices.")

    async def _withdraw(self, form: Form) -> Done:
        purpose = _needed(form, "purpose")
        done = await self._consenting.withdraw(purpose)
        receipt = (
            "The service has taken the receipt."
            if done.receipt is not None
            else "The receipt goes to the service with the next sync."
        )
        removed = words.count(len(done.purged), "value")
        details = [f"{one.name} was removed" for one in done.purged]
        return Done(
            f"{purpose} is off, on all your devices. {removed} went with it. {receipt}",
            tuple([*details, SEALED] if details else details),
        )

    async def _pause(self, form: Form) -> Done:
        del form
        self._consenting.pause(True)
        await self._told_others()
        return Done("Everything is paused.")

    async def _resume(self, form: Form) -> Done:
        del form
        self._consenting.pause(False)
        await self._told_others()
        return Done("Recording goes on, for what you have switched on.")

    async def _told_others(self) -> None:
        """The other devices learn of it now, or with a later sync."""
        try:
            await self._synced.sync_once()
        except RemoteError as error:
            if not error.transient:
                raise

    async def _remove(self, form: Form) -> Done:
        collection, key = _needed(form, "collection"), _needed(form, "key")
        if form.get("kind") == "score":
            self._synced.edit(
                lambda core, now_ms: core.remove_score(collection, key, now_ms=now_ms)
            )
        elif form.get("kind") == known.TRIAL and collection == exposures.COLLECTION:
            self._synced.edit(lambda core, now_ms: exposures.remove(core, key, now_ms=now_ms))
        else:
            self._synced.edit(lambda core, now_ms: core.remove(collection, key, now_ms=now_ms))
        await self._told_others()
        return Done(f"{collection}/{key} was removed, on all your devices.", then="known")

    async def _revoke(self, form: Form) -> Done:
        _sure(form)
        wanted = _needed(form, "device")
        found = [one for one in self._synced.core.devices if one.device_id.hex() == wanted]
        if not found or not _removable(found[0]):
            raise UserError("there is no such device to remove: look at the list again")
        await self._synced.sync_once()
        gone = DeviceId(bytes.fromhex(wanted))
        self._synced.edit(lambda core, _: core.rotate((gone,)))
        await self._synced.sync_once()
        if any(one.device_id == gone and one.active for one in self._synced.core.devices):
            raise UserError("the service did not take it yet: try again in a moment")
        return Done(
            f"Device #{found[0].index} is removed; the others have a new key.", then="devices"
        )

    async def _export(self, form: Form) -> Done:
        del form
        found = exporting.export(self._synced, self._measuring)
        data = json.dumps(found, indent=2, ensure_ascii=False, default=bytes.hex).encode()
        return Done("", download=data, filename="rookery-export.json")

    async def _reset(self, form: Form) -> Done:
        _sure(form)
        count = self._consenting.reset()
        await self._told_others()
        return Done(
            f"{words.count(count, 'value')} removed, on all your devices.",
            ("What another device added to a score goes when that device syncs next.",),
            then="leave",
        )

    async def _undo(self, form: Form) -> Done:
        del form
        done = self._consenting.undo()
        await self._told_others()
        said = [f"{words.count(done.restored, 'value')} came back."]
        if done.refused:
            said.append(f"{done.refused:,} did not: the policy, or what you agree to, is another.")
        if done.newer:
            said.append(f"{done.newer:,} were written anew since, and stay as they are.")
        return Done(" ".join(said), then="leave")

    async def _forget(self, form: Form) -> Done:
        if form.get("word") != "forget":
            raise UserError("nothing was done: type the word forget, and nothing else")
        await self._synced.delete_account()
        return Done(
            "You are forgotten: the account is deleted, and the service has signed for it.",
            over=True,
        )


def _round(one: Ended | Answered, answered: Answered | None, state: State) -> dict[str, str]:
    return {
        "title": one.task.title,
        "purpose": one.task.purpose,
        "when": words.day(one.shown.manifest.close_ms),
        "part": "did not take part" if answered is None else _PART[answered.standing],
        "state": _STATE[state],
    }


def _reached(act: Callable[[Form], Awaitable[Done]]) -> Callable[[Form], Awaitable[Done]]:
    """What the service says against it is said on the page."""

    async def told(form: Form) -> Done:
        try:
            return await act(form)
        except (RemoteError, AccountGone) as error:
            raise UserError(f"that was not done: {error}") from None

    return told


def _needed(form: Form, name: str) -> str:
    found = form.get(name, "")
    if not found:
        raise UserError("the form was not complete: go back and try again")
    return found


def _hash(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise UserError("the form was not complete: go back and try again") from None


def _sure(form: Form) -> None:
    if form.get("sure") != "yes":
        raise UserError("nothing was done: tick the box first")


def _removable(row: DeviceInfo) -> bool:
    return row.active and not row.this_device and row.role is Role.FULL


def _device(row: DeviceInfo) -> dict[str, Any]:
    what = "recovery key" if row.role is Role.RECOVERY else "device"
    said = [what, *(["this one"] if row.this_device else []), *([] if row.active else ["removed"])]
    return {
        "number": row.index,
        "id": row.device_id.hex()[:8],
        "full_id": row.device_id.hex(),
        "what": ", ".join(said),
        "seen": words.day(row.last_seen_ms) if row.role is Role.FULL else "-",
        "removable": _removable(row),
    }
