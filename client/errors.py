"""What can go wrong on a device: one root per guilty party. The docstring is the sentence
that the person reads."""

from __future__ import annotations


class ClientError(Exception):
    """Root of all errors of the device library."""

    def __str__(self) -> str:
        return self.args[0] if self.args else " ".join((type(self).__doc__ or "").split())


class UserError(ClientError):
    """What was asked for can't be done this way."""


class BadName(UserError):
    """Names are 1 to 128 characters of a-z 0-9 . _ / - and names in a dot are the library's."""


class BadValue(UserError):
    """This value can't be stored: only true/false, numbers, text, bytes, lists and maps can."""


class ValueTooLong(UserError):
    """This value is too long: a record holds at most 30,000 bytes."""


class NothingThere(UserError):
    """There is nothing of this name."""


class NoSuchDevice(UserError):
    """There is no active device with this id."""


class NotAllowed(UserError):
    """This device may not do that."""


class WordsChanged(UserError):
    """What would be agreed to is not what was shown."""


class Revoked(UserError):
    """This device was removed from the account; what it holds stays readable here."""


class PairingError(UserError):
    """The pairing did not work; start again with a new code."""


class CodeExpired(PairingError):
    """The pairing code is older than five minutes; show a new one."""


class CodeWrong(PairingError):
    """The six digits don't match. If you did not mistype them, somebody else may have
    photographed the code: nothing was shared; start again with a new one."""


class PairingRefused(PairingError):
    """The other device ended the pairing: other digits were typed there, or it was stopped.
    Start again with a new code."""


class NotJoined(PairingError):
    """this device has not joined yet: run `rookery device join` again, with a new code"""


class AccountGone(UserError):
    """The service no longer takes this device: it was removed, the account was deleted, or the
    service lost it (`rookery device restore-account` brings it back). What is stored here stays;
    edits are kept too, but not sent. `rookery device export` shows all."""


class StateUnsaved(UserError):
    """The state could not be written (is the disk full?): nothing was sent; run it again."""


class PeerError(ClientError):
    """Somebody we talk to sent something that can't be right. Holds the evidence.

    `rule` is a stable slug; `evidence` the bytes that prove it (signed, never secret).
    """

    def __init__(self, rule: str, sentence: str, *evidence: bytes) -> None:
        super().__init__(sentence)
        self.rule = rule
        self.evidence = evidence


class ServiceError(PeerError):
    """The service sent something that an honest one would not."""


class RowsError(ClientError):
    """The rows stored on this device don't fit together: they were changed from outside."""
