"""A certificate authority and workload certificates with SPIFFE ids, by openssl: for trying the
deployment out on one machine. In use, the mesh or a real authority signs them.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

DAYS = "30"


class CertificateError(Exception):
    """openssl is missing or failed."""


@dataclass(frozen=True, slots=True)
class Authority:
    """Signs workload certificates; its key never leaves its folder."""

    cert: Path
    key: Path

    @classmethod
    def create(cls, folder: Path, name: str = "authority") -> Authority:
        """A new one, in a folder that is made for it."""
        folder.mkdir(parents=True, exist_ok=True)
        cert, key = folder / "ca.crt", folder / "ca.key"
        _openssl(
            "req", "-x509", *_NEW_KEY, "-days", DAYS, "-subj", f"/CN={name}",
            "-addext", "basicConstraints=critical,CA:TRUE",
            "-addext", "keyUsage=critical,keyCertSign,cRLSign",
            "-keyout", str(key), "-out", str(cert),
        )  # fmt: skip
        return cls(cert, key)

    def sign(self, folder: Path, *, spiffe: str = "", names: str = "") -> Path:
        """A folder with tls.crt, tls.key and ca.crt, as a Kubernetes secret has them.

        `names` are DNS: and IP: entries as openssl writes them. Files that are there already
        are replaced whole.
        """
        folder.mkdir(parents=True, exist_ok=True)
        alternatives = ",".join(filter(None, (f"URI:{spiffe}" if spiffe else "", names)))
        fresh = {name: folder / f".{name}" for name in ("tls.key", "tls.crt", "ca.crt")}
        _openssl(
            "req", "-x509", *_NEW_KEY, "-days", DAYS, "-subj", "/O=rookery",
            "-CA", str(self.cert), "-CAkey", str(self.key),
            "-addext", f"subjectAltName={alternatives}",
            "-addext", "basicConstraints=critical,CA:FALSE",
            "-addext", "extendedKeyUsage=serverAuth,clientAuth",
            "-keyout", str(fresh["tls.key"]), "-out", str(fresh["tls.crt"]),
        )  # fmt: skip
        shutil.copyfile(self.cert, fresh["ca.crt"])
        for name, path in fresh.items():
            path.replace(folder / name)
        return folder


_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


def _openssl(*arguments: str) -> None:
    program = shutil.which("openssl")
    if program is None:
        raise CertificateError("openssl is not installed")
    done = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)  # noqa: S603 - arguments are ours
    if done.returncode:
        raise CertificateError(f"openssl: {done.stderr.strip()}")
