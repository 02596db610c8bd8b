"""Import every module of the installed wheel, and see that it isn't the source tree's."""

import importlib
import importlib.util
import pkgutil
import sys
import sysconfig
from importlib.metadata import files
from pathlib import Path

# What an extra is for is not there without it (`rookery[pages]`).
EXTRAS = {"client.pages.": "aiohttp"}
SITE = Path(sysconfig.get_path("purelib")).resolve()


def lacks_extra(name: str) -> bool:
    """Whether the module is an extra's whose packages are not installed."""
    return any(
        name.startswith(prefix) and importlib.util.find_spec(needed) is None
        for prefix, needed in EXTRAS.items()
    )


def main() -> int:
    """Prints how many modules there are; 1 if one is missing a marker or stands elsewhere."""
    packages = sorted(
        {path.parts[0] for path in files("rookery") or [] if path.name == "__init__.py"}
    )
    modules = list(packages)
    for package in packages:
        location = [str(SITE / package)]
        modules += [found.name for found in pkgutil.walk_packages(location, f"{package}.")]
    wrong = [package for package in packages if not (SITE / package / "py.typed").is_file()]
    for name in modules:
        if name.endswith("__main__") or lacks_extra(name):
            continue
        file = importlib.import_module(name).__file__
        if file is None or SITE not in Path(file).resolve().parents:
            wrong.append(f"{name} at {file}")
    print(f"wheel: {', '.join(packages)}: {len(modules)} modules")
    for name in wrong:
        print(f"wheel: no py.typed, or not from the wheel: {name}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
