"""What the service, or the way to it, said no with: typed, and with the next step in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

# Reasons of google.rpc.ErrorInfo, domain "rookery": proto/rookery/v1 documents them.
MALFORMED: Final = "MALFORMED"
UNAUTHENTICATED: Final = "UNAUTHENTICATED"
CLOCK_SKEW: Final = "CLOCK_SKEW"
RATE_LIMITED: Final = "RATE_LIMITED"
OVERLOADED: Final = "OVERLOADED"
DRAINING: Final = "DRAINING"
QUOTA: Final = "QUOTA"
PROOF_REQUIRED: Final = "PROOF_REQUIRED"
TOKEN_REFUSED: Final = "TOKEN_REFUSED"  # noqa: S105
LINK_INVALID: Final = "LINK_INVALID"
GRANTS_INVALID: Final = "GRANTS_INVALID"
CHAIN_CONFLICT: Final = "CHAIN_CONFLICT"
CHAIN_GAP: Final = "CHAIN_GAP"
MAILBOX_ABSENT: Final = "MAILBOX_ABSENT"
MAILBOX_TAKEN: Final = "MAILBOX_TAKEN"
MESSAGE_ABSENT: Final = "MESSAGE_ABSENT"
CURSOR_INVALID: Final = "CURSOR_INVALID"
GENERATION_CHANGED: Final = "GENERATION_CHANGED"
OP_INVALID: Final = "OP_INVALID"
DEVICE_FORKED: Final = "DEVICE_FORKED"
EPOCH_STALE: Final = "EPOCH_STALE"
EPOCH_UNKNOWN: Final = "EPOCH_UNKNOWN"
DEVICE_CUT: Final = "DEVICE_CUT"
LAMPORT_AHEAD: Final = "LAMPORT_AHEAD"
STORE_UNAVAILABLE: Final = "STORE_UNAVAILABLE"
ROLE_MISSING: Final = "ROLE_MISSING"
ACCESS_DENIED: Final = "ACCESS_DENIED"
WAKE_OFF: Final = "WAKE_OFF"
TASK_INVALID: Final = "TASK_INVALID"
TASK_CONFLICT: Final = "TASK_CONFLICT"
TASK_UNKNOWN: Final = "TASK_UNKNOWN"
TASK_EXPIRED: Final = "TASK_EXPIRED"
MANIFEST_INVALID: Final = "MANIFEST_INVALID"
ROUND_CONFLICT: Final = "ROUND_CONFLICT"
ROUND_UNKNOWN: Final = "ROUND_UNKNOWN"
ROUND_NOT_OPEN: Final = "ROUND_NOT_OPEN"
ROUND_CLOSED: Final = "ROUND_CLOSED"
CONTRIBUTION_INVALID: Final = "CONTRIBUTION_INVALID"
CONTRIBUTED_ALREADY: Final = "CONTRIBUTED_ALREADY"
RESULT_ABSENT: Final = "RESULT_ABSENT"
BUDGET_EXHAUSTED: Final = "BUDGET_EXHAUSTED"
POLICY_INVALID: Final = "POLICY_INVALID"
POLICY_CONFLICT: Final = "POLICY_CONFLICT"
TASK_UNDECLARED: Final = "TASK_UNDECLARED"
CONSENT_INVALID: Final = "CONSENT_INVALID"
CONSENT_CONFLICT: Final = "CONSENT_CONFLICT"
CONSENT_MISSING: Final = "CONSENT_MISSING"
# Ours, for what carries no ErrorInfo.
UNREACHABLE: Final = "UNREACHABLE"
UNSUPPORTED: Final = "UNSUPPORTED"

_ADVICE: Final[Mapping[str, str]] = {
    MALFORMED: "the service does not understand this client: update one of the two",
    UNAUTHENTICATED: (
        "the service no longer takes this device: it was removed, or the account was deleted;"
        " what is stored here stays"
    ),
    CLOCK_SKEW: "this machine's clock is too far off: set it and try again",
    RATE_LIMITED: "too many calls: wait a little and try again",
    OVERLOADED: "the service is busy: try again later",
    DRAINING: "the service is restarting: try again in a moment",
    QUOTA: "a limit of the service is reached",
    PROOF_REQUIRED: "the service wants a proof of work of this hour: try again",
    TOKEN_REFUSED: "the enrolment token was refused: get a new one from the app's backend",
    ACCESS_DENIED: (
        "the service's policy does not allow this call to who made it, or not for this purpose:"
        " who publishes the policy can change that (access.yaml)"
    ),
    STORE_UNAVAILABLE: "the service can't store anything just now: try again later",
    MAILBOX_ABSENT: "the pairing is over: start again with `rookery device pair`",
    MAILBOX_TAKEN: "somebody else answered this pairing code: start again with a new one",
    MESSAGE_ABSENT: "the other device did not answer in time: start the pairing again",
    CHAIN_CONFLICT: "another device changed the account at the same moment: try again",
    WAKE_OFF: "this service wakes nobody: it has no push gateway (its setting wake_gateway)",
    TASK_CONFLICT: (
        "another task stands under this id: a task never changes, so a changed one needs another id"
    ),
    TASK_UNKNOWN: "the service has no such task: publish it first",
    TASK_EXPIRED: "the window ends after the task expires: publish a new task",
    ROUND_CONFLICT: "another round of this task is in the same window: open one after it",
    BUDGET_EXHAUSTED: "the privacy budget has no room for another round",
    ROUND_UNKNOWN: "the service knows no such round: it was never opened there, or is long over",
    ROUND_NOT_OPEN: "the round is not open yet by the service's clock: try again later",
    ROUND_CLOSED: "the round has closed: wait for the next one",
    CONTRIBUTION_INVALID: "the service refuses the form of a contribution: update one of the two",
    CONTRIBUTED_ALREADY: "this account has contributed to the round: nothing more to do",
    RESULT_ABSENT: "the round has no result yet: try again later",
    POLICY_CONFLICT: (
        "another policy bundle is the newest: build the next one on it (`rookery policy build`)"
    ),
    TASK_UNDECLARED: "the policy in force does not declare the task, or stops it",
    CONSENT_CONFLICT: "another device said something at the same moment: try again",
    CONSENT_MISSING: (
        "the service holds no consent for the purpose of this task: `rookery device consent` shows"
        " what was said to it (under no policy yet? `rookery device trust --policy KEY` first)"
    ),
    UNREACHABLE: "the service can't be reached: check the network and --server, then try again",
    UNSUPPORTED: "there is no rookery service at this address: check --server",
}
_REFUSED: Final = "the service refused the call: if that goes on, tell who runs it"
_LIMIT_ADVICE: Final[Mapping[str, str]] = {
    "active_devices": (
        "the account has as many devices as the service takes: remove one with"
        " `rookery device revoke`"
    ),
    "records_per_account": (
        "the account has as many records as the service takes: remove some with"
        " `rookery device unset`"
    ),
    "accounts_per_subject": "the enrolment token is for somebody who has all accounts allowed",
    "contributions": "the round has as many contributions as its task allows: wait for the next",
    "pairing_mailboxes": "too many pairings are under way: try again in a few minutes",
    "consents_per_account": (
        "the account has said yes and no as often as the service takes (its setting consents_max):"
        " what is on can still be withdrawn, and nothing be granted"
    ),
    "tasks": "the service holds as many tasks as it takes (its setting tasks_max)",
    "rounds": "the service holds as many rounds as it takes (its setting rounds_max)",
}


class RemoteError(Exception):
    """A call failed. `reason` is stable, `metadata` has no secrets."""

    def __init__(
        self,
        reason: str,
        *,
        status: str,
        metadata: Mapping[str, str] | None = None,
        retry_ms: int | None = None,
    ) -> None:
        self.reason = reason
        self.status = status
        self.metadata = dict(metadata or {})
        self.retry_ms = retry_ms
        super().__init__(self._sentence())

    def _sentence(self) -> str:
        """For people; who wants the reason finds it beside, in `--json` too."""
        limit = self.metadata.get("limit", "")
        if self.reason != QUOTA or not limit.isidentifier():
            return _ADVICE.get(self.reason, _REFUSED)
        return _LIMIT_ADVICE.get(limit, f"{_ADVICE[QUOTA]}: {limit.replace('_', ' ')}")

    @property
    def transient(self) -> bool:
        """Whether the same call may succeed a little later."""
        # What is not there yet is asked for again by whoever knows until when.
        hinted = self.retry_ms is not None and self.reason not in (MESSAGE_ABSENT, RESULT_ABSENT)
        return hinted or self.reason in _TRANSIENT

    def number(self, key: str) -> int | None:
        """A whole number of the metadata; None if it is missing or isn't one."""
        text = self.metadata.get(key, "")
        return int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else None


_TRANSIENT = frozenset({RATE_LIMITED, OVERLOADED, DRAINING, UNREACHABLE})


class ProtocolBreach(Exception):
    """The service answered what no honest service answers. Nothing of it was taken."""
