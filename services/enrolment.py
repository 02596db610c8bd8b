"""Who may make an account: proof of work, or a token of the app (docs/protocol.md, 8)."""

from __future__ import annotations

from dataclasses import dataclass

from crypto import enrol
from crypto.errors import CryptoError
from crypto.ids import LinkHash
from services import listed
from services.errors import ProofRequired, TokenRefused
from services.keeping.current import Keys

OPEN, TOKEN, BOTH = "open", "token", "both"


@dataclass(frozen=True, slots=True)
class SubjectRows:
    """A subject under the pepper in force, and as accounts made under those before have it."""

    row: bytes
    before: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Enrolment:
    """The rules of one deployment."""

    mode: str
    bits: int
    audience: str
    keys: Keys

    def admit_proof(self, genesis: LinkHash, hour: int, counter: int, *, now_ms: int) -> None:
        """ProofRequired, TokenRefused. The hour before and the one after are taken as well:
        clocks differ, and a proof takes its time."""
        if self.mode == TOKEN:
            raise TokenRefused
        current = now_ms // enrol.HOUR_MS
        if abs(hour - current) > 1:
            raise ProofRequired(self.bits, current)
        try:
            enrol.check_work(genesis, hour, counter, self.bits)
        except CryptoError:
            raise ProofRequired(self.bits, current) from None

    def admit_token(self, genesis: LinkHash, token: bytes, *, now_ms: int) -> SubjectRows:
        """The row to store of the token's subject. TokenRefused for every cause."""
        if self.mode == OPEN:
            self.admit_nothing(now_ms=now_ms)
        for issuer in listed.valid(self.keys.trusted.issuers, now_ms):
            try:
                opened = enrol.open_token(
                    token, issuer, audience=self.audience, genesis=genesis, now_ms=now_ms
                )
            except CryptoError:
                continue
            secrets = self.keys.secrets
            return SubjectRows(
                enrol.subject_row(secrets.pepper, opened.subject),
                tuple(enrol.subject_row(row, opened.subject) for row in secrets.peppers_before),
            )
        raise TokenRefused

    def admit_nothing(self, *, now_ms: int) -> None:
        """Neither a proof nor a token came: says what is wanted."""
        if self.mode == TOKEN:
            raise TokenRefused
        raise ProofRequired(self.bits, now_ms // enrol.HOUR_MS)
