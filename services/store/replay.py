"""A whole chain at once: what `append_link` judges link by link, judged before anything is
written, so that it costs the writer nothing."""

from __future__ import annotations

from collections.abc import Sequence

from crypto import grant, link
from crypto.chain import EMPTY, Chain
from crypto.link import SignedLink
from services.store.base import StoredLink
from services.store.errors import ChainAhead


def replay(genesis: SignedLink, later: Sequence[StoredLink]) -> Chain:
    """The chain of all these links. CryptoError for a broken rule, grants included; ChainAhead
    where a seq is skipped."""
    chain = EMPTY.apply(genesis)
    for row in later:
        parsed = link.parse(row.link.raw)
        if parsed.seq > chain.seq + 1:
            raise ChainAhead(chain.seq)
        chain = chain.apply(row.link)
        grant.check_complete(parsed, chain, row.grants)
    return chain
