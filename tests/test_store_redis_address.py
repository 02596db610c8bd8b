"""What `redis_url` says, understood."""

from __future__ import annotations

import pytest

from services.store.redis_address import Address


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://127.0.0.1", Address("redis", (("127.0.0.1", 6379),))),
        ("redis://h:1?db=3", Address("redis", (("h", 1),), db=3)),
        ("redis://[::1]:7", Address("redis", (("::1", 7),))),
        ("rediss://app@h:1/", Address("redis", (("h", 1),), tls=True, user="app")),
        (
            "redis+sentinel://a,b:2/main?db=1",
            Address("redis+sentinel", (("a", 26379), ("b", 2)), master="main", db=1),
        ),
        ("rediss+cluster://a:1,b:2", Address("redis+cluster", (("a", 1), ("b", 2)), tls=True)),
    ],
)
def test_every_form_of_the_url_is_understood(url: str, address: Address) -> None:
    """One server, Sentinels and clusters, with ports that are usual where none is said."""
    assert Address.parse(url) == address


def test_what_is_wrong_with_a_url_repeats_no_password() -> None:
    """A password that somebody put into the URL is in no message."""
    for url in ("redis://u:hush@h", "redis://:hush@h", "redis+sentinel://u:hush@h/m"):
        with pytest.raises(ValueError, match="redis_password_file") as refused:
            Address.parse(url)
        assert "hush" not in str(refused.value)
