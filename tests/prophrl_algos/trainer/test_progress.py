"""Progress inside an update and an evaluation, and how it is shown."""

import re

import torch

from benchmarks.toys import BanditVectorEnv
from prophrl_algos._loggers import TerminalLogger
from prophrl_algos.evaluate import evaluate
from prophrl_algos.run import run
from prophrl_algos.trainer import Execution, Trainer, TrainerConfig


def test_an_update_tells_of_its_rollouts_scores_and_steps(dream, tiny, reward_model):
    policy, told = tiny(), []
    config = TrainerConfig(groups=4, group_size=4, beta=0.0, epochs=2, minibatches=2)
    # A policy in float64 is scored again, so that this stage is there too.
    trainer = Trainer(
        policy,
        torch.optim.AdamW(policy.parameters()),
        dream(reward_model=reward_model(level=20)),
        config,
        execution=Execution(autocast=torch.bfloat16),
    )
    trainer.progress = lambda *call: told.append(call)
    trainer.iterate()
    stages = [re.sub(r"\d+ of", "N of", stage) for stage, _, _ in told]
    assert list(dict.fromkeys(stages)) == ["rollouts, N of 4 groups, chunk", "scoring, batch", "optimizer, step"]
    rollouts = [call for call in told if call[0].startswith("rollouts")]
    assert [done for _, done, _ in rollouts] == list(range(1, len(rollouts) + 1))
    # 4 groups, 2 at once, of 3 chunks each.
    assert {total for _, _, total in rollouts} == {6}
    assert rollouts[-1][0].startswith("rollouts, 4 of 4")
    assert [call[1:] for call in told if call[0].startswith("optimizer")] == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_an_evaluation_tells_how_many_episodes_have_ended(dream, tiny, reward_model):
    told = []
    evaluate(tiny(), dream(4, reward_model=reward_model(level=200)), 6, progress=lambda *call: told.append(call))
    assert told[-1] == ("episodes", 6, 6)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    assert (4, 6) in {call[1:] for call in told}


def test_the_terminal_says_what_is_done_and_how_long_it_takes(capsys):
    logger = TerminalLogger(2, every=0)
    for chunk in range(1, 4):
        logger.progress("rollouts, 0 of 8 groups, chunk", chunk, 30)
    logger.progress("optimizer, step", 1, 4)
    logger.progress("waiting, chunk", 1, None)
    logger.log({"return": 0.5}, 0)
    logger.progress("rollouts, 0 of 8 groups, chunk", 1, 30)
    logger.close()
    shown = capsys.readouterr().err
    assert re.search(r"update 1: rollouts, 0 of 8 groups, chunk 3 of 30, \d\d:\d\d left at most", shown)
    assert "update 1: optimizer, step 1 of 4:" in shown
    assert "update 1: waiting, chunk 1:" in shown
    assert "update 2: rollouts, 0 of 8 groups, chunk 1 of 30:" in shown


def test_it_does_not_fill_a_log_file(capsys):
    logger = TerminalLogger(1)
    for chunk in range(1000):
        logger.progress("rollouts, chunk", chunk, 1000)
    logger.close()
    assert capsys.readouterr().err.count("rollouts") <= 1


def test_a_run_tells_the_loggers_that_show_it(tmp_path, tiny, capsys):
    policy = tiny(horizon=1, latent_dim=2, exec_steps=1)
    trainer = Trainer(
        policy,
        torch.optim.AdamW(policy.parameters()),
        BanditVectorEnv(8),
        TrainerConfig(updates=2, groups=2, group_size=4, beta=0.0),
    )
    run(trainer, tmp_path, loggers=[TerminalLogger(2, every=0)])
    shown = capsys.readouterr().err
    assert "update 1: rollouts, 2 of 2 groups, chunk 1" in shown
    assert "update 2: optimizer, step 1 of 1" in shown
