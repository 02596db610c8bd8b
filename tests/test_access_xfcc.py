"""The header that names a workload: what Envoy writes is read, and nothing else names anybody."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import example, given, strategies as st

from services.access import spiffe, xfcc
from services.access.hop import Claim, TrustedHop
from services.access.xfcc import XfccError, parse, workload_of
from services.settings import ConfigError

TOOLS = "spiffe://rookery.test/ns/rookery/sa/tools"
EVIL = "spiffe://rookery.test/ns/rookery/sa/root"
BY = "By=spiffe://rookery.test/ns/rookery/sa/service"
HASH = "Hash=468ed33be74eee6556d90c0149c1309e9ba61d6425303443c0748a02dd8de688"
SUBJECT = 'Subject="/C=US/ST=CA/L=San Francisco/OU=Lyft, Inc/CN=A \\"Client\\""'

LAST = st.sampled_from(
    [
        f"{BY};{HASH};URI={TOOLS}",
        f'{HASH};{SUBJECT};URI="{TOOLS}"',
        f"{BY};{HASH};{SUBJECT};URI={TOOLS};DNS=tools.test;DNS=www.tools.test",
    ]
)
# Words of the format, so that what is drawn gets as near to it as an attacker would.
HOSTILE = st.lists(
    st.sampled_from(
        [
            '"', "\\", ",", ";", "=", "URI=", "uri=", "Subject=", 'Subject="', "By=", "Hash=", EVIL,
            f"URI={EVIL}", f'URI="{EVIL}"', " ", "x", "\\\"", "*",
        ]
    ),
    max_size=12,
).map("".join)  # fmt: skip


def test_what_envoy_documents_is_read() -> None:
    """Keys in either case, quoted values with commas, semicolons and quotes, several elements."""
    [first, last] = parse(f'{BY};{HASH};{SUBJECT};URI={EVIL},{HASH};uri="{TOOLS}";DNS="a;b=c"')
    assert dict(first)["subject"] == '/C=US/ST=CA/L=San Francisco/OU=Lyft, Inc/CN=A "Client"'
    assert last[1:] == (("uri", TOOLS), ("dns", "a;b=c"))


def test_the_last_hop_s_word_counts_behind_others() -> None:
    """Whatever well-formed elements stand before it."""
    last = f"{BY};{HASH};URI={TOOLS}"
    assert workload_of([f"{HASH};URI={EVIL},{last}"]) == TOOLS
    assert workload_of([f"URI={EVIL}", last]) == TOOLS
    assert workload_of([last, f"URI={EVIL},{HASH};{SUBJECT}"]) == ""


@given(before=HOSTILE, last=LAST)
@example(before='Subject="', last=f'{HASH};{SUBJECT};URI="{TOOLS}"')
@example(before=f'URI={EVIL};Subject="', last=f'{HASH};{SUBJECT};URI="{TOOLS}"')
@example(before=f"{HASH};URI={EVIL}", last=f"{BY};{HASH};URI={TOOLS}")
def test_who_comes_before_the_last_hop_can_silence_it_and_not_speak_for_it(
    before: str, last: str
) -> None:
    """Whatever a caller wrote, in one header with what the hop appends or in one before it: the
    workload is the hop's word, or nobody."""
    for values in ([f"{before},{last}"], [before, last]):
        with contextlib.suppress(XfccError):
            assert workload_of(values) == TOOLS


@given(st.text(max_size=60) | HOSTILE)
def test_a_parsed_header_is_nothing_but_pairs_of_known_keys(text: str) -> None:
    """Any text parses to its end into known keys, or is refused; written anew it reads the same."""
    try:
        elements = parse(text)
    except XfccError:
        return
    written = ",".join(
        ";".join(
            f'{key}="{value}"'.replace("\\", "\\\\").replace('"', '\\"')
            .replace('=\\"', '="', 1)[:-2] + '"'
            for key, value in element
        )
        for element in elements
    )  # fmt: skip
    assert parse(written) == elements


@pytest.mark.parametrize(
    "value",
    [
        "", ",", ";", "URI", "URI=", f"URI={TOOLS},", f"URI={TOOLS};", f" URI={TOOLS}",
        f"URI={TOOLS} ", f'URI="{TOOLS}', f'URI="{TOOLS}"x', f"URI={TOOLS};URI={EVIL}",
        f"X={TOOLS}", f"URI={TOOLS}\n", f"URI={TOOLS}\0", "URI=http://rookery.test/tools",
        f"URI={TOOLS}/*", f"URI={TOOLS}/..", "URI=spiffe://ROOKERY.test/x", f"URI={TOOLS}//x",
        f"URI={TOOLS}" + ";DNS=a" * 5_000,
    ],
)  # fmt: skip
def test_a_header_that_is_not_exactly_right_names_nobody(value: str) -> None:
    """Cut short, doubled, of another scheme, or too long."""
    try:
        assert workload_of([value]) == ""
    except XfccError:
        return


def test_a_binary_value_names_nobody() -> None:
    """gRPC hands over bytes where a header is no ASCII."""
    with pytest.raises(XfccError):
        workload_of([f"URI={TOOLS}".encode()])


@pytest.mark.parametrize(
    ("pattern", "workload", "is_one"),
    [
        (TOOLS, TOOLS, True),
        (TOOLS, TOOLS + "/x", False),
        ("spiffe://rookery.test/ns/rookery/*", TOOLS, True),
        ("spiffe://rookery.test/*", TOOLS, True),
        ("spiffe://rookery.test*", "spiffe://rookery.test.evil/x", False),
        ("spiffe://*", TOOLS, False),
        ("*", TOOLS, False),
        ("spiffe://rookery.test/ns/*/sa/tools", TOOLS, False),
        (TOOLS, "", False),
        ("spiffe://rookery.test/*", "spiffe://rookery.test/../x", False),
    ],
)
def test_a_pattern_names_workloads_of_its_own_trust_domain_only(
    pattern: str, workload: str, is_one: bool
) -> None:
    """A star stands at the end and inside the path, or for nothing."""
    assert spiffe.matches(pattern, workload) is is_one


@pytest.mark.parametrize(
    ("setting", "trusted", "stranger"),
    [
        ("loopback", "ipv4:127.0.0.1:4", "ipv4:10.0.0.1:4"),
        ("loopback", "ipv6:%5B::1%5D:4", "ipv6:%5Bfe80::1%5D:4"),
        ("loopback", "ipv6:[::ffff:127.0.0.1]:4", "unix:"),
        ("unix", "unix:/run/rookery.sock", "unix-abstract:rookery"),
        ("unix", "unix:", "ipv4:127.0.0.1:4"),
        ("10.1.2.3", "ipv4:10.1.2.3:9", "ipv4:10.1.2.4:9"),
        ("10.1.2.3", "ipv6:[::ffff:10.1.2.3]:9", "ipv4:127.0.0.1:9"),
    ],
)
def test_only_the_trusted_hop_is_believed(setting: str, trusted: str, stranger: str) -> None:
    """The same header from anybody else names nobody, and is counted."""
    counted: list[Claim] = []
    hop = TrustedHop.parse(setting)
    header = [f"{BY};{HASH};URI={TOOLS}"]
    assert hop.workload(trusted, header, counted.append) == TOOLS
    assert hop.workload(stranger, header, counted.append) == ""
    assert hop.workload(trusted, ['URI="'], counted.append) == ""
    assert hop.workload(stranger, [], counted.append) == ""
    assert counted == [Claim.TAKEN, Claim.STRANGER, Claim.BROKEN]


def test_without_the_setting_nobody_is_believed() -> None:
    """Off by default; and what is no address is refused when the service starts."""
    assert not TrustedHop.parse("").trusts("ipv4:127.0.0.1:4")
    with pytest.raises(ConfigError, match="trusted_hop"):
        TrustedHop.parse("localhost")
    assert xfcc.HEADER == "x-forwarded-client-cert"
