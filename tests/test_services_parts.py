"""Parts of the edge by themselves: table of errors, encoders, cursors, buckets, pseudonyms."""

from __future__ import annotations

import io
import json
import random
import re
from pathlib import Path

import grpc
import pytest

from crypto.errors import ChainError, OpenError
from crypto.ids import AccountId
from rookery.v1 import common_pb2, sync_pb2
from services import errors, wire
from services.cursor import CURSOR_BYTES, Cursors
from services.errors import CursorInvalid, GenerationChanged, Overloaded, RateLimited
from services.limits import Buckets, Gate, forwarded_ip, peer_ip, rate_key
from services.store import errors as store_errors, packed
from services.telemetry import Outage, Pseudonyms, Telemetry, configure
from tests.metered import calls

ROOT = Path(__file__).resolve().parent.parent
ACCOUNT, OTHER = AccountId(b"a" * 32), AccountId(b"b" * 32)

# --- the table ---


def documented() -> set[tuple[str, str]]:
    """(code, reason) pairs that the comments of proto/ name."""
    pairs: set[tuple[str, str]] = set()
    for file in (ROOT / "proto" / "rookery" / "v1").glob("*.proto"):
        for line in file.read_text().splitlines():
            found = re.match(r"\s*//   ([A-Z]+_?[A-Z]+) +([A-Z_]+)\b", line)
            if found and hasattr(grpc.StatusCode, found[1]):
                pairs.add((found[1], found[2]))
    return pairs


def test_table_and_api_name_the_same_errors() -> None:
    """Every code and reason of the API's documentation is in the table, and no other."""
    table = {(row.code.name, row.reason) for row in errors.TABLE.values()}
    assert table == documented()


def test_every_refusal_has_a_row() -> None:
    """Whatever edge, store and crypto raise on purpose is foreseen."""

    def kinds(root: type[Exception]) -> set[type[Exception]]:
        return {root}.union(*(kinds(kind) for kind in root.__subclasses__()))

    foreseen = kinds(errors.RequestError) | kinds(store_errors.StoreError)
    foreseen -= {errors.RequestError, store_errors.StoreError}
    missing = [kind for kind in foreseen if not errors.TABLE.keys() & set(kind.__mro__)]
    assert missing == []
    assert errors.failure(ChainError("seq", "x")).code is grpc.StatusCode.INVALID_ARGUMENT
    assert errors.failure(OpenError()).reason == "MALFORMED"


def test_no_row_says_internal_or_unknown() -> None:
    """Only what nobody foresaw is INTERNAL, and then the answer tells nothing of it."""
    codes = {row.code for row in errors.TABLE.values()}
    assert not codes & {grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN}
    answer = errors.failure(RuntimeError("a secret"))
    assert answer.code is grpc.StatusCode.INTERNAL
    assert b"secret" not in answer.trailing[0][1]
    assert "secret" not in answer.message


# --- encoders ---


def test_answers_are_what_the_protobuf_runtime_writes() -> None:
    """Joined bytes and serialised messages are equal, and parse to the same, for any content."""
    rng = random.Random("wire")
    sizes = (0, 1, 127, 128, 280, 520, 16_383, 16_384, 33_032)
    for _ in range(200):
        numbers = [rng.choice((0, 1, 127, 128, rng.randrange(1 << 32))) for _ in range(3)]
        info = common_pb2.ServerInfo(
            server_ms=numbers[0] << rng.randrange(20), backoff_ms=numbers[1], chain_seq=numbers[2]
        )
        encoded = wire.server_info(info.server_ms, info.backoff_ms, info.chain_seq)
        assert encoded == info.SerializeToString()
        ops = [rng.randbytes(rng.choice(sizes)) for _ in range(rng.randrange(6))]
        cut = rng.randrange(len(ops) + 1)
        runs = [packed.pack(ops[:cut]), packed.pack(ops[cut:])]
        assert [raw for run in runs for raw in packed.split(run)] == ops
        cursor, more = rng.randbytes(32), rng.random() < 0.5
        pulled = sync_pb2.PullResponse(info=info, ops=ops, cursor=cursor, more=more)
        joined = wire.pull_response(encoded, runs, cursor, more)
        assert joined == pulled.SerializeToString()
        assert sync_pb2.PullResponse.FromString(joined) == pulled
        event = rng.randrange(6)
        frame = sync_pb2.SubscribeResponse(event=event, info=info, ops=ops, cursor=cursor)  # type: ignore[arg-type]
        assert wire.subscribe_response(event, encoded, runs, cursor) == frame.SerializeToString()
        pushed = sync_pb2.PushResponse(info=info, committed=numbers[1])
        assert wire.push_response(encoded, numbers[1]) == pushed.SerializeToString()


# --- cursors ---


def test_a_cursor_is_for_one_account_store_and_generation() -> None:
    """Each bit counts; another account's, a made-up and a cut one are CursorInvalid."""
    cursors = Cursors(b"s" * 32, lambda: b"generate")
    for position in (0, 1, 1 << 40, (1 << 63) - 1):
        token = cursors.seal(ACCOUNT, position)
        assert len(token) == CURSOR_BYTES
        assert cursors.open(ACCOUNT, token) == position
    assert cursors.open(ACCOUNT, b"") == 0
    token = cursors.seal(ACCOUNT, 7)
    for bit in range(8 * len(token)):
        bad = bytearray(token)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises(CursorInvalid):
            cursors.open(ACCOUNT, bytes(bad))
    for opener, account in ((cursors, OTHER), (Cursors(b"t" * 32, lambda: b"generate"), ACCOUNT)):
        with pytest.raises(CursorInvalid):
            opener.open(account, token)
    with pytest.raises(GenerationChanged):
        Cursors(b"s" * 32, lambda: b"restored").open(ACCOUNT, token)
    assert "7373" not in repr(cursors)


# --- buckets and gates ---


def test_a_bucket_lets_a_burst_through_and_then_its_rate() -> None:
    """Five at once, then one each half second, and the refusal says how long to wait."""
    buckets = Buckets("calls", per_s=2, burst=5, keys_max=10)
    for _ in range(5):
        buckets.take("a", 100.0)
    with pytest.raises(RateLimited) as refused:
        buckets.take("a", 100.0)
    assert (refused.value.limit, refused.value.retry_ms) == ("calls", 501)
    buckets.take("b", 100.0)
    buckets.take("a", 100.5)
    with pytest.raises(RateLimited):
        buckets.take("a", 100.5)
    buckets.take("a", 1_000.0, 5)
    with pytest.raises(RateLimited):
        buckets.take("a", 1_000.0)


def test_a_batch_larger_than_the_burst_passes_when_the_bucket_is_full() -> None:
    """It is paid off afterwards, or it could never pass."""
    buckets = Buckets("ops", per_s=10, burst=20, keys_max=10)
    buckets.take("a", 0.0, 50)
    for now in (0.0, 2.9, 3.0):
        with pytest.raises(RateLimited):
            buckets.take("a", now, 1)
    buckets.take("a", 3.2, 1)


def test_a_clock_that_goes_back_gives_nothing() -> None:
    """No tokens for negative time."""
    buckets = Buckets("calls", per_s=100, burst=1, keys_max=10)
    buckets.take("a", 50.0)
    with pytest.raises(RateLimited):
        buckets.take("a", 10.0)


def test_buckets_forget_the_key_that_was_used_longest_ago() -> None:
    """However many addresses call, memory stays bounded."""
    buckets = Buckets("calls", per_s=1, burst=1, keys_max=3)
    for key in ("a", "b", "c"):
        buckets.take(key, 0.0)
    with pytest.raises(RateLimited):
        buckets.take("a", 0.0)
    buckets.take("d", 0.0)
    assert len(buckets) == 3
    with pytest.raises(RateLimited):
        buckets.check("a", 0.0)
    buckets.check("b", 0.0)
    for number in range(1_000):
        buckets.take(f"x{number}", 0.0)
    assert len(buckets) == 3


def test_a_rate_of_zero_is_no_bound() -> None:
    """And remembers nobody."""
    buckets = Buckets("calls", per_s=0, burst=1, keys_max=3)
    for _ in range(100):
        buckets.take("a", 0.0)
        buckets.check("a", 0.0)
    assert len(buckets) == 0


def test_a_gate_sheds_and_hints() -> None:
    """At its bound it refuses with a jittered time; from half full on it asks to slow down."""
    gate = Gate(4, lambda: 0.5)
    hints = []
    for _ in range(4):
        gate.__enter__()
        hints.append(gate.backoff_ms)
    assert hints == [0, 0, 500, 1000]
    with pytest.raises(Overloaded) as refused, gate:
        pass
    assert refused.value.retry_ms == 1250
    gate.__exit__(None, None, None)
    with gate:
        assert gate.inside == 4
    assert gate.inside == 3


@pytest.mark.parametrize(
    ("peer", "ip"),
    [
        ("ipv4:192.0.2.7:51234", "192.0.2.7"),
        ("ipv6:%5B2001:db8::1%5D:443", "2001:db8::1"),
        ("ipv6:[::1]:443", "::1"),
        ("unix:/run/x", "unix"),
        ("", ""),
    ],
)
def test_the_address_of_a_peer(peer: str, ip: str) -> None:
    """Read from what gRPC calls a peer."""
    assert peer_ip(peer) == ip


@pytest.mark.parametrize(
    ("header", "hops", "ip"),
    [
        ("203.0.113.9", 1, "203.0.113.9"),
        ("evil, 203.0.113.9", 1, "203.0.113.9"),
        ("6.6.6.6, 203.0.113.9, 10.0.0.1", 2, "203.0.113.9"),
        ("203.0.113.9", 2, None),
        ("not an address", 1, None),
        ("[2001:db8::1]", 1, "2001:db8::1"),
        ("", 1, None),
    ],
)
def test_the_address_that_our_proxy_saw(header: str, hops: int, ip: str | None) -> None:
    """Counted from the right: what a client writes into the header itself does not count."""
    assert forwarded_ip([header], hops) == ip


def test_who_shares_a_bucket() -> None:
    """IPv4 by address, also when mapped; IPv6 by /64."""
    assert rate_key("192.0.2.7") == rate_key("::ffff:192.0.2.7") == "192.0.2.7"
    assert rate_key("2001:db8::1") == rate_key("2001:db8::ffff:1")
    assert rate_key("2001:db8::1") != rate_key("2001:db8:0:1::1")
    assert rate_key("fe80::1%eth0") == rate_key("fe80::2%eth1")


# --- telemetry ---


def test_a_pseudonym_lasts_a_day() -> None:
    """The same all day, another the next; the key is drawn anew and never comes back."""
    rng = random.Random("day")
    names = Pseudonyms(rng.randbytes)
    day = 86_400_000
    assert names.of(ACCOUNT, 5 * day) == names.of(ACCOUNT, 6 * day - 1)
    assert names.of(ACCOUNT, 5 * day) != names.of(OTHER, 5 * day)
    today = names.of(ACCOUNT, 6 * day - 1)
    assert len(today) == 16
    assert names.of(ACCOUNT, 6 * day) != today
    assert names.of(ACCOUNT, 5 * day) != today
    assert repr(names) == "Pseudonyms(key hidden)"


def test_a_defect_is_logged_without_its_values() -> None:
    """Type and place of an exception nobody foresaw, and not what it says."""
    log = io.StringIO()
    telemetry = Telemetry(configure("info", "json", log))
    try:
        raise KeyError("a secret")
    except KeyError as error:
        telemetry.defect("/m", error)
    row = json.loads(log.getvalue())
    assert (row["event"], row["error"], row["method"]) == ("defect", "KeyError", "/m")
    assert re.fullmatch(r"tests/test_services_parts\.py:\d+", row["where"][-1])
    assert "secret" not in log.getvalue()


def test_access_lines_are_sampled_and_all_calls_counted() -> None:
    """With a share of 0.25 every fourth call has a line."""
    log = io.StringIO()
    telemetry = Telemetry(configure("info", "json", log), access_share=0.25)
    telemetry.metrics.serve(["/m"])
    for _ in range(100):
        telemetry.call("/m", "OK", elapsed_s=0.0123, account=ACCOUNT, now_ms=0)
    assert calls(telemetry.metrics, "/m") == 100
    lines = [json.loads(line) for line in log.getvalue().splitlines()]
    assert len(lines) == 25
    assert set(lines[0]) == {
        "event", "method", "reason", "ms", "account", "level", "timestamp",
    }  # fmt: skip


def test_a_long_outage_gets_a_line_a_minute() -> None:
    """And not one for each call that fails."""
    outage = Outage()
    told = [outage.failed(float(second)) for second in range(0, 150, 10)]
    assert [row for row in told if row] == [(0, 1), (60, 7), (120, 13)]
    assert outage.ended(150.0) == (150, 15)
    assert outage.failed(151.0) == (0, 1)
