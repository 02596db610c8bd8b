"""MPyC in a process of our own, made by hand: the only file that imports it.

MPyC 0.11 is written to be the whole program, among peers that follow the protocol and live.
Importing it rewrites `sys.argv`, logging, the environment and asyncio; peers send it pickles;
its openings believe the first t + 1 shares, and some above degree t show more than their value;
a dead peer hangs it, and an error inside it stops the event loop. Each of these is mended here.
What its own protocols for products and comparisons do stays secure against passive parties
only: nothing but noised values should go into them.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping
from types import ModuleType, SimpleNamespace
from typing import Any, NoReturn, TypeVar

import numpy as np

from crypto.field import Array
from mpc.codec import ShareCodec
from mpc.errors import JobError
from mpc.peer import Absent, Peer
from mpc.prss import Subset
from mpc.terms import Terms, fork

T = TypeVar("T")

VERSION = "0.11"
SECURITY_BITS = 40
"""MPyC's statistical hiding, where its protocols mask with a longer number."""

Opener = Callable[[Array, int, tuple[int, ...]], Awaitable[Array | None]]
"""(shares, degree, receiving parties) -> values; None for a party that receives nothing."""


class Runtime:
    """One party's side of the arithmetic. Party numbers are from 1 here, from 0 in MPyC.

    A process can make one, inside its running event loop.
    """

    def __init__(
        self, terms: Terms, me: int, peers: Mapping[int, Peer | Absent], opener: Opener
    ) -> None:
        module = _load()
        _mend_openings(module, opener, terms)
        _mend_errors(module)
        _close_doors(module, ShareCodec(terms.field))
        self._terms = terms
        self._thresha = module.thresha
        self._field = module.finfields.GF(terms.field.p)
        self._has_keys = False
        self.mpyc = _make(module, terms, me)
        """The runtime itself, for protocols of MPyC on values that may be in it."""
        for party, peer in peers.items():
            self.mpyc.parties[party - 1].protocol = peer

    def use_keys(self, keys: Mapping[Subset, bytes]) -> None:
        """Sets the keys of the pseudorandom sharings, once."""
        if self._has_keys:
            raise JobError("keys", "the keys of a job are set once")
        self.mpyc._prss_keys = {tuple(p - 1 for p in subset): key for subset, key in keys.items()}
        self.mpyc.prfs.cache_clear()
        self._has_keys = True

    def at(self, pc: int, coroutine: Coroutine[Any, Any, T]) -> Awaitable[T]:
        """Runs a coroutine from a program counter on, whatever else runs in between."""
        return _Pinned(self.mpyc, coroutine, [pc, 1])

    def forked(self, coroutine: Coroutine[Any, Any, T]) -> Awaitable[T]:
        """Runs a coroutine at a program counter of its own, that follows from the present one."""
        return _Forked(self.mpyc, coroutine)

    def send(self, party: int, payload: bytes) -> None:
        """Sends to a party, at the present program counter."""
        self.mpyc._send_message(party - 1, payload)

    def receive(self, party: int) -> asyncio.Future[bytes]:
        """What a party sent at the present program counter."""
        future: asyncio.Future[bytes] = self.mpyc._receive_message(party - 1)
        return future

    def random_shares(self, count: int) -> Array:
        """This party's shares, of degree t, of uniform elements that nobody knows."""
        return self._pseudorandom(self._thresha.np_pseudorandom_share, count)

    def zero_shares(self, count: int) -> Array:
        """This party's shares, of degree 2t and else uniform, of zeros."""
        return self._pseudorandom(self._thresha.np_pseudorandom_share_0, count)

    def _pseudorandom(self, function: Callable[..., Any], count: int) -> Array:
        if not self._has_keys:
            raise JobError("keys", "no sharing is random before the keys are set")
        rt = self.mpyc
        prfs = rt.prfs(self._field.order)
        shares = function(self._field, len(rt.parties), rt.pid, prfs, rt._prss_uci(), count)
        return _words(shares)

    def split(self, values: Array) -> dict[int, Array]:
        """Shares of degree t of values of this party's own, for every party."""
        vector = self._field.array(values.astype(object), check=False)
        rows = self._thresha.np_random_split(self._field, vector, self._terms.t, self._terms.m)
        return {index + 1: row.astype(np.uint64) for index, row in enumerate(rows)}


def _words(array: Any) -> Array:
    value: Array = array.value.astype(np.uint64)
    return value


class _Pinned(Awaitable[T]):
    """Drives a coroutine under its own program counter.

    MPyC's own wrapper raises what a future failed with at its own `yield`, so that no
    `except` or `finally` of the coroutine sees it; this one passes it on.
    """

    def __init__(self, rt: Any, coroutine: Coroutine[Any, Any, T], pc: list[int]) -> None:
        self._rt = rt
        self._coroutine = coroutine
        self._pc = pc

    def __await__(self) -> Generator[Any, Any, T]:
        error: BaseException | None = None
        while True:
            outside = self._rt._program_counter
            self._rt._program_counter = self._pc
            try:
                if error is None:
                    yielded = self._coroutine.send(None)
                else:
                    yielded = self._coroutine.throw(error)
            except StopIteration as stop:
                result: T = stop.value
                return result
            finally:
                self._pc = self._rt._program_counter
                self._rt._program_counter = outside
            error = None
            try:
                yield yielded
            except GeneratorExit:
                self._coroutine.close()
                raise
            except BaseException as thrown:  # noqa: BLE001 - passed on to the coroutine
                error = thrown


class _Forked(_Pinned[T]):
    """The same, at a counter that is split off from the present one. Has MPyC's signature."""

    def __init__(self, rt: Any, coroutine: Coroutine[Any, Any, T]) -> None:
        pc = rt._program_counter
        pc[0] += 1
        super().__init__(rt, coroutine, [fork(pc), pc[1] + 1])


# Importing and making


def _load() -> ModuleType:
    """Imports MPyC and puts back what that changes in the process."""
    if "mpyc" in sys.modules:
        raise JobError("runtime", "a process runs one job, and this one had its own already")
    argv = sys.argv
    environ = {name: value for name, value in os.environ.items() if name.startswith("MPYC_")}
    policy = asyncio.get_event_loop_policy()
    loop = asyncio.get_running_loop()
    handler = loop.get_exception_handler()
    root = logging.getLogger()
    handlers, level, disabled = root.handlers[:], root.level, root.manager.disable
    for name in environ:
        del os.environ[name]
    sys.argv = ["rookery", "--no-log", "--no-uvloop"]
    try:
        import mpyc.runtime  # type: ignore[import-untyped]
    finally:
        sys.argv = argv
        for name in [name for name in os.environ if name.startswith("MPYC_")]:
            del os.environ[name]
        os.environ.update(environ)
        os.environ["MPYC_MAXWORKERS"] = "0"  # read where it draws bits; it starts no threads
        asyncio.set_event_loop_policy(policy)
        loop.set_exception_handler(handler)
        root.handlers[:] = handlers
        root.setLevel(level)
        logging.disable(disabled)
    module: ModuleType = mpyc.runtime
    if mpyc.__version__ != VERSION or not hasattr(module, "mpc"):
        raise JobError("runtime", f"MPyC must be version {VERSION}: its inside is relied upon")
    return module


def _make(module: ModuleType, terms: Terms, me: int) -> Any:
    """A runtime for the running loop, in all the places where MPyC looks for one."""
    loop = asyncio.get_running_loop()
    handler = loop.get_exception_handler()
    options = SimpleNamespace(
        threshold=terms.t, no_log=True, no_prss=False, no_async=False, no_barrier=True,
        sec_param=SECURITY_BITS, bit_length=32, mix32_64bit=False, ssl=False,
    )  # fmt: skip
    rt = module.Runtime(me - 1, [module.Party(index) for index in range(terms.m)], options)
    loop.set_exception_handler(handler)
    rt._prss_keys = {}
    rt.prfs.cache_clear()
    rt.start_time = time.time()
    package = module.mpyc
    for user in (
        module.asyncoro, module.sectypes, module.mpctools, package.seclists, package.secpols,
        package.secgroups, package.random, package.statistics,
    ):  # fmt: skip
        user.runtime = rt
    vars(module)["mpc"] = rt
    return rt


# Mending


def _close_doors(module: ModuleType, codec: ShareCodec) -> None:
    """No pickle is read or written, and nothing makes connections of its own."""
    vars(module)["pickle"] = codec

    def closed(*_: object, **__: object) -> NoReturn:
        raise JobError("runtime", "this function of MPyC would trust its peers: it is closed")

    for name in ("transfer", "start", "shutdown", "run", "__aenter__", "__aexit__"):
        setattr(module.Runtime, name, closed)
    module.asyncoro.MessageExchanger = closed


def _mend_openings(module: ModuleType, opener: Opener, terms: Terms) -> None:
    """Every opening takes the shares of all who are present, and checks them."""
    finfields, p = module.finfields, terms.field.p

    async def output(
        rt: Any, x: Any, receivers: Any = None, threshold: Any = None, raw: bool = False
    ) -> Any:
        xs = x[:] if isinstance(x, list) else [x]
        await rt.returnType(asyncio.Future)
        if not xs:
            return []
        kind = type(xs[0])
        to = range(terms.m) if receivers is None else receivers
        to = [to] if isinstance(to, int) else list(to)
        if issubclass(kind, rt.SecureObject):
            if hasattr(kind, "_output"):
                opened = await kind._output(xs, to, threshold)
                return opened if isinstance(x, list) else opened[0]
            xs = await rt.gather(xs)
        is_array = isinstance(xs[0], finfields.FiniteFieldArray)
        field = xs[0].field if is_array else type(xs[0])
        if field.modulus != p:
            raise JobError("field", "values of another field than the job's are not opened")
        shape = xs[0].shape if is_array else (len(xs),)
        raw_shares = xs[0].value.reshape(-1) if is_array else [element.value for element in xs]
        shares = np.array(raw_shares, dtype=object).astype(np.uint64)
        degree = rt.threshold if threshold is None else threshold
        values = await opener(shares, degree, tuple(index + 1 for index in to))
        if values is None:
            opened = [None] * len(xs)
        elif is_array:
            opened = [field.array(values.astype(object).reshape(shape), check=False)]
        else:
            opened = [field(int(value)) for value in values]
        if values is not None and not raw and issubclass(kind, rt.SecureObject):
            convert = kind._output_conversion
            opened = opened if convert is None else [convert(value) for value in opened]
        return opened if isinstance(x, list) else opened[0]

    # MPyC would take our annotation of the result for the type of a secret one.
    output.__annotations__.clear()
    module.Runtime.output = module.asyncoro.mpc_coro(output)


def _mend_errors(module: ModuleType) -> None:
    """What fails inside MPyC fails whoever waits for it, and nobody else."""
    asyncoro = module.asyncoro

    def fail(placeholder: Any, error: BaseException) -> None:
        if isinstance(placeholder, asyncoro.SecureObject):
            placeholder = placeholder.share
        if isinstance(placeholder, (list, tuple)):
            for each in placeholder:
                fail(each, error)
        elif isinstance(placeholder, asyncio.Future) and not placeholder.done():
            placeholder.set_exception(error)
            placeholder.exception()  # so that asyncio does not complain of it

    def failure(future: Any) -> BaseException | None:
        if future.cancelled():
            return JobError("cancelled", "the job was ended while it computed")
        error: BaseException | None = future.exception()
        return error

    def reconcile(placeholder: Any, task: Any) -> None:
        asyncoro.runtime._pc_level -= 1
        error = failure(task)
        if placeholder is None:
            return
        if error is None:
            vars(asyncoro)["__reconcile"](placeholder, task.result())
        else:
            fail(placeholder, error)

    def decrement(tally: Any, future: Any) -> None:
        tally.tally -= 1
        if tally.done():
            return
        error = failure(future)
        if error is not None:
            fail(tally, error)
        elif not tally.tally:
            tally.set_result(asyncoro._get_results(tally.obj))

    def set_share(secret: Any, value: Any) -> None:
        def copy(future: Any) -> None:
            error = failure(future)
            if error is not None:
                fail(secret, error)
            elif not secret.share.done():
                secret.share.set_result(future.result())

        if not isinstance(value, asyncio.Future):
            secret.share.set_result(value)
        elif value.done():
            copy(value)
        else:
            value.add_done_callback(copy)

    asyncoro._reconcile = reconcile
    asyncoro._SharesTallier._decrement = decrement
    asyncoro.SecureObject.set_share = set_share
    asyncoro._ProgramCounterWrapper = _Forked
    asyncoro._hop = fork
