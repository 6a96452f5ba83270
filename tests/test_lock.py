"""The lock covers what pyproject.toml asks for, names every file by its hash, and is one list for all targets."""

import importlib.util
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
LISTS = sorted(path.stem for path in (ROOT / "requirements").glob("*.txt") if path.stem != "torch")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def locked(name):
    """{release: [its requirement for each platform]}, each with its hashes."""
    text = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
    found = {}
    for entry in re.split(r"\n(?=\S)", text.partition("make lock\n")[2]):
        line, *hashes = (part.strip() for part in entry.split("\\\n"))
        requirement = Requirement(line)
        assert hashes, f"{name}: {line} has no hash"
        assert all(re.fullmatch(r"--hash=sha256:[0-9a-f]{64}", each) for each in hashes), line
        found.setdefault(canonicalize_name(requirement.name), []).append(requirement)
    return found


def versions(requirement):
    return {specifier.version for specifier in requirement.specifier if specifier.operator == "=="}


@pytest.mark.parametrize("name", LISTS)
def test_every_release_is_exact_and_torch_with_its_builds_is_left_to_its_own_list(name):
    for release, requirements in locked(name).items():
        assert all(len(versions(each)) == 1 for each in requirements), release
        assert not re.match(r"torch$|triton$|nvidia-|cuda-", release)


def test_what_pyproject_allows_holds_of_every_locked_release():
    lock = locked("docs") | locked("test")
    extras = PROJECT["optional-dependencies"]
    asked = [*PROJECT["dependencies"], *(each for extra in extras if extra != "lerobot" for each in extras[extra])]
    for each in map(Requirement, asked):
        if each.name == "torch":
            continue
        for requirement in lock[canonicalize_name(each.name)]:
            assert each.specifier.contains(*versions(requirement)), f"{requirement} is not within {each}"


def test_a_demo_is_made_with_what_the_tests_ran_on():
    tested = locked("test")
    for name in ("core", "build"):
        for release, requirements in locked(name).items():
            used, tried = (set().union(*map(versions, each)) for each in (requirements, tested[release]))
            assert used <= tried, release


def test_the_site_and_the_notebooks_are_made_beside_what_the_tests_ran_on():
    tested, asked = locked("test"), (ROOT / "requirements" / "docs.in").read_text(encoding="utf-8").splitlines()
    assert asked[1:] == [each for extra in ("docs", "notebook") for each in PROJECT["optional-dependencies"][extra]]
    for release, requirements in locked("docs").items():
        others = tested.get(release, requirements)
        assert set().union(*map(versions, requirements)) <= set().union(*map(versions, others)), release


def test_what_is_installed_is_compared_with_the_release_for_this_python():
    path = ROOT / ".ci" / "newer.py"
    spec = importlib.util.spec_from_file_location("newer", path)
    newer = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(newer)
    lock = (
        "numpy==2.4.6 ; python_full_version < '3.5' \\\n    --hash=sha256:00\n"
        "numpy==2.5.5 ; python_full_version >= '3.5' \\\n    --hash=sha256:00\npip==1.0 \\\n    --hash=sha256:00\n"
    )
    assert list(newer.differences(lock, {"numpy": "2.5.5", "pip": "1.0"}.__getitem__)) == []
    assert list(newer.differences(lock, {"numpy": "2.6", "pip": "1.0"}.__getitem__)) == ["numpy 2.5.5 -> 2.6"]
