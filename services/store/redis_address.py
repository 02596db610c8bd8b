"""Where Redis is, as the setting `redis_url` says it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Self
from urllib.parse import parse_qs, urlsplit

_HOST = re.compile(r"(?:\[([0-9a-fA-F:.]+)\]|([^\s:/@\[\]]+))(?::(\d{1,5}))?")
_SCHEMES = ("redis", "redis+sentinel", "redis+cluster")
PORTS = {"redis": 6379, "redis+sentinel": 26379, "redis+cluster": 6379}
Host = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Address:
    """One server, the Sentinels that know the master, or nodes of a cluster."""

    scheme: str
    """redis, redis+sentinel or redis+cluster."""
    hosts: tuple[Host, ...]
    tls: bool = False
    master: str = ""
    """What the Sentinels call it."""
    user: str = ""
    db: int = 0

    @property
    def is_cluster(self) -> bool:
        """Whether keys lie in slots, and slots on several servers."""
        return self.scheme == "redis+cluster"

    @classmethod
    def parse(cls, url: str) -> Self:
        """ValueError says what is wrong; it repeats nothing that may be a password."""
        parts = urlsplit(url)
        tls = parts.scheme.startswith("rediss")
        scheme = parts.scheme.replace("rediss", "redis", 1)
        if scheme not in _SCHEMES:
            raise ValueError(f"must begin with {'://, '.join(_SCHEMES)}:// (or rediss for TLS)")
        user, _, where = parts.netloc.rpartition("@")
        if ":" in user:
            raise ValueError("a password does not belong here: redis_password_file")
        hosts = tuple(_host(text, PORTS[scheme]) for text in where.split(","))
        if scheme == "redis" and len(hosts) > 1:
            raise ValueError("several servers are a redis+cluster:// or known to redis+sentinel://")
        master = parts.path.strip("/")
        if (scheme == "redis+sentinel") != bool(master):
            raise ValueError(
                "the master's name comes behind the Sentinels: redis+sentinel://H:P,H:P/MASTER"
                if not master
                else f"nothing comes behind the hosts of {scheme}://"
            )
        return cls(scheme, hosts, tls, master, user, _db(parts.query, scheme))


def _host(text: str, port: int) -> Host:
    found = _HOST.fullmatch(text)
    if found is None or not 0 < int(found[3] or port) < 1 << 16:
        raise ValueError("wants HOST:PORT, with commas between several")
    return found[1] or found[2], int(found[3] or port)


def _db(query: str, scheme: str) -> int:
    said = parse_qs(query, keep_blank_values=True)
    number = said.pop("db", ["0"])[-1]
    if said:
        raise ValueError("only ?db=N is known")
    if not number.isdecimal() or (scheme == "redis+cluster" and int(number)):
        raise ValueError("?db=N is a number, and 0 in a cluster")
    return int(number)
