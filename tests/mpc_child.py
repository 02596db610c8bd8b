"""The process of a job, with steps that look at its inside or make it lie. A helper."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from typing import Any

import numpy as np

from mpc.errors import JobError
from mpc.job import Answer, Job, ServiceLink, main
from mpc.session import Session


class WatchedJob(Job):
    """Some more steps."""

    def __init__(self, *arguments: Any) -> None:
        self.before = process_state()
        super().__init__(*arguments)
        self._does.update(
            {
                name: getattr(self, name)
                for name in (
                    "lie", "hygiene", "doors", "again", "masks", "open", "product", "stock_input",
                    "is_zero", "together",
                )
            }
        )  # fmt: skip

    async def lie(self, _: str, step: Answer) -> Answer:
        """From now on this party opens its shares plus its number, to everybody."""
        session, honest = self._session, self._session._exchange

        async def lying(shares: Any, degree: int, receivers: tuple[int, ...]) -> Any:
            lie = session.terms.field.add(shares, np.full_like(shares, session.me))
            return await honest(lie, degree, receivers)

        session._exchange = lying  # type: ignore[method-assign]
        return {}

    async def hygiene(self, _: str, step: Answer) -> Answer:
        """What importing MPyC left changed in the process."""
        return {"before": self.before, "after": process_state()}

    async def doors(self, _: str, step: Answer) -> Answer:
        """Which of MPyC's trusting functions are closed."""
        rt, closed = self._session.runtime.mpyc, []
        for name in ("transfer", "shutdown", "start", "run"):
            try:
                getattr(rt, name)(b"")
            except JobError as error:
                closed.append((name, error.rule))
        return {"closed": closed}

    async def again(self, _: str, step: Answer) -> Answer:
        """A second session in the process."""
        session = self._session
        links = {party: ServiceLink(self._writer, party) for party in session.peers}
        Session(session.terms, session.me, links, limits=session.limits)
        return {}

    async def masks(self, _: str, step: Answer) -> Answer:
        """This party's shares of masks."""
        runtime, field = self._session.runtime, self._field
        lines = runtime.random_shares(step["count"])
        zeros = runtime.zero_shares(step["count"])
        return {"lines": field.to_bytes(lines), "zeros": field.to_bytes(zeros)}

    async def open(self, name: str, step: Answer) -> Answer:
        """A checked opening of given shares."""
        shares = self._field.from_bytes(step["shares"], step["count"])
        opened = await self._session.open(name, shares, degree=step["degree"])
        return {
            "values": [int(v) for v in self._field.decode(opened.values)],
            "checked": opened.checked,
            "liars": list(opened.liars),
        }

    def _secret(self, values: list[int]) -> Any:
        rt = self._session.runtime.mpyc
        return rt.SecFld(modulus=self._field.p).array(np.array(values, dtype=object))

    async def product(self, _: str, step: Answer) -> Answer:
        """MPyC's own input, product and output."""
        rt = self._session.runtime.mpyc
        a = rt.input(self._secret([3, 4]), senders=0)
        b = rt.input(self._secret([5, 7]), senders=1)
        return {"values": [int(v) for v in (await rt.output(a * b)).value]}

    async def stock_input(self, _: str, step: Answer) -> Answer:
        """MPyC's own input of arrays, which stock MPyC unpickles."""
        rt = self._session.runtime.mpyc
        shared = rt.input(self._secret([3, 4]))
        await rt.gather(shared)
        return {}

    async def is_zero(self, _: str, step: Answer) -> Answer:
        """MPyC's public test for zero, and what this party would send for it unmasked."""
        rt = self._session.runtime.mpyc
        scalar = rt.SecFld(modulus=self._field.p)
        a = rt.input([scalar(0), scalar(9)], senders=0)
        found = [bool(await rt.is_zero_public(each)) for each in a]
        array = rt.input(self._secret([0, 6]), senders=0)
        many = [bool(each) for each in await rt.np_is_zero_public(array)]
        share = (await rt.gather(array)).value
        raw = self._field.to_bytes(share.astype(np.uint64))
        opened = await rt.output((await rt.gather(array)), threshold=2 * self._session.terms.t)
        return {"one": found, "many": many, "raw": raw, "opened": [int(v) for v in opened.value]}

    async def together(self, _: str, step: Answer) -> Answer:
        """Two steps at once, begun in an order that differs between the parties."""
        order = ["a", "b"] if self._session.me % 2 else ["b", "a"]
        opened = await asyncio.gather(
            *(self._session.run(f"together {name}", self._circuit.coin(b"x")) for name in order)
        )
        return dict(zip(order, opened, strict=True))


def process_state() -> dict[str, Any]:
    """What MPyC changes when it is imported."""
    root = logging.getLogger()
    handler = asyncio.get_running_loop().get_exception_handler()
    return {
        "argv": sys.argv,
        "level": root.level,
        "handlers": len(root.handlers),
        "policy": type(asyncio.get_event_loop_policy()).__name__,
        "loop_handler": repr(handler),
        "environment": sorted(n for n in os.environ if n.startswith("MPYC_NO")),
    }


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], WatchedJob))
