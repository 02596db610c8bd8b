"""Self-signed certificates of this machine, by openssl. A helper."""

from __future__ import annotations

import subprocess
from pathlib import Path

from tests.programs import program


def certificate(folder: Path, name: str, *, days: int = 2) -> tuple[Path, Path]:
    """One of localhost with its key, as files."""
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    subprocess.run(
        [
            program("openssl"),
            "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256",
            "-nodes", "-days", str(days), "-subj", "/CN=localhost", "-keyout", str(key),
            "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost", "-out", str(cert),
        ],
        check=True,
        capture_output=True,
    )  # fmt: skip
    return cert, key
