"""Generate the Python of proto/ beside the .proto files: `genproto.py [--check]`.

The output is committed. Its import paths follow from `-I proto`: folder, protobuf package
and Python package all read `rookery.v1`. The compiler is pinned to the lowest grpcio that
we support, because generated stubs refuse to load beside an older one.
"""

import importlib.resources
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTO = ROOT / "proto"
PATTERNS = ("*_pb2*.py", "*_pb2*.pyi")  # and no bytecode, which lies beside them
PLUGINS = ("protoc-gen-mypy", "protoc-gen-mypy_grpc")


def plugin(name: str) -> str:
    """The plugin beside this interpreter, which need not be an activated environment's."""
    found = shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)
    if found is None:
        sys.exit(f"genproto: {name} is missing: install the extra `dev`")
    return f"--plugin={name}={found}"


def generate(out: Path) -> None:
    """Writes the modules and stubs under `out`."""
    protos = sorted((PROTO / "rookery").rglob("*.proto"))
    includes = importlib.resources.files("grpc_tools") / "_proto"
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


def files(folder: Path) -> list[Path]:
    """What of this folder is generated."""
    return [path for pattern in PATTERNS for path in folder.rglob(pattern)]


def generated(folder: Path) -> dict[str, bytes]:
    """Every generated file under `folder`, by its path there."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in files(folder)}


def outdated() -> list[str]:
    """Committed files that differ from what would be generated now, or are one side's only."""
    with tempfile.TemporaryDirectory() as scratch:
        generate(Path(scratch))
        now, then = generated(Path(scratch)), generated(PROTO)
    return sorted(name for name in now.keys() | then.keys() if now.get(name) != then.get(name))


def main() -> int:
    """Generates; with --check says instead what is out of date, 1 if anything is."""
    if "--check" in sys.argv[1:]:
        names = outdated()
        print("\n".join([*names, f"genproto: {len(names)} out of date"]))
        return 1 if names else 0
    for path in files(PROTO):  # some may have lost their .proto file
        path.unlink()
    generate(PROTO)
    print(f"genproto: {len(generated(PROTO))} files")
    return 0


if __name__ == "__main__":
    sys.exit(main())
