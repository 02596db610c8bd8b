"""The keys of a job's pseudorandom sharings, out of fresh nonces of all who share each key.

Every set of m - t parties has a key that no t others know (Cramer, Damgard, Ishai 2005). The
same key gives the same "randomness" in the same place, so no key outlives its job: one honest
member with a fresh nonce is enough. Each key is bound to the job's terms, hence to the manifest
of the round. It does no I/O; the links must be confidential.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

from crypto import labels
from crypto.errors import FormatError
from crypto.primitives import equal, hash_, prf
from mpc.terms import Terms

NONCE_BYTES = 32
PROOF_BYTES = 32

Subset = tuple[int, ...]


class Agreement:
    """One party's side: a hello to each peer, then a proof that both hold the same keys."""

    def __init__(self, terms: Terms, me: int, rand: Callable[[int], bytes]) -> None:
        self._terms = terms
        self._me = me
        self._digest = terms.digest()
        everyone = range(1, terms.m + 1)
        self._mine = [s for s in combinations(everyone, terms.m - terms.t) if me in s]
        self._nonces = {(subset, me): rand(NONCE_BYTES) for subset in self._mine}

    def _with(self, party: int) -> list[Subset]:
        return [subset for subset in self._mine if party in subset]

    def hello(self, party: int) -> bytes:
        """What to send to `party` first: the terms' digest and a nonce for each common set."""
        nonces = (self._nonces[subset, self._me] for subset in self._with(party))
        return self._digest + b"".join(nonces)

    def take_hello(self, party: int, data: bytes) -> None:
        """Takes a peer's hello. FormatError `length`, or `job` if it holds other terms."""
        common = self._with(party)
        if len(data) != 32 + NONCE_BYTES * len(common):
            raise FormatError("length", "a hello of a wrong length")
        if not equal(data[:32], self._digest):
            raise FormatError("job", "a hello of another job")
        for place, subset in enumerate(common):
            start = 32 + NONCE_BYTES * place
            self._nonces[subset, party] = data[start : start + NONCE_BYTES]

    def key(self, subset: Subset) -> bytes:
        """The key of a set that this party is in, once all its present members said hello."""
        members = [party for party in subset if party in self._terms.present]
        nonces = b"".join(self._nonces[subset, party] for party in members)
        return hash_(labels.MPC_PRSS, self._digest + bytes(subset) + nonces)

    def keys(self) -> dict[Subset, bytes]:
        """Every key of this party."""
        return {subset: self.key(subset) for subset in self._mine}

    def proof(self, party: int, sender: int | None = None) -> bytes:
        """What `sender` (this party) sends to `party` to show that it holds their common keys.

        Without it a party could give two members of a set other nonces, and so spoil masks.
        """
        sender = sender or self._me
        other = party if sender == self._me else self._me
        keys = b"".join(self.key(subset) for subset in self._with(party))
        secret = hash_(labels.MPC_PRSS_PROOF, keys)
        return prf(secret, labels.MPC_PRSS_PROOF, bytes((sender, other)), PROOF_BYTES)

    def check_proof(self, party: int, data: bytes) -> None:
        """FormatError `keys` unless the peer holds the same keys."""
        if not equal(data, self.proof(party, sender=party)):
            raise FormatError("keys", "the parties were given different nonces")
