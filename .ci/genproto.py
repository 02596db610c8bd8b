"""Generate the Python of proto/rookery/v1 into a folder: `genproto.py OUT`.

The output is committed. Its import paths follow from `-I proto`: folder, protobuf package
and Python package all read `rookery.v1`. The compiler is pinned to the lowest grpcio that
we support, because generated stubs refuse to load beside an older one.
"""

import importlib.resources
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
PLUGINS = ("protoc-gen-mypy", "protoc-gen-mypy_grpc")


def plugin(name: str) -> str:
    """The plugin beside this interpreter, which need not be an activated environment's."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        sys.exit(f"genproto: {name} is missing: install the extra `dev`")
    return f"--plugin={name}={found}"


def generate(out: Path) -> list[Path]:
    """Writes the modules and stubs under `out` and returns their paths, sorted."""
    protos = sorted((PROTO / "rookery").rglob("*.proto"))
    includes = importlib.resources.files("grpc_tools") / "_proto"
    out.mkdir(parents=True, exist_ok=True)
    subprocess.run(
        [
            sys.executable,
            "-m",
            "grpc_tools.protoc",
            f"-I{PROTO}",
            f"-I{includes}",
            *map(plugin, PLUGINS),
            f"--python_out={out}",
            f"--grpc_python_out={out}",
            # The comments of the .proto files become docstrings in the stubs.
            f"--mypy_out=quiet:{out}",
            f"--mypy_grpc_out=quiet:{out}",
            *(str(path.relative_to(PROTO)) for path in protos),
        ],
        check=True,
    )
    return sorted(out.rglob("*_pb2*.py*"))


def main() -> None:
    """Regenerates, and takes away what no longer has a .proto file."""
    out = Path(sys.argv[1]).resolve() if len(sys.argv) > 1 else PROTO
    for stale in out.rglob("*_pb2*.py*"):
        stale.unlink()
    print(f"genproto: {len(generate(out))} files")


if __name__ == "__main__":
    main()
