"""Build the wheel and the sdist of a commit, and say what is wrong with them."""

import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

from packaging.metadata import Metadata

ROOT = Path(__file__).parents[2]
MEGABYTES = 95
"""Most that an archive may have: a package index takes 100 MB by default."""
PACKAGES = ("prophet_gym", "prophrl_algos")
NEVER = {"tests", "outputs", "runs", "recordings", "__pycache__", ".venv"}
"""Folders of which nothing belongs into a wheel."""
UNPICKLED = (".pt", ".pth", ".bin", ".pkl", ".ckpt")
"""Endings of files that may run code when they are read."""
SOURCES = (
    "pyproject.toml",
    "LICENSE",
    "README.md",
    "CHANGELOG.md",
    "CITATION.cff",
    "conftest.py",
    "requirements/test.txt",
)
"""Files without which a sdist cannot be built, tested or cited."""


def export(folder: Path, commit: str = "HEAD") -> Path:
    """Write a commit's files into a folder, and nothing else that lies about in the working tree."""
    packed = folder.with_suffix(".tar")
    subprocess.run(["git", "archive", "-o", packed, commit], cwd=ROOT, check=True)
    with tarfile.open(packed) as archive:
        archive.extractall(folder, filter="data")
    packed.unlink()
    return folder


def build(source: Path, out: Path, targets: Sequence[str] = ("sdist", "wheel")) -> list[Path]:
    """Build archives of a source tree with hatchling, which must be installed; return them in the order asked for."""
    kinds = [word for target in targets for word in ("-t", target)]
    done = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", *kinds, "-d", out],
        cwd=source, check=False, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode:
        raise ValueError(f"hatchling must build {source}, and says:\n{done.stderr[-2000:]}")
    endings = {"sdist": "*.tar.gz", "wheel": "*.whl"}
    return [next(out.glob(endings[target])) for target in targets]


def files_of(wheel: Path) -> dict[str, int]:
    """Return the names of a wheel's files, each with its checksum."""
    with zipfile.ZipFile(wheel) as archive:
        return {each.filename: each.CRC for each in archive.infolist()}


def wheel_problems(wheel: Path, names: Sequence[str] | None = None) -> Iterator[str]:
    """Yield what is wrong with a wheel, in words; `names` in place of those of its files."""
    if (size := wheel.stat().st_size / 1e6) > MEGABYTES:
        yield f"{wheel.name} must have at most {MEGABYTES} MB, has {size:.1f}: leave out weights, or make them smaller"
    names = list(files_of(wheel)) if names is None else names
    places = [PurePosixPath(name) for name in names]
    info = next(place.parts[0] for place in places if place.parts[0].endswith(".dist-info"))
    for place in places:
        if place.parts[0] not in (*PACKAGES, info) or NEVER & set(place.parts):
            yield f"{place} does not belong into a wheel: see [tool.hatch.build.targets.wheel] in pyproject.toml"
        if place.suffix in UNPICKLED:
            yield f"{place} may run code when it is read: store weights as safetensors"
    needed = [f"{info}/licenses/LICENSE", *(f"{package}/py.typed" for package in PACKAGES)]
    needed += sorted({f"prophet_gym/model_cards/{name}.md" for name in map(bundled, names) if name})
    for name in needed:
        if name not in names:
            yield f"{wheel.name} must have {name}, and has no such file"
    yield from metadata_problems(wheel, info)


def bundled(name: str) -> str | None:
    """Return the name of the checkpoint or policy that a file belongs to, None for any other file."""
    found = re.match(r"prophet_gym/checkpoints/([^/]+)/|prophrl_algos/vla/([^/]+)/[^/]+\.safetensors$", name)
    return found and (found[1] or found[2])


def metadata_problems(wheel: Path, info: str) -> Iterator[str]:
    """Yield what a package index would refuse of a wheel's metadata, or show badly."""
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read(f"{info}/METADATA")
    try:
        told = Metadata.from_email(text, validate=True)
    except ExceptionGroup as group:
        yield from (f"the metadata are refused: {error}" for error in group.exceptions)
        return
    if not told.description or told.description_content_type != "text/markdown":
        yield "the page of the package must be README.md as Markdown: see hatch_build.py"
    for name in ("summary", "license_expression", "requires_python", "classifiers", "project_urls"):
        if not getattr(told, name):
            yield f"pyproject.toml must say {name} of the package"


def sdist_problems(sdist: Path) -> Iterator[str]:
    """Yield what is missing in a sdist: the commit's files that it is built, tested and cited with."""
    if (size := sdist.stat().st_size / 1e6) > MEGABYTES:
        yield f"{sdist.name} must have at most {MEGABYTES} MB, has {size:.1f}: exclude what nobody builds or tests with"
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    yield from (f"{sdist.name} must have {name}, and has no such file" for name in SOURCES if name not in names)
