"""What the person should know: alarms with their evidence, and announcements."""

from __future__ import annotations

from client.rows import Journal, Rows, pack, unpack
from client.steps import Notice, NoticeKind
from crypto.ids import DeviceId

NOTICES_MAX = 256
_EVIDENCE_BYTES_MAX = 65_536


class Notices:
    """Numbered, until dismissed. Bounded: who floods a device with bad ops fills no disk."""

    def __init__(self) -> None:
        self._notices: dict[int, Notice] = {}
        self._seen: set[tuple[str, bytes]] = set()
        self._next = 1

    @classmethod
    def load(cls, rows: Rows) -> Notices:
        """From the rows `notice:...`."""
        notices = cls()
        for name in sorted(name for name in rows if name.startswith("notice:")):
            kind, rule, sentence, at_ms, device, evidence, about = unpack(rows[name], 7)
            number = int(name.partition(":")[2])
            notices._notices[number] = Notice(
                number,
                NoticeKind(kind),
                rule,
                sentence,
                at_ms,
                DeviceId(device) if device else None,
                tuple(evidence),
            )
            notices._seen.add((rule, about))
            notices._next = number + 1
        return notices

    @property
    def all(self) -> tuple[Notice, ...]:
        """Oldest first."""
        return tuple(self._notices.values())

    def add(
        self,
        journal: Journal,
        kind: NoticeKind,
        rule: str,
        sentence: str,
        *,
        at_ms: int,
        device_id: DeviceId | None = None,
        evidence: tuple[bytes, ...] = (),
        about: bytes = b"",
    ) -> None:
        """Adds a notice, once for each (rule, about)."""
        if (rule, about) in self._seen or len(self._notices) >= NOTICES_MAX:
            return
        if sum(map(len, evidence)) > _EVIDENCE_BYTES_MAX:
            evidence = ()
        notice = Notice(self._next, kind, rule, sentence, at_ms, device_id, evidence)
        self._seen.add((rule, about))
        self._notices[self._next] = notice
        journal.set(
            f"notice:{self._next:06d}",
            pack(kind.value, rule, sentence, at_ms, device_id and bytes(device_id),
                 list(evidence), about),
        )  # fmt: skip
        self._next += 1

    def forget(self, rule: str, about: bytes) -> None:
        """The cause is gone: if it comes back, it is worth a new notice."""
        self._seen.discard((rule, about))

    def withdraw(self, rule: str, journal: Journal) -> None:
        """What was to be said by this rule is to be found out anew."""
        self._seen = {row for row in self._seen if row[0] != rule}
        for notice in self.all:
            if notice.rule == rule:
                self.dismiss(notice.number, journal)

    def dismiss(self, number: int, journal: Journal) -> None:
        """The person has read it."""
        if self._notices.pop(number, None) is not None:
            journal.drop(f"notice:{number:06d}")
