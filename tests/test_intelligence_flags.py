"""Features on the device: the policy's word, for a stable share of accounts, and taken back by
the next policy at once."""

from __future__ import annotations

import random
from collections.abc import Mapping
from functools import partial

from client.governed.holding import Holding
from client.intelligence.flags import Features
from crypto.policy import Bundle
from crypto.policy.flags import Flag
from tests.governed_worlds import KEY, shown
from tests.intelligence_worlds import bundle, kill

RNG = random.Random("features")
SECRETS = [RNG.randbytes(32) for _ in range(3_000)]


def feature(
    percent: int = 100,
    *,
    on: bool = True,
    name: str = "home-first",
    cohort: tuple[str, str] | None = None,
) -> Flag:
    """A flag for the feature `home`."""
    return Flag(name, "feature", ("feature", "home"), on, percent, cohort)


def features(
    held: Bundle | None, secret: bytes | None = SECRETS[0], labels: Mapping[str, str] | None = None
) -> Features:
    """Of an account with this secret and these cohorts."""
    return Features(lambda: held, lambda: secret, (labels or {}).get)


def share(*flags: Flag) -> list[bool]:
    """Who has it."""
    held = bundle(flags=flags)
    return [features(held, secret).is_on("home") for secret in SECRETS]


def test_a_share_of_accounts_has_a_feature_and_keeps_it_as_it_grows() -> None:
    """About as many as the percentage says; nobody loses it when it is given to more."""
    tenth, third = share(feature(10)), share(feature(33))
    assert abs(sum(tenth) / len(SECRETS) - 0.10) < 0.02
    assert abs(sum(third) / len(SECRETS) - 0.33) < 0.03
    assert all(more for less, more in zip(tenth, third, strict=True) if less)
    assert sum(share(feature(0))) == 0
    assert all(share(feature(100)))
    assert not any(share(feature(100, on=False)))


def test_without_policy_or_secret_nothing_is_on() -> None:
    """Also what no flag is about, and what a flag is about that is no feature's."""
    held = bundle(flags=(feature(),))
    assert features(held).is_on("home")
    assert not features(None).is_on("home")
    assert not features(held, None).is_on("home")
    assert not features(held).is_on("home-first")
    assert features(held).known == ("home",)
    assert features(None).known == ()


def test_a_feature_of_a_cohort_is_for_that_cohort() -> None:
    """Another label, or none (the purpose is off), does not have it; a second flag can give it to
    others as well."""
    coast = feature(cohort=("style", "coast"))
    held = bundle(flags=(coast,))
    assert features(held, labels={"style": "coast"}).is_on("home")
    assert not features(held, labels={"style": "cosy"}).is_on("home")
    assert not features(held).is_on("home")
    both = bundle(flags=(coast, feature(name="cosy-too", cohort=("style", "cosy"))))
    assert features(both, labels={"style": "cosy"}).is_on("home")


def test_a_cohort_is_not_worked_out_for_what_is_off_anyway() -> None:
    """No signal is read for a flag that is off or has no cohort."""

    def never(name: str) -> str | None:
        raise AssertionError(name)

    for flag in (feature(), feature(on=False, cohort=("style", "coast"))):
        asked = Features(partial(bundle, flags=(flag,)), lambda: SECRETS[0], never)
        assert asked.is_on("home") is flag.on


def test_a_kill_is_stronger_than_any_flag() -> None:
    """Of the feature itself."""
    assert not any(share(feature(), kill("feature", "home")))


def test_a_rollback_is_obeyed_as_soon_as_the_device_holds_it() -> None:
    """On by the first policy, off by the next, on again by the third; an older one that is shown
    again changes nothing."""
    holding = Holding({})
    holding.pin(KEY.public)
    asked = Features(lambda: holding.bundle, lambda: SECRETS[0], lambda _: None)
    first = bundle(flags=(feature(),))
    second = bundle(sequence=2, previous=first.hash, flags=(feature(on=False),))
    third = bundle(sequence=3, previous=second.hash, flags=(feature(),))
    told: list[str] = []

    def alarm(rule: str, sentence: str, *evidence: bytes, about: bytes) -> None:
        del sentence, evidence, about
        told.append(rule)

    seen = [asked.is_on("home")]
    for held in (first, second, first, third):
        holding.take(shown(held), alarm)
        seen.append(asked.is_on("home"))
    assert seen == [False, True, False, False, True]
    assert told == ["policy-rollback"]
