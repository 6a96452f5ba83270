"""Say whether a release can be made, and print its notes and how it is tagged (`make release`).

    python -m benchmarks.release            # changes nothing
    python -m benchmarks.release --tag      # also makes the tag, if nothing is wrong

Nothing is uploaded: who publishes does that by hand, from the archives that are built of the tag.
"""

import importlib.util
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import tyro
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from benchmarks.release import archives
from benchmarks.release.changelog import UNRELEASED, Section, sections

BRANCH = "main"


@dataclass(frozen=True)
class Args:
    """Check whether a release can be made."""

    tag: bool = False
    """Make the tag, if nothing is wrong."""


def git(root: Path, *words: str) -> str:
    """Return what git prints."""
    return subprocess.run(["git", *words], cwd=root, check=True, capture_output=True, text=True).stdout.strip()


def project_of(root: Path) -> dict[str, Any]:
    """Return the table [project] of pyproject.toml."""
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def newest(root: Path) -> list[Section]:
    """Return the changelog's sections."""
    return sections((root / "CHANGELOG.md").read_text(encoding="utf-8"))


def tree_problems(root: Path) -> Iterator[str]:
    """Yield what stands between the commit and a tag."""
    if git(root, "rev-parse", "--is-shallow-repository") == "true":
        yield "the clone must have all tags, and is a shallow one: git fetch --unshallow --tags"
    changed = git(root, "status", "--porcelain").splitlines()
    if changed:
        yield f"everything must be committed, and {len(changed)} files are not, such as {changed[0].split()[-1]}"
    branch = git(root, "branch", "--show-current") or "no branch"
    if branch != BRANCH:
        yield f"a release is made on {BRANCH}, and this is {branch}: merge it, and check {BRANCH} out"
    tag = f"v{project_of(root)['version']}"
    if git(root, "tag", "--list", tag):
        yield f"the tag {tag} exists already: raise the version in pyproject.toml and CITATION.cff"


def version_problems(root: Path) -> Iterator[str]:
    """Yield where the version is not the same, or has been released before."""
    version, (first, *older) = project_of(root)["version"], newest(root)
    cited = re.search(r"^version: (\S+)$", (root / "CITATION.cff").read_text(encoding="utf-8"), re.MULTILINE)
    if cited is None or cited[1] != version:
        yield f"CITATION.cff must say version: {version}, as pyproject.toml, and says {cited and cited[1]}"
    if f"version = {{{version}}}" not in (root / "README.md").read_text(encoding="utf-8"):
        yield f"README.md must cite version = {{{version}}}, as pyproject.toml has it"
    if first.version not in (version, UNRELEASED):
        yield f"CHANGELOG.md must begin with `## {version} - DATE` or `## {UNRELEASED}`, and with {first.version}"
    if older and Version(older[0].version) >= Version(version):
        yield f"the version must be above {older[0].version}, the last in CHANGELOG.md, and is {version}"
    yield from first.problems()


def lock_problems(root: Path) -> Iterator[str]:
    """Yield where pyproject.toml, the lock and what is installed here differ."""
    lock = (root / "requirements" / "core.txt").read_text(encoding="utf-8")
    locked = {canonicalize_name(name): version for name, version in re.findall(r"^([\w.-]+)==([\w.]+)", lock, re.M)}
    for line in project_of(root)["dependencies"]:
        asked = Requirement(line)
        found = locked.get(canonicalize_name(asked.name))
        if asked.name == "torch":  # in a list of its own
            found = re.search(r"^torch==(\S+)", (root / "requirements" / "torch.txt").read_text("utf-8"), re.M)[1]
        if found is None or not asked.specifier.contains(found):
            yield f"requirements/core.txt must have {line}, and has {found}: run make lock"
    spec = importlib.util.spec_from_file_location("newer", root / ".ci" / "newer.py")
    newer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(newer)
    others = list(newer.differences((root / "requirements" / "test.txt").read_text(encoding="utf-8")))
    if others:
        yield f"the tests must have run on the lock, and installed is {'; '.join(others)}: run make test"


def require_clone(root: Path) -> None:
    """Raise SystemExit unless a folder is a clone, rather than a folder in another, as an unpacked sdist may be."""
    try:
        top = git(root, "rev-parse", "--show-toplevel")
    except (OSError, subprocess.CalledProcessError) as error:  # no git, or no repository
        raise SystemExit(f"a release is made in a clone, with git, and {root} cannot be read as one: {error}") from None
    if Path(top).resolve() != root.resolve():
        raise SystemExit(f"a release is made in a clone, and {root} lies in another, {top}")


def archive_problems() -> Iterator[str]:
    """Yield what is wrong with the archives of the last commit."""
    with TemporaryDirectory(prefix="release-") as name:
        sdist, wheel = archives.build(archives.export(Path(name) / "source"), Path(name) / "dist")
        yield from archives.wheel_problems(wheel)
        yield from archives.sdist_problems(sdist)


def to_do(root: Path) -> list[str]:
    """Return what is no fault and must still happen before the tag."""
    version, first = project_of(root)["version"], newest(root)[0]
    return [f"rename `## {UNRELEASED}` of CHANGELOG.md to `## {version} - DATE`"] * (first.version == UNRELEASED)


def tag(root: Path) -> str:
    """Make the annotated tag, whose text is the notes; return its name."""
    version, first = project_of(root)["version"], newest(root)[0]
    text = f"prophet-gym {version}\n\n{first.text}\n"
    # By default git would take the headings of the notes for comments.
    git(root, "tag", "--annotate", f"v{version}", "--cleanup=whitespace", "--message", text)
    return f"v{version}"


def main(args: Args) -> None:
    """Print every check, the notes, what is left to do, and the command of the tag."""
    root, wrong = archives.ROOT, 0
    require_clone(root)
    checks = {
        "working tree": tree_problems(root),
        "version and changelog": version_problems(root),
        "lock": lock_problems(root),
        "wheel and sdist": archive_problems(),
    }
    for name, problems in checks.items():
        found = list(problems)
        wrong += len(found)
        print(
            "\n".join([f"{'wrong' if found else 'good '}  {name}", *(f"       {each}" for each in found)]), flush=True
        )
    first, version = newest(root)[0], project_of(root)["version"]
    print(f"\nNotes of {version}:\n\n{first.text}\n")
    left = to_do(root)
    for each in left:
        print(f"to do: {each}")
    if wrong or (args.tag and left):
        print(f"{version} cannot be released: {wrong} wrong, {len(left)} to do", file=sys.stderr)
        raise SystemExit(1)
    if args.tag:
        print(f"made the tag {tag(root)}; `git push origin {BRANCH} v{version}` publishes it")
    else:
        print(f"then: python -m benchmarks.release --tag && git push origin {BRANCH} v{version}")


if __name__ == "__main__":
    main(tyro.cli(Args))
