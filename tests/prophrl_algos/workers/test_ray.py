"""Workers of Ray collect what this process would, and what goes wrong has a name."""

import logging
import os
import re
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks.toys import BanditVectorEnv
from benchmarks.workers.chaos import MARK, differences, killed_run, left_behind, marked, problems
from benchmarks.workers.chaos import Args as Chaos
from benchmarks.workers.toy import GROUPS, SlowBanditVectorEnv, make, processes_of, run_to, trainer_of, twice_or_lost
from prophet_gym.errors import ProcessLostError
from prophrl_algos._checkpoint import LAST, load_checkpoint
from prophrl_algos.algorithms import FA_GRPO_FORWARD
from prophrl_algos.cli import main
from prophrl_algos.rollout import RayOptions, RayRollouts
from prophrl_algos.rollout._cluster import (
    Cluster,
    learner_last,
    others_first,
    require_gpus,
    require_same,
    require_shared_memory,
)
from prophrl_algos.trainer import Trainer, TrainerConfig

# What a test starts is ray's, and its sockets and forks are too.
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]
STORE = 128 * 2**20
CONFIG = TrainerConfig(updates=3, groups=GROUPS, group_size=4, beta=0.0)
DREAM = [
    "train", "--policy", "small-k4", "--policy-weights", "SmallVLA-LIBERO-object-sft", "--tasks", "3",
    "--env", "benchmarks.workers.dream:Prophet-Short-v0", "--reward", "benchmarks.workers.dream:brightness",
    "--device", "cpu", "--engine", "eager", "--loggers", "csv", "--config.groups", "2", "--config.group-size", "2",
    "--config.updates",
]  # fmt: skip


@pytest.fixture(scope="module")
def cluster():
    """One cluster for the tests of this file, with room for two workers."""
    mark = marked()
    started = Cluster(RayOptions(workers=2), STORE)
    yield started.ray
    started.close()
    end = time.monotonic() + 60
    while left := left_behind(mark):
        assert time.monotonic() < end, left
        time.sleep(0.5)


def iterate(trainer, updates=3):
    """The trainer's state after some updates, and the metrics of each."""
    try:
        metrics = [trainer.iterate() for _ in range(updates)]
        return trainer.state_dict(), metrics
    finally:
        if isinstance(trainer.collector, RayRollouts):
            trainer.collector.close()


@pytest.fixture
def one_thread():
    """As many threads as a worker has: sums of more differ in their last bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("one_thread")
def test_one_worker_is_the_local_run_to_the_bit_on_the_bundled_dream(cluster, tmp_path):
    for rollouts in ("local", "ray"):
        main([*DREAM, "3", "--rollouts", rollouts, "--out", str(tmp_path / rollouts)])
    local, ray = (load_checkpoint(tmp_path / each / LAST)["trainer"] for each in ("local", "ray"))
    ledger = ray.pop("collector")["ledger"]
    assert local.pop("collector") == {}
    assert differences(local, ray) == []
    assert differences(local["reference"], local["policy"]), "nothing was learned"
    assert ledger.tolist() == [[update, group, 0, update, 1] for update in range(3) for group in range(2)]
    # A run may be continued by either.
    main([*DREAM, "4", "--rollouts", "local", "--out", str(tmp_path / "ray")])
    assert load_checkpoint(tmp_path / "ray" / LAST)["trainer"]["done"] == 4


def test_two_workers_are_the_same_tasks_in_turn_though_workers_die(cluster, caplog):
    whole, _ = iterate(trainer_of(CONFIG, None), 4)
    trainer, metrics = trainer_of(CONFIG, RayOptions(workers=2), partial(make, 0.1)), []
    with trainer.collector, caplog.at_level(logging.WARNING):
        for _ in range(3):
            metrics.append(trainer.iterate())
            processes_of(os.getpid())[0].kill()
        metrics.append(trainer.iterate())
        ended = trainer.state_dict()
    assert twice_or_lost(ended["collector"]["ledger"], 4, GROUPS) == []
    assert [differences(whole[name], ended[name]) for name in ("policy", "optimizer")] == [[], []]
    assert sum(each["workers_lost"] for each in metrics) == sum("was lost: " in text for text in caplog.messages) >= 2
    assert any(" are queued again" in text for text in caplog.messages)


def test_rollouts_are_as_stale_as_they_may_be_and_scored_by_who_acted(cluster):
    options = RayOptions(workers=2, max_staleness=1)
    trainer = trainer_of(TrainerConfig(groups=GROUPS, group_size=4, beta=0.0), options, partial(make, 0.05))
    state, metrics = iterate(trainer, 6)
    ledger = state["collector"]["ledger"]
    stale = ledger[:, 0] - ledger[:, 3]
    assert twice_or_lost(ledger, 6, GROUPS) == []
    assert 0 <= int(stale.min()) <= int(stale.max()) == 1
    means = stale.float().view(6, GROUPS).mean(1).tolist()
    assert [each["staleness"] for each in metrics] == means
    # A policy that has learned since gives other densities than the one that acted; one that has not, the same.
    assert [abs(each["ratio_max"] - 1) < 1e-4 for each in metrics] == [mean == 0 for mean in means]


def test_an_algorithm_that_asks_the_acting_policy_again_refuses_stale_rollouts(tmp_path, capsys):
    stale = ["--rollouts", "ray", "--max-staleness", "1", "--algo", FA_GRPO_FORWARD.name]
    with pytest.raises(SystemExit):
        main([*DREAM, "1", *stale, "--out", str(tmp_path)])
    assert "needs the policy that acted: give max_staleness=0, not 1" in capsys.readouterr().err


def broken():
    raise ValueError("the folder of the world model is missing on this node")


def other():
    local = make()
    local.policy.out.requires_grad_(requires_grad=False).bias.data.add_(1)
    return local


def dying():
    sys.exit(3)


@pytest.mark.parametrize(
    ("made", "error", "message"),
    [
        (broken, ValueError, "the folder of the world model is missing on this node"),
        (other, ValueError, r"worker on node \w+ has frozen weights \w+, not 00000000: install the same releases"),
        (dying, ProcessLostError, r"4 workers were lost in a row and none finished anything, the last because"),
    ],
)
def test_workers_that_cannot_work_end_the_run_with_one_error(cluster, made, error, message):
    local = make()
    trainer = Trainer(local.policy, torch.optim.SGD(local.policy.parameters()), local.env, CONFIG)
    trainer.collector = RayRollouts(made, local, RayOptions())
    with pytest.raises(error, match=message):
        iterate(trainer)


def test_the_object_store_keeps_nothing_of_a_collection(cluster):
    trainer = trainer_of(CONFIG, RayOptions())
    with trainer.collector:
        trainer.iterate()
        trainer.iterate()
        held = cluster._private.worker.global_worker.core_worker.get_all_reference_counts()
        assert len(held) <= 2, "the newest weights, and the worker's handle"
    assert not cluster._private.worker.global_worker.core_worker.get_all_reference_counts()


def test_a_killed_run_of_two_workers_ends_as_one_that_nobody_disturbed(tmp_path, monkeypatch):
    args, mark = Chaos(workers=2, learners=1, updates=25), tmp_path.name
    monkeypatch.setenv(MARK, mark)
    run_to(tmp_path / "whole", args.updates, delay=0.0, options=None)
    assert killed_run(tmp_path / "killed", args) == {"worker": 2, "learner": 1}
    found = problems(tmp_path / "killed", tmp_path / "whole", args.updates, mark)
    assert found == {"differences": [], "groups_lost_or_twice": [], "left_behind": []}


def test_without_ray_the_error_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=re.escape("--rollouts ray needs Ray: pip install 'prophet-gym[ray]'")):
        RayRollouts(make, make(), RayOptions())


def test_shared_memory_that_is_too_small_is_named(tmp_path):
    with pytest.raises(OSError, match=r"the object store needs 1048576 MB in .*, which has \d+ MB free: give it more"):
        require_shared_memory(2**40, tmp_path)
    require_shared_memory(2**40, tmp_path / "where there is none")


def test_other_versions_on_a_node_are_named():
    mine = {"torch": "2.13.0", "python": "3.11.7"}
    with pytest.raises(ValueError, match=r"the worker on node ab has torch 2\.12\.0, not 2\.13\.0: install the same"):
        require_same(mine, mine | {"torch": "2.12.0"}, "ab")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"workers": 0}, "workers must be an integer of at least 1"),
        ({"gpus_per_worker": -1}, "gpus_per_worker must be a finite number of at least 0"),
        ({"max_staleness": 1, "offload": True}, "offload needs max_staleness=0, got 1"),
    ],
)
def test_options_that_do_not_fit_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        RayOptions(**options).check()


def test_a_worker_that_needs_more_than_there_is_is_refused():
    with pytest.raises(ValueError, match=r"a worker needs 0\.5 GPUs, this machine has 0: give --gpus-per-worker 0, or"):
        require_gpus(0.5, 0)
    require_gpus(0.5, 1)


def test_workers_take_the_learners_gpu_last(monkeypatch):
    assert learner_last(0, 3) == "1,2,0"
    assert learner_last(1, 3, "4,2,7") == "4,7,2"
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    for device, order in (("cuda", "1,0"), ("cuda:1", "0,1"), ("cpu", None)):
        with others_first(torch.device(device)):
            assert os.environ.get("CUDA_VISIBLE_DEVICES") == order
        assert "CUDA_VISIBLE_DEVICES" not in os.environ


class OnceBroken(SlowBanditVectorEnv):
    """Fails in its first step, and in no process after that."""

    def step(self, actions):
        try:
            (Path(self.delay) / "failed").touch(exist_ok=False)
        except FileExistsError:
            return BanditVectorEnv.step(self, actions)
        raise ValueError("the simulator is not licensed")


def once_broken(folder):
    return replace(make(), env=OnceBroken(4, folder))


def test_a_caller_who_asks_again_after_an_error_gets_the_rollouts(cluster, tmp_path):
    trainer = trainer_of(CONFIG, RayOptions(), partial(once_broken, str(tmp_path)))
    with trainer.collector:
        with pytest.raises(ValueError, match="not licensed"):
            trainer.iterate()
        trainer.iterate()
        assert trainer.collector.ledger[:, 1].tolist() == list(range(GROUPS))


def test_what_rests_on_the_cpu_comes_back_as_it_was(cluster):
    states = []
    for options in (None, RayOptions(offload=True)):
        trainer = trainer_of(CONFIG, options)
        before = list(trainer.policy.parameters())
        states.append(iterate(trainer)[0])
        assert all(one is other for one, other in zip(before, trainer.policy.parameters(), strict=True))
    assert [differences(states[0][name], states[1][name]) for name in ("policy", "optimizer")] == [[], []]
