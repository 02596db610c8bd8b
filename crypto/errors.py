"""The one error family of `crypto/`."""

from __future__ import annotations


class CryptoError(Exception):
    """Something that came from outside is not what it claims to be, and was refused.

    `rule` is a short, stable slug that names the rule that was broken; `message` is the
    sentence for people, without it. Neither ever holds a secret, a name or a value.
    """

    def __init__(self, rule: str, message: str) -> None:
        super().__init__(f"{message} [{rule}]")
        self.rule = rule
        self.message = message


class FormatError(CryptoError):
    """The bytes don't have the form that docs/protocol.md, 1, gives."""


class SignatureError(CryptoError):
    """A signature, tag or proof doesn't verify under the key that it must verify under."""


class ChainError(CryptoError):
    """A link breaks a rule of the device chain (docs/protocol.md, 1.2)."""


class OpenError(CryptoError):
    """Can't be opened. One answer for every cause, so that nobody learns which it was."""

    def __init__(self) -> None:
        super().__init__("open", "can't be opened with the keys at hand")


class ShareError(CryptoError):
    """Shares of one vector do not lie on one polynomial.

    `parties` are those whose shares are off, where there are enough others to tell.
    """

    def __init__(self, parties: tuple[int, ...] = ()) -> None:
        blame = f"; off is party {', '.join(map(str, parties))}" if parties else ""
        super().__init__("inconsistent", f"the shares do not belong together{blame}")
        self.parties = parties
