"""`rookery-server serve` as a process of its own: started, used, told to end."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

from crypto import receipt, request
from crypto.request import CallKind
from rookery.v1 import accounts_pb2, sync_pb2
from tests.certificates import certificate
from tests.served import CREATE, PULL, PUSH, RECEIPT, nonce, push_request, wire_link
from tests.worlds import World

ROOT = Path(__file__).resolve().parent.parent


@contextmanager
def process(folder: Path, *arguments: str, **environ: str) -> Iterator[subprocess.Popen[str]]:
    """The server, working in `folder`; killed at the end if it still runs."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("ROOKERY_")}
    kept["PYTHONPATH"] = f"{ROOT}{os.pathsep}{ROOT / 'proto'}"
    settings = {f"ROOKERY_{name.upper()}": value for name, value in environ.items()}
    with subprocess.Popen(
        [sys.executable, "-m", "services.cli", *arguments],
        cwd=folder,
        env=kept | settings,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as started:
        try:
            yield started
        finally:
            if started.poll() is None:
                started.kill()


def ready(started: subprocess.Popen[str]) -> dict[str, str]:
    """The line that says where it listens."""
    assert started.stdout is not None
    line: dict[str, str] = json.loads(started.stdout.readline())
    return line


class Device:
    """The first device of a world, calling a server by what its ready line says."""

    def __init__(self, world: World, line: dict[str, str]) -> None:
        self.world = world
        self.line = line
        self.channel: Any = grpc.insecure_channel(line["listening"])

    def auth(
        self, method: str, payload: bytes, kind: CallKind = CallKind.UNARY, once: bytes = b""
    ) -> tuple[tuple[str, bytes], ...]:
        """Metadata of a signed call."""
        value = request.sign(
            self.world.authors[0].identity,
            kind=kind,
            method=method,
            audience=self.line["audience"],
            account_id=self.world.account_id,
            ts_ms=server_ms(),
            nonce=once or nonce(),
            payload=payload,
        )
        return ((request.METADATA_KEY, value),)

    def call(self, method: str, payload: bytes, once: bytes = b"") -> bytes:
        """A signed call."""
        metadata = self.auth(method, payload, once=once)
        answer: bytes = self.channel.unary_unary(method)(payload, metadata=metadata, timeout=20)
        return answer


def server_ms() -> int:
    """Both run on one machine."""
    return time.time_ns() // 1_000_000


def test_a_real_server_keeps_what_it_was_told(tmp_path: Path) -> None:
    """Start on a free port, make an account, push; end; start again; pull the same bytes,
    with a receipt under the key of the ready line."""
    world = World.create("process")
    rows = world.ops(4)
    ready_lines = []
    for run in range(2):
        with process(
            tmp_path, "serve", "--dev", "--listen", "127.0.0.1:0", pow_bits="0"
        ) as started:
            line = ready(started)
            ready_lines.append(line["server_key"])
            device = Device(world, line)
            if run == 0:
                message = accounts_pb2.CreateAccountRequest(
                    genesis=wire_link(world.genesis),
                    proof=accounts_pb2.ProofOfWork(hour=server_ms() // 3_600_000),
                )
                device.channel.unary_unary(CREATE)(message.SerializeToString(), timeout=20)
                pushed = device.call(PUSH, push_request(*rows).SerializeToString())
                assert sync_pb2.PushResponse.FromString(pushed).committed == 4
            page = sync_pb2.PullResponse.FromString(device.call(PULL, b""))
            assert list(page.ops) == [row.raw for row in rows]
            once = nonce()
            answer = sync_pb2.GetReceiptResponse.FromString(device.call(RECEIPT, b"", once))
            receipt.open_(answer.receipt, bytes.fromhex(line["server_key"]), nonce=once)
            device.channel.close()
            started.send_signal(signal.SIGTERM)
            out, err = started.communicate(timeout=30)
            assert (started.returncode, out) == (0, "")
            events = [json.loads(row)["event"] for row in err.splitlines()]
            assert events == ["serving", "draining", "stopped"]
    assert ready_lines[0] == ready_lines[1]


def test_a_new_generation_by_command(tmp_path: Path) -> None:
    """After `new-generation` an old cursor is answered with GENERATION_CHANGED."""
    world = World.create("generation")
    cursor = b""
    for run in range(2):
        with process(
            tmp_path, "serve", "--dev", "--listen", "127.0.0.1:0", pow_bits="0"
        ) as started:
            device = Device(world, ready(started))
            if run == 0:
                message = accounts_pb2.CreateAccountRequest(
                    genesis=wire_link(world.genesis),
                    proof=accounts_pb2.ProofOfWork(hour=server_ms() // 3_600_000),
                )
                device.channel.unary_unary(CREATE)(message.SerializeToString(), timeout=20)
                device.call(PUSH, push_request(world.op()).SerializeToString())
                cursor = sync_pb2.PullResponse.FromString(device.call(PULL, b"")).cursor
            else:
                payload = sync_pb2.PullRequest(cursor=cursor).SerializeToString()
                with pytest.raises(grpc.RpcError) as refused:
                    device.call(PULL, payload)
                assert "GENERATION_CHANGED" in str(refused.value.trailing_metadata())
            device.channel.close()
            with process(tmp_path, "new-generation") as beside:
                out, err = beside.communicate(timeout=30)
                # The file is the running server's alone.
                assert (beside.returncode, out) == (1, "")
                assert err.startswith("rookery-server: ")
            started.send_signal(signal.SIGINT)
            assert started.wait(30) == 0
        with process(tmp_path, "new-generation") as command:
            out, _ = command.communicate(timeout=30)
            assert command.returncode == 0
            assert out.startswith("ok:")


def test_a_second_signal_ends_at_once(tmp_path: Path) -> None:
    """While a stream that nobody reads holds up the drain, the second signal doesn't wait."""
    world = World.create("twice")
    with process(
        tmp_path, "serve", "--dev", "--listen", "127.0.0.1:0", pow_bits="0", drain_s="600"
    ) as started:
        device = Device(world, ready(started))
        device.channel = grpc.insecure_channel(
            device.line["listening"], options=[("grpc.http2.bdp_probe", 0)]
        )
        message = accounts_pb2.CreateAccountRequest(
            genesis=wire_link(world.genesis),
            proof=accounts_pb2.ProofOfWork(hour=server_ms() // 3_600_000),
        )
        device.channel.unary_unary(CREATE)(message.SerializeToString(), timeout=20)
        big = [world.op(0, f"big/{number}", bytes(30_000)) for number in range(30)]
        device.call(PUSH, push_request(*big).SerializeToString())
        method = "/rookery.v1.Sync/Subscribe"
        stream = device.channel.unary_stream(method)(
            b"", metadata=device.auth(method, b"", CallKind.STREAM)
        )
        stream.initial_metadata()
        started.send_signal(signal.SIGTERM)
        assert started.stderr is not None
        for line in started.stderr:
            if json.loads(line)["event"] == "draining":
                break
        started.send_signal(signal.SIGTERM)
        assert started.wait(30) == -signal.SIGTERM
        stream.cancel()
        device.channel.close()


def test_a_server_without_keys_does_not_start(tmp_path: Path) -> None:
    """Without --dev nobody makes keys in passing."""
    with process(tmp_path, "serve", "--listen", "127.0.0.1:0") as started:
        out, err = started.communicate(timeout=30)
    assert (started.returncode, out) == (1, "")
    assert "keys init" in err
    assert list(tmp_path.iterdir()) == []


def _said(folder: Path, *arguments: str, **environ: str) -> tuple[int, str]:
    """(exit code, standard error) of a server that can't start."""
    with process(folder, *arguments, **environ) as started:
        out, err = started.communicate(timeout=30)
    assert out == ""
    return started.returncode, err


def test_a_busy_port_is_one_sentence(tmp_path: Path) -> None:
    """It names the address and what to do; gRPC's own lines stay out."""
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        code, err = _said(tmp_path, "serve", "--dev", "--listen", address)
    assert code == 1
    assert err == f"rookery-server: {address} is in use: choose another --listen\n"


@pytest.mark.parametrize(
    ("address", "word"),
    [("192.0.2.1:7443", "not an address of this machine"), ("nowhere.invalid:7443", "not known")],
)
def test_an_address_that_is_not_ours_is_one_sentence(
    tmp_path: Path, address: str, word: str
) -> None:
    """Of another machine, or of none."""
    code, err = _said(tmp_path, "serve", "--dev", "--listen", address)
    assert (code, len(err.splitlines())) == (1, 1)
    assert address in err
    assert word in err


def test_a_certificate_that_is_none_is_one_sentence(tmp_path: Path) -> None:
    """It names the settings."""
    with process(tmp_path, "keys", "init") as made:
        assert made.wait(30) == 0
    for name in ("cert.pem", "key.pem"):
        (tmp_path / name).write_text("no PEM")
    code, err = _said(
        tmp_path, "serve", listen="127.0.0.1:0", tls_cert_file="cert.pem", tls_key_file="key.pem"
    )
    assert (code, len(err.splitlines())) == (2, 1)
    assert "tls_cert_file" in err


def test_the_server_tells_its_version(tmp_path: Path) -> None:
    """`--version` is a line and code 0."""
    with process(tmp_path, "--version") as started:
        out, _ = started.communicate(timeout=30)
    assert started.returncode == 0
    assert out.startswith("rookery-server ")


def health(folder: Path, *arguments: str, **environ: str) -> tuple[int, str]:
    """What `rookery-server health` says."""
    with process(folder, "health", *arguments, **environ) as asked:
        _, said = asked.communicate(timeout=60)
        return asked.returncode, said


def test_a_container_engine_can_ask_how_a_process_is(tmp_path: Path) -> None:
    """Exit 0 while it serves; a sentence and 1 where nobody does, or not yet, or not that."""
    with process(tmp_path, "serve", "--dev", "--listen", "127.0.0.1:0", pow_bits="0") as started:
        address = ready(started)["listening"]
        assert health(tmp_path, address) == (0, "")
        port = address.rpartition(":")[2]
        assert health(tmp_path, listen=f"0.0.0.0:{port}") == (0, "")
        code, said = health(tmp_path, address, "--service", "nobody")
        assert (code, said) == (1, f"rookery-server: {address}: NOT_FOUND\n")
        started.kill()
        started.wait()
        assert health(tmp_path, address) == (1, f"rookery-server: {address}: UNAVAILABLE\n")


def test_with_a_certificate_the_handshake_is_what_is_asked(tmp_path: Path) -> None:
    """The name in the certificate is not the address that is dialled."""
    cert, key = certificate(tmp_path, "ours")
    files = {"tls_cert_file": str(cert), "tls_key_file": str(key)}
    with process(
        tmp_path, "serve", "--dev", "--listen", "127.0.0.1:0", pow_bits="0", **files
    ) as started:
        address = ready(started)["listening"]
        assert health(tmp_path, listen=address, **files) == (0, "")
        started.kill()
        started.wait()
        code, said = health(tmp_path, listen=address, **files)
        assert code == 1
        assert "no TLS handshake" in said
