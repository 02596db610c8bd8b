"""Which features an account has, by the policy that its device holds. Pure.

The percentage is a PRF of the account's own secret: all its devices agree, and nobody else can
tell who has a feature. Asked anew each time: a switch that is put back by a newer policy is off
here as soon as the device holds that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from crypto.policy import Bundle

FEATURE = "feature"


class Features:
    """The feature flags of one account."""

    def __init__(
        self,
        policy: Callable[[], Bundle | None],
        secret: Callable[[], bytes | None],
        cohort: Callable[[str], str | None],
    ) -> None:
        """`secret`: K_agg, None until it has arrived; `cohort`: the label by the rule of this
        name, None while it may not be worked out."""
        self._policy = policy
        self._secret = secret
        self._cohort = cohort

    def is_on(self, feature: str) -> bool:
        """Whether the account has it. What no flag is about is off, and so is everything before
        there is a policy and the account's secret."""
        bundle, secret = self._policy(), self._secret()
        if bundle is None or secret is None:
            return False
        about = (FEATURE, feature)
        flags = [one for one in bundle.flags if one.about == about and one.kind == FEATURE]
        rules = {one.cohort[0] for one in flags if one.cohort is not None and one.on}
        cohorts = self._cohorts(rules)
        return any(bundle.allows_flag(one.name, secret=secret, cohorts=cohorts) for one in flags)

    @property
    def known(self) -> tuple[str, ...]:
        """All features that the policy has a flag for, sorted."""
        bundle = self._policy()
        flags = () if bundle is None else bundle.flags
        return tuple(sorted({one.about[1] for one in flags if one.about[0] == FEATURE}))

    def _cohorts(self, rules: set[str]) -> Mapping[str, str]:
        found = {name: self._cohort(name) for name in rules}
        return {name: label for name, label in found.items() if label is not None}
