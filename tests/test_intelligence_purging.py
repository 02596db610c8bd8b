"""What experiments keep goes with the purpose, and with the experiment."""

from __future__ import annotations

from dataclasses import replace
from typing import cast

from client.consent.ledger import ConsentLedger, PurposeState, Standing
from client.consent.purging import purge
from client.device import Device
from client.intelligence import exposures
from client.intelligence.exposures import Exposure
from client.pages.privacy import known, words
from crypto.policy import Bundle
from crypto.policy.generalise import DAY_MS
from tests.client_worlds import Service, first_phone, pair, settle
from tests.intelligence_worlds import HOME_FIRST, PRODUCT, bundle
from tests.judge_worlds import NOW_MS


class Said:
    """A ledger in which one purpose stands as a test says."""

    def __init__(self, device: Device, policy: Bundle, standing: Standing) -> None:
        self.device = device
        self.policy = policy
        self._standing = standing

    def states(self) -> list[PurposeState]:
        """Of the one purpose."""
        return [PurposeState(PRODUCT, self._standing, None, None, frozenset())]


def run(device: Device, policy: Bundle, standing: Standing) -> list[str]:
    """What is removed, by name."""
    ledger = cast("ConsentLedger", Said(device, policy, standing))
    return sorted(one.name for one in purge(ledger, now_ms=NOW_MS))


def test_a_withdrawal_takes_the_records_of_experiments_along() -> None:
    """Of all the account's devices, at once; while the purpose stands they stay."""
    first = first_phone(Service())
    second = pair(first, "b")
    for phone in (first, second):
        kept = Exposure("as-before", NOW_MS, 3)
        exposures.put(phone.device, HOME_FIRST.name, kept, now_ms=NOW_MS)
    settle(first, second)
    policy = bundle()
    for standing in (Standing.GRANTED, Standing.NEVER, Standing.OUTDATED):
        assert run(first.device, policy, standing) == []
    assert run(first.device, policy, Standing.WITHDRAWN) == [
        ".rookery/experiments/home-first/0",
        ".rookery/experiments/home-first/1",
    ]
    settle(first, second)
    assert not list(exposures.every(second.device, HOME_FIRST.name))
    assert run(second.device, policy, Standing.WITHDRAWN) == []


def test_records_of_an_experiment_that_is_over_go() -> None:
    """One that the policy no longer declares has nobody to tell; another one's stay."""
    device = first_phone(Service()).device
    other = replace(HOME_FIRST, name="other")
    for name in ("home-first", "other"):
        exposures.put(device, name, Exposure("as-before", NOW_MS, 3), now_ms=NOW_MS)
    assert run(device, bundle(experiments=(other,)), Standing.GRANTED) == [
        ".rookery/experiments/home-first/0"
    ]
    assert [one.outcome for one in exposures.every(device, "other")] == [3]


def test_records_go_when_their_days_are_over() -> None:
    """On every device, whichever sees it first; until then they stay."""
    first = first_phone(Service())
    second = pair(first, "b")
    policy = bundle(experiments=(replace(HOME_FIRST, days=2),))
    for phone, shown_ms in ((first, NOW_MS - 2 * DAY_MS), (second, NOW_MS - 2 * DAY_MS + 1)):
        exposures.put(
            phone.device, HOME_FIRST.name, Exposure("as-before", shown_ms, 3), now_ms=NOW_MS
        )
    settle(first, second)
    assert run(second.device, policy, Standing.GRANTED) == [".rookery/experiments/home-first/0"]
    settle(first, second)
    assert [key for key, _ in exposures.records(first.device)] == ["home-first/1"]


def test_what_is_kept_of_experiments_is_on_the_page_of_what_is_known() -> None:
    """Each record, whose it is, until when it is kept; and it can be removed."""
    first = first_phone(Service())
    second = pair(first, "b")
    for phone in (first, second):
        exposures.put(
            phone.device, HOME_FIRST.name, Exposure("as-before", NOW_MS, 3), now_ms=NOW_MS
        )
    settle(first, second)
    group = known.groups(first.device, bundle(), {}, now_ms=NOW_MS)[-1]
    assert (group.name, group.purposes) == (known.TRIALS, (PRODUCT,))
    assert [(row.source, row.value, row.kind) for row in group.held] == [
        (source, "as-before was shown; 3 came of it", known.TRIAL)
        for source in ("this device", "device #1")
    ]
    assert group.held[0].kept_until == words.day(NOW_MS + 90 * DAY_MS)
    for row in group.held:
        exposures.remove(first.device, row.key, now_ms=NOW_MS)
    assert all(one.name != known.TRIALS for one in known.groups(
        first.device, bundle(), {}, now_ms=NOW_MS
    ))  # fmt: skip
