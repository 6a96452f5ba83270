"""Print which installed releases differ from the lock: what `make test-latest` tries."""

import re
from collections.abc import Callable, Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import Requirement


def differences(lock: str, installed: Callable[[str], str] = version) -> Iterator[str]:
    """Yield a line for each installed release that is not the one that a lock has for this Python and system.

    Args:
        lock: The text of a locked list; a package may stand in it once for each Python.
        installed: Returns the version of a package, PackageNotFoundError if there is none.
    """
    for line in re.findall(r"^[\w.-]+==.*", lock, re.MULTILINE):
        locked = Requirement(line.removesuffix("\\"))
        if locked.marker is not None and not locked.marker.evaluate():
            continue
        try:
            found = installed(locked.name)
        except PackageNotFoundError:
            continue  # a release that is installed elsewhere alone
        if not locked.specifier.contains(found, prereleases=True):
            yield f"{locked.name} {str(locked.specifier).removeprefix('==')} -> {found}"


if __name__ == "__main__":
    for line in differences((Path(__file__).parents[1] / "requirements" / "test.txt").read_text(encoding="utf-8")):
        print(line)
