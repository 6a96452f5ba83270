"""Runs of `prophrl train` on the bandit, and a browser."""

import shutil

import pytest

from prophrl_algos.cli import main
from tests.browser import CHROMIUM, chromium

BANDIT = [
    "train",
    "--policy",
    "benchmarks.toys:tiny",
    "--env",
    "tests.prophrl_algos.report.bandit:Bandit-v0",
    "--device",
    "cpu",
]


def train(out, *words, updates=20):
    sizes = [
        "--config.groups",
        "2",
        "--config.group-size",
        "4",
        "--config.minibatches",
        "2",
        "--evaluate-episodes",
        "4",
    ]
    main([*BANDIT, *sizes, "--config.updates", str(updates), "--evaluate-every", "4", "--out", str(out), *words])
    return out


@pytest.fixture(scope="session")
def runs(tmp_path_factory):
    """Three seeds of one algorithm and a run of another; not to be changed."""
    folder = tmp_path_factory.mktemp("runs")
    seeds = [train(folder / f"fa-{seed}", "--config.seed", str(seed)) for seed in range(3)]
    return [*seeds, train(folder / "flow", "--algo", "flow-grpo")]


@pytest.fixture
def run(runs, tmp_path):
    """A copy of a run."""
    return shutil.copytree(runs[0], tmp_path / "run")


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """`browser.open(path, width)`; skipped where there is no Chromium."""
    if CHROMIUM is None:
        pytest.skip("needs Chromium, which no requirement brings: apt-get install chromium")
    with chromium(tmp_path_factory.mktemp("profile")) as page:
        yield page
