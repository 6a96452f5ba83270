"""A program of somebody else, written for this minor version, runs unchanged, or the version rises."""

import ast
import hashlib
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from docs.website.api import promises
from prophet_gym.checkpoint import bundled_checkpoints

ROOT, HERE = Path(__file__).parents[2], Path(__file__).parent
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
FROZEN = {"0.1": "4a6d5b4458056429514a9b216ab1c3532cbabe31e0a5fc3751efc2ce81ca21ad"}
"""Minor version -> sha-256 of its program. A line is added when a minor version begins, and never changed after it."""


def name_of(minor: str) -> str:
    return f"outside_v{minor.replace('.', '_')}.py"


def broken_promise(version: str, digests: dict[str, str]) -> str | None:
    """What is wrong with the program of a version, given the digests of the files that there are."""
    minor = ".".join(version.split(".")[:2])
    name = name_of(minor)
    if minor not in FROZEN:
        return (
            f"{version} begins a minor version: write {name}, a program with names of docs/api.md alone, and put its "
            f"sha-256 into FROZEN. What {name_of(list(FROZEN)[-1])} could do and it cannot is named in CHANGELOG.md"
        )
    if digests.get(name) != FROZEN[minor]:
        return (
            f"tests/compatibility/{name} is what users of {minor} have written, and it was changed: put it back and "
            "let the package run it. Where it cannot, the change begins a new minor version: raise it in "
            "pyproject.toml and CITATION.cff, say in CHANGELOG.md what replaces what, and add a program for it here"
        )
    return None


DIGESTS = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in HERE.glob("outside_v*.py")}
SCRIPT = HERE / name_of(".".join(VERSION.split(".")[:2]))


def test_the_program_of_this_version_is_frozen():
    assert (problem := broken_promise(VERSION, DIGESTS)) is None, problem


def test_a_changed_program_or_a_new_minor_version_says_the_rule():
    assert broken_promise("0.1.7", DIGESTS) is None
    assert "was changed: put it back" in (broken_promise("0.1.0", {**DIGESTS, name_of("0.1"): "other"}) or "")
    assert "was changed" in (broken_promise("0.1.0", {}) or "")
    assert "begins a minor version: write outside_v0_9.py" in (broken_promise("0.9.0", DIGESTS) or "")


def unpromised(source: str) -> list[str]:
    """Names of our packages that a program imports and docs/api.md does not promise."""
    promised, found = {(each.module, each.name) for each in promises()}, []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found += [a.name for a in node.names if a.name.startswith(("prophet_gym.", "prophrl_algos"))]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith(("prophet_gym", "prophrl_algos")):
            found += [f"{node.module}.{a.name}" for a in node.names if (node.module, a.name) not in promised]
    return found


def test_the_program_uses_only_what_is_promised():
    assert unpromised(SCRIPT.read_text(encoding="utf-8")) == []
    assert unpromised("from prophet_gym.envs import ProphetEnv, _private") == ["prophet_gym.envs._private"]
    assert unpromised("from prophrl_algos.rollout import Grouping") == ["prophrl_algos.rollout.Grouping"]
    assert unpromised("import prophet_gym, prophet_gym.prophet") == ["prophet_gym.prophet"]


@pytest.mark.slow
@pytest.mark.skipif(not bundled_checkpoints().get("libero_small"), reason="no checkpoint is bundled")
def test_the_program_runs_unchanged(tmp_path):
    env = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    words = [sys.executable, "-W", "error::DeprecationWarning:__main__", SCRIPT, tmp_path / "made"]
    done = subprocess.run(words, cwd=tmp_path, env=env, check=False, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-4000:]
    made = {path.name for path in (tmp_path / "made").iterdir()}
    assert {"states", "run", "policy"} <= made
