"""Print which installed releases differ from the lock: what `make test-latest` tries."""

import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

for line in (Path(__file__).parent / "test.txt").read_text(encoding="utf-8").splitlines():
    if found := re.match(r"([\w.-]+)==([^ ;]+)", line):
        name, locked = found.groups()
        try:
            installed = version(name)
        except PackageNotFoundError:
            continue  # a release for another platform
        if installed != locked:
            print(f"{name} {locked} -> {installed}")
