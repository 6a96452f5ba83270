"""The code of the pages runs, from top to bottom; each block of the libraries' page by itself."""

import re
import socket
import sys
from pathlib import Path

import pytest

from prophet_gym.checkpoint import bundled_checkpoints
from prophet_gym.sims import simulator

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"```python\n(.*?)```", re.DOTALL)
FILE = re.compile(r"# (\w+\.py)\n")
"""A block that begins so is that file of the reader's."""
TUTORIALS = {"reward": ["stable_baselines3"], "algorithm": [], "simulator": [], "machines": []}
"""Pages of docs/how-to, and the libraries that they need."""
LIBRARIES = {"stable_baselines3": ["stable_baselines3"], "torchrl": ["torchrl"], "minari": ["minari", "jax"]}
pytestmark = [
    pytest.mark.skipif(not bundled_checkpoints().get("libero_small"), reason="no checkpoint is bundled"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::ResourceWarning"),
]


def blocks(page: str) -> list[str]:
    return BLOCK.findall((ROOT / "docs" / page).read_text())


def test_the_second_program_of_the_readme_learns():
    pytest.importorskip("stable_baselines3")
    scope: dict = {}
    exec(compile(BLOCK.findall((ROOT / "README.md").read_text())[1], "README.md", "exec"), scope)
    assert scope["envs"].num_envs == 2


def test_the_page_of_the_envs_runs():
    scope: dict = {}
    for code in blocks("envs.md"):
        exec(compile(code, "envs.md", "exec"), scope)
    assert scope["envs"].num_envs == 2


def test_the_page_of_the_algorithms_runs():
    scope: dict = {}
    for code in blocks("algorithms.md"):
        exec(compile(code, "algorithms.md", "exec"), scope)
    assert scope["metrics"]["rollouts"] == 4
    assert scope["trainer"].iterate()["groups_started"] == 2  # the first taught nothing and was replaced


def no_network(self, address):
    raise AssertionError(f"a tutorial reached for {address}")


@pytest.mark.parametrize("page", TUTORIALS)
def test_a_tutorial_runs(page, tmp_path, monkeypatch):
    for library in TUTORIALS[page]:
        pytest.importorskip(library)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(socket.socket, "connect", no_network)
    monkeypatch.setattr("prophet_gym.sims.simulator._REGISTERED", {**simulator._REGISTERED})
    before, scope = set(sys.modules), {"__name__": "page"}
    found = blocks(f"how-to/{page}.md")
    assert found
    for code in found:
        if file := FILE.match(code):
            Path(file[1]).write_text(code)
        else:
            exec(compile(code, f"{page}.md", "exec"), scope)
    for name in set(sys.modules) - before:
        if getattr(sys.modules[name], "__file__", None) and sys.modules[name].__file__.startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize("code", blocks("libraries.md"), ids=range(len(blocks("libraries.md"))))
def test_each_library_of_the_page_runs(code, tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    for name in (module for word, needed in LIBRARIES.items() if word in code for module in needed):
        pytest.importorskip(name)
    scope: dict = {}
    exec(compile(code, "libraries.md", "exec"), scope)
    assert "env" in scope or "envs" in scope
