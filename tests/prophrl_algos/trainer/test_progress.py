"""Progress of a run and inside its updates, and how it is shown."""

import re
from typing import ClassVar

import pytest
import torch

from benchmarks.toys import BanditVectorEnv
from prophrl_algos.evaluate import evaluate
from prophrl_algos.rollout import _collect
from prophrl_algos.run import run
from prophrl_algos.trainer import Trainer, TrainerConfig


class Bar(_collect.tqdm):
    """A bar that is drawn at once, and never too often."""

    made: ClassVar = []

    def __init__(self, **how):
        super().__init__(**how | {"delay": 0, "mininterval": 0, "miniters": 1})
        self.made.append(self)


@pytest.fixture
def bars(monkeypatch):
    monkeypatch.setattr(_collect, "tqdm", Bar)
    monkeypatch.setattr(Bar, "made", [])
    return Bar.made


def test_an_update_tells_of_its_rollouts_scores_and_steps(dream, tiny, reward_model, bars):
    policy = tiny()
    config = TrainerConfig(groups=4, group_size=4, beta=0.0, epochs=2, minibatches=2)
    env = dream(reward_model=reward_model(level=20))
    Trainer(policy, torch.optim.AdamW(policy.parameters()), env, config, autocast=torch.bfloat16).iterate()
    # 4 groups, 2 at once, of at most 3 chunks each; scores are made again in low precision.
    assert [(bar.desc, bar.total) for bar in bars] == [("rollouts", 6), ("scoring", 2), ("optimizer", 4)]
    assert 0 < bars[0].n <= 6
    assert [bar.n for bar in bars[1:]] == [2, 4]


def test_an_evaluation_tells_how_many_episodes_have_ended(dream, tiny, reward_model, bars):
    evaluate(tiny(), dream(4, reward_model=reward_model(level=200)), 6)
    assert [(bar.desc, bar.n, bar.total) for bar in bars] == [("evaluation", 6, 6)]


def test_what_is_soon_done_is_not_shown_and_a_file_is_not_filled(capsys):
    with _collect.progress_bar("rollouts", 1000, "chunk") as bar:
        for _ in range(1000):
            bar.update()
    assert capsys.readouterr().err == ""
    with _collect.progress_bar("train", 1000, "update", stays=True) as bar:
        for _ in range(1000):
            bar.update()
    assert capsys.readouterr().err.count("train") <= 2


def test_a_run_shows_its_updates_what_matters_and_the_work_inside(tmp_path, tiny, capsys, bars):
    policy = tiny(horizon=1, latent_dim=2, exec_steps=1)
    config = TrainerConfig(updates=2, groups=2, group_size=4, beta=0.0)
    run(Trainer(policy, torch.optim.AdamW(policy.parameters()), BanditVectorEnv(8), config), tmp_path)
    shown = capsys.readouterr().err
    assert re.search(r"train: 100%.*2/2 \[\d+:\d+<\d+:\d+.*return=.*success=.*ratio_max=", shown)
    assert "rollouts: 100%" in shown
    assert "optimizer: 100%" in shown
