"""Progress of a run and inside its updates, and how it is shown."""

import os
import re
from typing import ClassVar

import pytest
import torch

from benchmarks.toys import BanditVectorEnv
from prophet_gym._io import progress as bars_of_ours
from prophet_gym._io.progress import progress, quiet
from prophrl_algos.evaluate import evaluate
from prophrl_algos.run import run
from prophrl_algos.trainer import Trainer, TrainerConfig


class Bar(bars_of_ours.tqdm):
    """A bar that is drawn at once, and never too often."""

    made: ClassVar = []

    def __init__(self, what, **how):
        super().__init__(what, **how | {"delay": 0, "mininterval": 0, "miniters": 1})
        self.made.append(self)


@pytest.fixture
def bars(monkeypatch):
    monkeypatch.setattr(bars_of_ours, "tqdm", Bar)
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
    with progress(None, "rollouts", total=1000, unit="chunk", passing=True) as bar:
        for _ in range(1000):
            bar.update()
    assert capsys.readouterr().err == ""
    with progress(None, "train", total=1000, unit="update") as bar:
        for _ in range(1000):
            bar.update()
    assert capsys.readouterr().err.count("train") <= 2


def test_who_asks_for_quiet_sees_no_bar_and_neither_do_processes_begun_meanwhile(capsys, monkeypatch):
    monkeypatch.delenv("TQDM_DISABLE", raising=False)
    with quiet():
        assert list(progress(range(3), "train")) == [0, 1, 2]
        assert os.environ["TQDM_DISABLE"] == "1"
    assert capsys.readouterr().err == ""
    assert "TQDM_DISABLE" not in os.environ
    list(progress(range(3), "train"))
    assert "train" in capsys.readouterr().err


def test_a_run_shows_its_updates_what_matters_and_the_work_inside(tmp_path, tiny, capsys, bars):
    policy = tiny(horizon=1, latent_dim=2, exec_steps=1)
    config = TrainerConfig(updates=2, groups=2, group_size=4, beta=0.0)
    run(Trainer(policy, torch.optim.AdamW(policy.parameters()), BanditVectorEnv(8), config), tmp_path)
    shown = capsys.readouterr().err
    assert re.search(r"train: 100%.*2/2 \[\d+:\d+<\d+:\d+.*return=.*success=.*ratio_max=", shown)
    assert "rollouts: 100%" in shown
    assert "optimizer: 100%" in shown
