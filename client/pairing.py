"""Pairing as two state machines (docs/protocol.md, 1.8): an Inviter shows a code, a Joiner
reads it. They know messages and time, nothing of mailboxes or cameras.

    Inviter   SHOWING --m1--> GREETED --m3--> ASKING --code--> CONFIRMED
    Joiner    READY --m1--> ASKED --m2--> ANSWERED (shows the code) --> join
Any wrong message, a wrong code or the end of five minutes ends it for good.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import NoReturn

from client.device import Device
from client.errors import CodeExpired, CodeWrong, NotAllowed, PairingError
from client.governed.holding import pinned
from client.steps import Rand
from crypto import link
from crypto.cert import DeviceCert, Role
from crypto.errors import CryptoError
from crypto.ids import DeviceId, LinkHash
from crypto.keys import Identity
from crypto.link import Add, SignedLink
from crypto.pairing import LIFETIME_MS, Invite, PairingKeys
from crypto.primitives import equal


class Phase(Enum):
    """Where a pairing stands; the value is for people."""

    SHOWING = "showing the code"
    GREETED = "the new device has read the code"
    ASKING = "waiting for the six digits"
    CONFIRMED = "confirmed; the device is being added"
    READY = "code read"
    ASKED = "waiting for the other device"
    ANSWERED = "showing the six digits"
    FAILED = "failed"


class _Machine:
    """What both sides share: the phase, the keys, and an end that is final."""

    def __init__(self, invite: Invite, phase: Phase) -> None:
        self.invite = invite
        self.phase = phase
        self._keys = PairingKeys(invite)

    def _expect(self, phase: Phase, now_ms: int) -> None:
        if self.phase is not phase:
            self._fail(PairingError("This is not the next step of the pairing. Start again."))
        if now_ms >= self.invite.expiry_ms:
            self._fail(CodeExpired())

    def _fail(self, error: PairingError) -> NoReturn:
        self.phase = Phase.FAILED
        raise error from None


class Inviter(_Machine):
    """The existing device. The code is typed here, and there is one attempt."""

    def __init__(
        self, device: Device, *, policy_keys: Sequence[bytes] = (), now_ms: int, rand: Rand
    ) -> None:
        """`policy_keys`: whose policies this device is under, and the new one will be."""
        chain = device.chain
        super().__init__(
            Invite(
                account_id=device.account_id,
                inviter=device.identity.device_id,
                rendezvous=rand(16),
                secret=rand(32),
                expiry_ms=now_ms + LIFETIME_MS,
                chain_seq=chain.seq,
                chain_head=chain.head,
            ),
            Phase.SHOWING,
        )
        self._device = device
        self._policy_keys = tuple(policy_keys)
        self._draft = SignedLink(b"", b"")
        self._code = ""

    def on_m1(self, message: bytes, *, now_ms: int, rand: Rand) -> bytes:
        """The new device's first message; the answer to post. PairingError."""
        self._expect(Phase.SHOWING, now_ms)
        try:
            cert, self._committed = self._keys.open_m1(message)
        except CryptoError:
            self._fail(PairingError())
        if cert.role is not Role.FULL:
            self._fail(PairingError("A recovery key is not added by pairing."))
        try:
            self._draft = self._device.build_add(cert)
        except NotAllowed as error:
            self._fail(PairingError(str(error)))
        self._m1, self._e_nonce, self._added = message, rand(32), cert.device_id
        self.phase = Phase.GREETED
        return self._keys.seal_m2(
            self._e_nonce,
            self._draft.raw,
            policy_keys=self._policy_keys,
            aead_nonce=rand(24),
        )

    def on_m3(self, message: bytes, *, now_ms: int) -> None:
        """The new device's second message. From now on the code can be typed. PairingError."""
        self._expect(Phase.GREETED, now_ms)
        try:
            n_nonce, pop = self._keys.open_m3(message, self._committed)
        except CryptoError:
            self._fail(PairingError())
        self._code = self._keys.code(self._m1, self._e_nonce, n_nonce, self._policy_keys)
        self._draft = SignedLink(self._draft.raw, self._draft.sig, pop)
        self.phase = Phase.ASKING

    def enter(self, code: str, *, now_ms: int) -> DeviceId:
        """The six digits that the new device shows. CodeWrong ends the pairing; otherwise
        the device's next step appends the link that adds the device of the id returned."""
        self._expect(Phase.ASKING, now_ms)
        typed = "".join(code.split()).encode("utf-8")
        if not equal(typed, self._code.encode()):
            self._fail(CodeWrong())
        try:
            self._device.submit_add(self._draft)
        except NotAllowed as error:
            self._fail(PairingError(str(error)))
        self.phase = Phase.CONFIRMED
        return self._added

    def refuse(self, *, rand: Rand) -> tuple[bytes, bytes]:
        """Ends the pairing: (mailbox, message) for the new device, which waits."""
        self.phase = Phase.FAILED
        return self._keys.refusal_rendezvous, self._keys.seal_refusal(aead_nonce=rand(24))

    def __repr__(self) -> str:
        return f"Inviter({self.phase.value})"


class Joiner(_Machine):
    """The new device. It signs nothing but the ADD link that adds itself."""

    def __init__(self, invite: Invite, *, now_ms: int, rand: Rand) -> None:
        super().__init__(invite, Phase.READY)
        self.identity = Identity(rand(32), rand(32))
        self.policy_keys: tuple[bytes, ...] = ()
        """Whose policies the other device is under, and this one will be; once it has answered."""
        self._n_nonce = rand(32)
        self._m1 = b""
        self._code = ""
        self._pin: tuple[int, LinkHash] = (-1, LinkHash(bytes(32)))
        self._expect(Phase.READY, now_ms)

    def m1(self, *, now_ms: int, rand: Rand) -> bytes:
        """The first message to post."""
        self._expect(Phase.READY, now_ms)
        cert = DeviceCert.of(self.identity)
        self._m1 = self._keys.seal_m1(cert, self._n_nonce, aead_nonce=rand(24))
        self.phase = Phase.ASKED
        return self._m1

    def on_m2(self, message: bytes, *, now_ms: int, rand: Rand) -> bytes:
        """The existing device's answer; the last message to post. PairingError."""
        self._expect(Phase.ASKED, now_ms)
        try:
            e_nonce, raw, self.policy_keys = self._keys.open_m2(message)
            self._check_link(raw)
        except CryptoError:
            self._fail(PairingError())
        self._code = self._keys.code(self._m1, e_nonce, self._n_nonce, self.policy_keys)
        pop = link.prove_possession(self.identity, raw)
        self.phase = Phase.ANSWERED
        return self._keys.seal_m3(self._n_nonce, pop, aead_nonce=rand(24))

    def _check_link(self, raw: bytes) -> None:
        """It adds us, to the account of the code, by the device that showed it."""
        parsed, invite = link.parse(raw), self.invite
        fits = (
            isinstance(parsed.body, Add)
            and parsed.body.cert == DeviceCert.of(self.identity)
            and parsed.account_id == invite.account_id
            and parsed.signer == invite.inviter
            and parsed.seq > invite.chain_seq
            and (parsed.seq != invite.chain_seq + 1 or parsed.prev == invite.chain_head)
        )
        if not fits:
            self._fail(PairingError())
        # The link that adds us names the head before it: trust in the chain reaches to here.
        self._pin = (parsed.seq, parsed.link_hash)

    @property
    def code(self) -> str:
        """Six digits to show; only once the other side has answered."""
        if self.phase is not Phase.ANSWERED:
            raise PairingError
        return self._code

    @property
    def refusal_rendezvous(self) -> bytes:
        """The mailbox where the other side would say that it ended the pairing."""
        return self._keys.refusal_rendezvous

    def is_refusal(self, message: bytes) -> bool:
        """Whether the other side said so, and nobody else."""
        try:
            self._keys.open_refusal(message)
        except CryptoError:
            return False
        return True

    def join(self, *, now_ms: int) -> Device:
        """The device, once the other side has confirmed. It reads the chain signed as
        itself, and takes no other chain than the one that the code and our own ADD link pin.
        It is under the other device's policy from the moment that it is stored."""
        if self.phase is not Phase.ANSWERED:
            raise PairingError
        seq, head = self._pin
        return Device.join(
            self.identity,
            account_id=self.invite.account_id,
            pin_seq=seq,
            pin_head=head,
            also=((self.invite.chain_seq, self.invite.chain_head),),
            policy=pinned(self.policy_keys) if self.policy_keys else None,
            now_ms=now_ms,
        )

    def __repr__(self) -> str:
        return f"Joiner({self.phase.value})"
