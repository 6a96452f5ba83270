"""Two processes with half the groups each do what one does with all."""

import multiprocessing
import socket

import pytest
import torch
import torch.distributed as dist

from benchmarks.toys import BanditVectorEnv, TinyFlowPolicy
from prophrl_algos.algorithms import FA_GRPO, FA_GRPO_FORWARD
from prophrl_algos.flow import FlowSpec
from prophrl_algos.trainer import Processes, Trainer, TrainerConfig

SPEC = FlowSpec(horizon=1, latent_dim=2, action_dim=2, exec_steps=1, num_steps=3)


def improve(processes, rows, algorithm):
    torch.manual_seed(0)
    policy = TinyFlowPolicy(SPEC, hidden=8)
    optimizer = torch.optim.SGD(policy.parameters(), lr=0.1)
    config = TrainerConfig(groups=4, group_size=4, beta=0.0, max_grad_norm=1e9)
    metrics = Trainer(
        policy, optimizer, BanditVectorEnv(rows), config, processes=processes, algorithm=algorithm
    ).iterate()
    return torch.cat([weight.detach().flatten() for weight in policy.parameters()]), metrics


def work(rank, port, results, algorithm):
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    weights, metrics = improve(Processes.joined(), 8, algorithm)
    results.put((rank, weights.numpy(), metrics["return"], metrics["rollouts"]))
    dist.barrier()
    dist.destroy_process_group()


@pytest.mark.filterwarnings("ignore:This process.*is multi-threaded:DeprecationWarning")
@pytest.mark.parametrize("algorithm", [FA_GRPO, FA_GRPO_FORWARD], ids=lambda algorithm: algorithm.name)
def test_two_processes_are_one(algorithm):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    fork = multiprocessing.get_context("fork")
    results = fork.Queue()
    workers = [fork.Process(target=work, args=(rank, port, results, algorithm)) for rank in range(2)]
    for worker in workers:
        worker.start()
    found = {rank: rest for rank, *rest in (results.get(timeout=60) for _ in workers)}
    for worker in workers:
        worker.join()
    weights, metrics = improve(Processes(), 16, algorithm)
    for rank in range(2):
        torch.testing.assert_close(torch.from_numpy(found[rank][0]), weights, rtol=1e-4, atol=1e-6)
        assert found[rank][1] == pytest.approx(metrics["return"], abs=1e-6)
        assert found[rank][2] == 16


def test_groups_must_split_evenly():
    assert Processes(1, 2).split(8) == 4
    with pytest.raises(ValueError, match="7 groups must be a multiple of the 2 processes"):
        Processes(1, 2).split(7)
