"""A run that is killed ends as one that was not; logs and checkpoints are whole."""

import csv
import multiprocessing
import os
import random
import signal
import time

import pytest
import torch

from benchmarks.toys import BanditVectorEnv, TinyFlowPolicy
from prophet_gym.errors import CheckpointError, UnknownOptionError
from prophrl_algos._checkpoint import BEST, LAST, load_checkpoint, save_checkpoint
from prophrl_algos._loggers import CsvLogger, Logger, make_logger, run_name
from prophrl_algos._named import read_weights
from prophrl_algos.algorithms import REINFLOW, FlowScale
from prophrl_algos.flow import FlowSpec
from prophrl_algos.rollout import Grouping
from prophrl_algos.run import run
from prophrl_algos.trainer import Trainer, TrainerConfig

SPEC = FlowSpec(horizon=1, latent_dim=2, action_dim=2, exec_steps=1, num_steps=3)


def make(updates=6, **config):
    torch.manual_seed(0)
    policy = TinyFlowPolicy(SPEC, hidden=8)
    optimizer = torch.optim.AdamW(policy.parameters(), lr=3e-3)
    settings = TrainerConfig(updates=updates, groups=2, group_size=4, epochs=2, beta=0.0, **config)
    return Trainer(policy, optimizer, BanditVectorEnv(8), settings)


def make_rich(dream, tiny, reward_model):
    """All that has a state: learned noise, a reference, groups that are resampled in a dream."""
    torch.manual_seed(0)
    policy = tiny()
    algorithm = REINFLOW.sized(policy.spec)
    optimizer = torch.optim.AdamW([*policy.parameters(), *algorithm.kernel.parameters()], lr=3e-3)
    config = TrainerConfig(updates=6, groups=2, group_size=4, epochs=2, minibatches=2, beta=0.1)
    return Trainer(
        policy,
        optimizer,
        dream(reward_model=reward_model(level=50), max_episode_steps=2),
        config,
        algorithm=algorithm,
        grouping=Grouping(keep=(0.1, 0.9)),
    )


def final(folder):
    return load_checkpoint(folder / LAST)["trainer"]


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(same(*pair) for pair in zip(one, other, strict=True))
    return one == other


@pytest.mark.parametrize("rich", [False, True])
def test_a_run_in_two_parts_is_the_whole_run_to_the_bit(tmp_path, dream, tiny, reward_model, rich):
    def begin():
        return make_rich(dream, tiny, reward_model) if rich else make()

    run(begin(), tmp_path / "whole")
    stopped = begin()

    class StopError(Exception):
        pass

    class Stopper(Logger):
        def log(self, metrics, update):
            if update == 3:
                raise StopError

    with pytest.raises(StopError):
        run(stopped, tmp_path / "parts", loggers=[Stopper()])
    assert final(tmp_path / "parts")["done"] == 3
    run(begin(), tmp_path / "parts")
    assert not same(final(tmp_path / "whole")["policy"], begin().policy.state_dict())
    assert same(final(tmp_path / "whole"), final(tmp_path / "parts"))


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
def test_killed_ten_times_at_random_moments_it_ends_with_the_same_weights(tmp_path):
    updates, folder, draw = 40, tmp_path / "killed", random.Random(0)
    began = time.perf_counter()
    run(make(updates), tmp_path / "whole")
    whole = time.perf_counter() - began
    exits, fork = [], multiprocessing.get_context("fork")
    for _ in range(10):
        process = fork.Process(target=run, args=(make(updates), folder))
        process.start()
        time.sleep(draw.uniform(0, whole / 6))
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        exits.append(process.exitcode)
        assert not (folder / LAST).exists() or final(folder)["done"] <= updates
    assert exits.count(-signal.SIGKILL) >= 5, exits
    run(make(updates), folder)
    assert same(final(tmp_path / "whole"), final(folder))


def test_a_checkpoint_is_replaced_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "a.pt"
    save_checkpoint(path, {"value": 1})

    def broken(*args):
        raise OSError("the disk is full")

    monkeypatch.setattr(os, "fsync", broken)
    with pytest.raises(OSError, match="the disk is full"):
        save_checkpoint(path, {"value": 2})
    assert load_checkpoint(path)["value"] == 1


def test_a_damaged_or_foreign_checkpoint_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "a.pt"
    path.write_bytes(b"half a file")
    with pytest.raises(CheckpointError, match=r"cannot read .*a\.pt.*delete it to start again"):
        load_checkpoint(path)
    torch.save({"weights": 1}, path)
    with pytest.raises(CheckpointError, match="is no checkpoint of the trainer"):
        load_checkpoint(path)


def test_a_run_of_an_earlier_version_is_refused_and_its_weights_still_load(tmp_path):
    run(make(updates=1), tmp_path)
    state = torch.load(tmp_path / LAST, weights_only=True)
    torch.save(state | {"format": "prophrl-trainer-1"}, tmp_path / LAST)
    with pytest.raises(CheckpointError, match=r"last\.pt was written by an earlier version.*start in another folder"):
        run(make(updates=2), tmp_path)
    assert same(read_weights(tmp_path), state["trainer"]["policy"])


def test_another_configuration_is_refused(tmp_path):
    run(make(updates=1), tmp_path)
    with pytest.raises(ValueError, match=r"clip_low was 0.2, is 0.1; use another folder"):
        run(make(updates=1, clip_low=0.1), tmp_path)
    other = make(updates=1)
    other.flowscale = FlowScale(alpha=0.25)
    with pytest.raises(ValueError, match=r"flowscale was .*'alpha': 1.0.*, is .*'alpha': 0.25"):
        run(other, tmp_path)
    run(make(updates=2), tmp_path)
    assert final(tmp_path)["done"] == 2


def test_the_best_evaluation_is_kept(tmp_path):
    scores, seen = iter([0.2, 0.9, 0.4]), []
    trainer = make(updates=6)

    def evaluate():
        seen.append(torch.cat([weight.detach().flatten().clone() for weight in trainer.policy.parameters()]))
        return {"success": next(scores)}

    run(trainer, tmp_path, evaluate=evaluate, evaluate_every=2, loggers=[CsvLogger(tmp_path / "metrics.csv")])
    best = load_checkpoint(tmp_path / BEST)
    assert (best["score"], best["updates"]) == (0.9, 4)
    stored = torch.cat([tensor.flatten() for tensor in best["policy"].values()])
    assert torch.equal(stored, seen[1])
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["update"] for row in rows] == list("012345")
    assert [row["evaluation/success"] for row in rows] == ["", "0.2", "", "0.9", "", "0.4"]
    assert float(rows[0]["ratio_mean"]) > 0


def test_a_csv_forgets_what_a_killed_run_logged_too_far(tmp_path):
    path = tmp_path / "metrics.csv"
    first = CsvLogger(path)
    for update in range(4):
        first.log({"return": 0.1 * update}, update)
    again = CsvLogger(path)
    again.log({"return": 9.0, "new": 1.0}, 2)
    with path.open() as file:
        rows = list(csv.DictReader(file))
    assert [(row["update"], row["return"], row["new"]) for row in rows] == [
        ("0", "0.0", ""),
        ("1", "0.1", ""),
        ("2", "9.0", "1.0"),
    ]


def test_tensorboard_gets_every_number_and_forgets_what_a_killed_run_logged_too_far(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = make_logger("tensorboard", tmp_path)
    logger.log({"return": 0.5}, 0)
    logger.log({"return": 0.25}, 1)
    logger.close()
    again = make_logger("tensorboard", tmp_path, done=1)
    again.log({"return": 0.75}, 1)
    again.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("return")] == [(0, 0.5), (1, 0.75)]


@pytest.mark.filterwarnings("ignore")
def test_weights_and_biases_gets_every_number_under_one_run(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    wandb, folder = pytest.importorskip("wandb"), tmp_path / "rl"
    for updates in ((0, 1), (1, 2)):
        logger = make_logger("wandb", folder)
        for update in updates:
            logger.log({"return": update / 4, "flow_gradient/00": 2.0}, update)
        assert wandb.run.id == run_name(folder)
        summary = wandb.run.summary
        assert (summary["return"], summary["flow_gradient/00"]) == (updates[-1] / 4, 2.0)
        assert summary["_step"] == updates[-1]
        logger.close()
    assert len(list(folder.glob("wandb/offline-run-*"))) >= 1


@pytest.mark.filterwarnings("ignore")
def test_trackio_gets_every_number_under_one_run(tmp_path, monkeypatch):
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))
    pytest.importorskip("trackio")
    from trackio.sqlite_storage import SQLiteStorage

    folder, seen = tmp_path / "rl", {}
    for updates in ((0, 1), (1, 2)):
        logger = make_logger("trackio", folder)
        for update in updates:
            logger.log({"return": update / 4, "flow_gradient/00": 2.0}, update)
        logger.close()
    for row in SQLiteStorage.get_logs("prophrl", run_name(folder)):
        assert seen.setdefault(row["step"], row["return"]) == row["return"]
        assert row["flow_gradient/00"] == 2.0
    assert seen == {0: 0.0, 1: 0.25, 2: 0.5}


def test_a_run_keeps_its_name_and_shares_it_with_no_other_folder(tmp_path):
    one, other = tmp_path / "a" / "rl", tmp_path / "b" / "rl"
    assert run_name(one) == run_name(one) != run_name(other)
    assert run_name(one).startswith("rl-")


def test_an_unknown_logger_is_refused(tmp_path):
    with pytest.raises(UnknownOptionError, match=r"unknown logger 'tensorbord'.*Did you mean 'tensorboard'"):
        make_logger("tensorbord", tmp_path)
