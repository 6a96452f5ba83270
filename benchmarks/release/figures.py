"""Make the documents' blocks about installing: what it takes, and which versions are allowed and tested."""

import re
import tomllib
from collections.abc import Callable

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from docs.blocks.common import ROOT, load, markdown_table, where

SHOWN = ("torch", "gymnasium", "numpy", "diffusers", "accelerate", "safetensors", "huggingface-hub")
"""Dependencies that a user is likely to have in another version."""
_EXTRAS = {"sb3": "stable-baselines3", "torchrl": "torchrl", "minari": "minari", "ray": "ray", "vlm": "transformers"}


def wheel() -> str:
    """Return what the commands of a new user take."""
    found = load("release/wheel.json")
    if found is None:
        return "Not measured yet: `make test-wheel`."
    rows = [
        [f"`{each['command']}`", *(f"{each[kind]:.1f}" for kind in ("seconds", "cpu_seconds"))]
        for each in found["commands"]
    ]
    size = found["megabytes"]
    return "\n\n".join([
        markdown_table(["command", "seconds", "processor's seconds"], rows),
        "`first_dream.py` is the README's first program. In an empty folder with an empty home, on "
        f"{where(found['machine'])}, beside other work, so the processor's seconds count; the wheel has "
        f"{size['wheel']} MB, the sdist {size['sdist']} MB. `python -m benchmarks.release.wheel --json "
        "benchmarks/results/release/wheel.json`.",
    ])  # fmt: skip


def versions() -> str:
    """Return which versions pyproject.toml allows, and which the tests run on."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    pythons = [each.rpartition(" ")[2] for each in project["classifiers"] if re.search(r":: 3\.\d+$", each)]
    rows = [["Python", project["requires-python"], ", ".join(pythons)]]
    extras = [(f" (`[{extra}]`)", name, project["optional-dependencies"][extra]) for extra, name in _EXTRAS.items()]
    asked = [("", name, project["dependencies"]) for name in SHOWN] + extras
    lock = "".join((ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8") for name in ("test", "torch"))
    for mark, name, lines in asked:
        requirement = next(each for each in map(Requirement, lines) if canonicalize_name(each.name) == name)
        tested = dict.fromkeys(re.findall(rf"^{re.escape(name)}==([\w.]+)", lock, re.MULTILINE | re.IGNORECASE))
        bounds = sorted(str(requirement.specifier).split(","), key=lambda bound: bound.startswith("<"))
        rows.append([f"`{requirement.name}`{mark}", ", ".join(bounds), ", ".join(tested)])
    return markdown_table(["", "allowed", "in the lock"], rows)


BLOCKS: dict[str, Callable[[], str]] = {"wheel": wheel, "versions": versions}
