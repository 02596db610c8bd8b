"""The access matrix by itself: what a bundle's roles and grants come to."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given, strategies as st

from crypto.policy.access import Access, Grant, Role
from services.access.matrix import EVERY, GET_POLICY, NONE, PUBLISH_POLICY, Matrix, Standing

PUBLISH, COLLECT, RESULT, PULL, AUDIT, KEYS = METHODS = (
    "/rookery.v1.Rounds/PublishTask", "/rookery.v1.Rounds/CollectRound",
    "/rookery.v1.Rounds/GetResult", "/rookery.v1.Sync/Pull", "/rookery.v1.Operations/ListAudit",
    "/rookery.v1.Accounts/GetServerKeys",
)  # fmt: skip
ONE, OTHER = "11" * 32, "22" * 32
KEY, ELSE = bytes.fromhex(ONE), bytes.fromhex(OTHER)
TOOLS, EDGE = "spiffe://rookery.test/ns/tools/sa/console", "spiffe://rookery.test/ns/edge/sa/edge"
PROVEN = frozenset


def matrix(*grants: Grant, roles: tuple[Role, ...] = ()) -> Matrix:
    """Compiled for the methods of these tests."""
    return Matrix.compile(Access(roles, grants), [*METHODS, PUBLISH_POLICY])


def grant(role: str, method: str, *purposes: str) -> Grant:
    """For these purposes, or for any."""
    return Grant(role, method, purposes or ("*",))


@given(
    st.sets(
        st.tuples(
            st.sampled_from(("device", "publisher", "analyst", "party", "anyone", "policy")),
            st.sampled_from((*METHODS, "/rookery.v1.Rounds/*", "/rookery.v1.Nowhere/*")),
        ),
        min_size=1,
    )
)
def test_what_is_not_granted_is_denied(cells: set[tuple[str, str]]) -> None:
    """The compiled lookup says what the bundle's own words say, for every cell; beside it there
    is the publishing of policies alone."""
    access = Access((), tuple(grant(*cell) for cell in sorted(cells)))
    made = Matrix.compile(access, METHODS)
    roles = ("device", "publisher", "analyst", "party", "policy", "service")
    for role, method in itertools.product(roles, METHODS):
        allowed = access.allows(role, method) or access.allows("anyone", method)
        assert made.purposes(Standing(PROVEN({role})), method) == (EVERY if allowed else NONE)
    assert made.purposes(Standing(PROVEN({"policy"})), PUBLISH_POLICY) == EVERY
    assert made.purposes(Standing(PROVEN({"publisher"})), PUBLISH_POLICY) == NONE


def test_the_policy_in_force_may_be_read_by_anybody() -> None:
    """Whatever a bundle says of it: else what it stops would go on wherever it is not known."""
    made = Matrix.compile(Access((), (grant("operator", GET_POLICY),)), [*METHODS, GET_POLICY])
    for roles in (set[str](), {"device"}, {"party"}):
        assert made.purposes(Standing(PROVEN(roles)), GET_POLICY) == EVERY


def test_purposes_of_all_roles_add_up() -> None:
    """A key that is publisher and analyst may do what either may."""
    made = matrix(
        grant("publisher", RESULT, "product"), grant("analyst", RESULT, "research"),
        grant("analyst", PUBLISH),
    )  # fmt: skip
    both = Standing(PROVEN({"publisher", "analyst"}), KEY)
    assert made.purposes(both, RESULT) == {"product", "research"}
    assert made.purposes(both, PUBLISH) == EVERY
    assert made.purposes(Standing(PROVEN({"publisher"}), KEY), RESULT) == {"product"}


def test_a_bundle_narrows_configured_roles_and_gives_none() -> None:
    """A publisher is who is configured; a bundle that lists keys for it keeps the others out."""
    made = matrix(
        grant("publisher", PUBLISH), roles=(Role("publisher", (), (ONE,)),)
    )  # fmt: skip
    assert made.purposes(Standing(PROVEN({"publisher"}), KEY), PUBLISH) == EVERY
    assert made.purposes(Standing(PROVEN({"publisher"}), ELSE), PUBLISH) == NONE
    assert made.purposes(Standing(PROVEN({"analyst"}), KEY), PUBLISH) == NONE


@pytest.mark.parametrize("role", ["operator", "auditor"])
def test_a_bundle_gives_roles_by_key_and_by_workload(role: str) -> None:
    """By key alone, by workload alone, or by both where both are named."""
    cases = {
        Role(role, (), (ONE,)): {(KEY, ""), (KEY, TOOLS), (KEY, EDGE)},
        Role(role, (TOOLS,), ()): {(KEY, TOOLS), (ELSE, TOOLS), (b"", TOOLS)},
        Role(role, ("spiffe://rookery.test/ns/tools/*",), (ONE,)): {(KEY, TOOLS)},
    }
    for named, allowed in cases.items():
        made = matrix(grant(role, AUDIT), roles=(named,))
        for key, workload in itertools.product((KEY, ELSE, b""), ("", TOOLS, EDGE)):
            found = made.purposes(Standing(PROVEN(), key, workload), AUDIT)
            assert found == (EVERY if (key, workload) in allowed else NONE), (named, key, workload)


def test_a_role_with_workloads_wants_them_beside_what_is_proven() -> None:
    """Devices by the edge only, a publisher by its own workload only; a policy publisher is
    never kept out."""
    made = matrix(
        grant("device", PULL), grant("publisher", PUBLISH), grant("anyone", KEYS),
        roles=(Role("device", (EDGE,), ()), Role("publisher", (TOOLS,), ()),
               Role("policy", (TOOLS,), (ONE,))),
    )  # fmt: skip
    device, publisher = PROVEN({"device"}), PROVEN({"publisher"})
    assert made.purposes(Standing(device, workload=EDGE), PULL) == EVERY
    assert made.purposes(Standing(device, workload=TOOLS), PULL) == NONE
    assert made.purposes(Standing(device), PULL) == NONE
    assert made.purposes(Standing(publisher, KEY, TOOLS), PUBLISH) == EVERY
    assert made.purposes(Standing(publisher, KEY, EDGE), PUBLISH) == NONE
    assert made.purposes(Standing(PROVEN({"anyone"})), KEYS) == EVERY
    assert made.purposes(Standing(PROVEN({"policy"}), ELSE), PUBLISH_POLICY) == EVERY


def test_a_workload_alone_gives_no_role_that_must_be_proven() -> None:
    """Named for `device`, `party` or `publisher`, a workload is still none of them."""
    for role in ("device", "party", "publisher", "analyst", "service"):
        made = matrix(grant(role, PULL), roles=(Role(role, (TOOLS,), ()),))
        assert made.purposes(Standing(PROVEN({"anyone"}), workload=TOOLS), PULL) == NONE


def test_before_the_first_bundle_only_it_can_be_published() -> None:
    """And who is to publish it can ask where things stand."""
    made = Matrix.before_the_first()
    assert made.purposes(Standing(PROVEN({"policy"}), KEY), PUBLISH_POLICY) == EVERY
    assert made.purposes(Standing(PROVEN({"anyone"})), KEYS) == EVERY
    for method in (PUBLISH, COLLECT, RESULT, PULL, AUDIT):
        for role in ("device", "publisher", "analyst", "policy", "party"):
            assert made.purposes(Standing(PROVEN({role}), KEY), method) == NONE
