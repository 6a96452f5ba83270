"""`prophrl train`: reinforcement learning of a flow policy in groups of rollouts."""

import math
import os
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from gymnasium.vector import VectorEnv
from tyro.conf import OmitArgPrefixes

from prophet_gym._arguments import Items, Number, OutFolder, Positive, Several, Tasks, Whole, resolved_device
from prophet_gym.world_model import DecodesOnDemand
from prophrl_algos.algorithms import FlowScale, leave_one_out_advantages
from prophrl_algos.cli._options import DreamOptions, TrainLoad, WeightsOptions, command
from prophrl_algos.flow import FlowPolicy
from prophrl_algos.rollout import LocalRollouts, RayOptions, RayRollouts
from prophrl_algos.trainer import Metrics, Trainer, TrainerConfig
from prophrl_algos.trainer._trainer import require_fresh

if TYPE_CHECKING:
    from prophrl_algos.algorithms import Algorithm


@dataclass(frozen=True, kw_only=True)
class Args(WeightsOptions, DreamOptions):
    """Improve a flow policy by reinforcement learning, in dreams or in the simulator (`--env LIBERO-Object-v0`).

    Episodes begin at `train` states only. Run the same command again to continue a run that was stopped. Under
    `accelerate launch --num_processes N -m prophrl_algos train`, or torchrun, N processes share the groups, each with
    its device and its dreams.
    """

    load: TrainLoad = field(default_factory=TrainLoad)
    """Options of published policies; other policies ignore them."""
    algo: str = "fa-grpo"
    """Algorithm: a name that `prophrl` lists, or `package.module:function`, called with a FlowSpec."""
    advantages: Literal["group", "leave-one-out"] = "group"
    """Advantages: `group` is (return - mean) / std of the group, `leave-one-out` the return minus the others' mean."""
    out: OutFolder = Path("outputs/rl")
    """Folder of the run."""
    config: TrainerConfig = field(default_factory=TrainerConfig)
    """Options of the trainer: updates, groups and loss."""
    flowscale: FlowScale = field(default_factory=FlowScale)
    """Options of FlowScale, which weights the flow steps; `--flowscale.alpha 1` switches it off."""
    learning_rate: Positive = 3e-4
    """Learning rate of AdamW; 5e-6 suits models of billions of parameters."""
    discount: Annotated[float, Number(above=0, most=1)] = 1.0
    """Discount per chunk: the reward of chunk n is multiplied by discount^n."""
    num_envs: Items | None = None
    """Number of sub-environments, of each Ray worker if there are; by default one per rollout that it collects."""
    rollouts: Literal["local", "ray"] = "local"
    """Who collects rollouts: this process, or workers on a cluster of Ray."""
    ray: OmitArgPrefixes[RayOptions] = field(default_factory=RayOptions)
    """Options of `--rollouts ray`."""
    tasks: Tasks = ()
    """Numbers of the tasks, for example `--tasks 3 5`; all by default."""
    resample: bool = False
    """Replace groups whose success rate lies outside 0.1 to 0.9; collects at most twice as many groups."""
    autocast: bool = False
    """Compute the policy in bfloat16; the world model is not affected."""
    shard: bool = False
    """Spread weights, gradients and moments over the processes (FSDP2), for policies that do not fit on one device."""
    evaluate_every: Annotated[int, Whole(0, 10**9)] = 0
    """Number of updates between evaluations on `train` states of the same environment; 0 never evaluates."""
    evaluate_episodes: Items = 20
    """Number of episodes of an evaluation."""
    truth_env: str = ""
    """Simulator, for example `LIBERO-Object-v0`, in which each evaluation replays dreams to measure the precision of
    the reward: it is logged, with a warning below 0.7. Needs `--evaluate-every`."""
    truth_stop: bool = False
    """Stop the run, instead of warning, if the precision in `--truth-env` falls below 0.7."""
    loggers: Annotated[tuple[str, ...], Several(none=True)] | None = None
    """Loggers: csv, tensorboard, wandb, trackio; by default csv and tensorboard."""


MAY_CHANGE = (
    "out", "config", "flowscale", "num_envs", "device", "engine", "evaluate_every", "evaluate_episodes", "truth_env",
    "truth_stop", "loggers", "rollouts", "ray", "shard",
)  # fmt: skip
"""Arguments that may change when a run is continued; the trainer itself checks `config` and `flowscale`."""


def main(args: Args) -> dict[str, Any] | None:
    """Run the command."""
    from prophet_gym.train._run_folder import begin_run, record_start, run_lock
    from prophrl_algos._checkpoint import newest, updates_done
    from prophrl_algos._loggers import make_logger, require_loggers
    from prophrl_algos.run import run

    names = usual_loggers() if args.loggers is None else args.loggers
    require_loggers(names)
    with ExitStack() as stack:
        trainer = make_trainer(args)
        if isinstance(trainer.collector, RayRollouts):
            stack.enter_context(trainer.collector)
        if args.truth_env and not args.evaluate_every:
            raise ValueError("--truth-env is asked at every evaluation: give --evaluate-every too")
        evaluate = make_evaluation(args, trainer) if args.evaluate_every else None
        main = trainer.learner.main
        with run_lock(args.out, main=main):
            last = newest(args.out)
            if main:
                begin_run(args.out, args, begun=last is not None, free=MAY_CHANGE)
            done = 0 if last is None else updates_done(last)
            loggers = [make_logger(name, args.out, done=done) for name in names if main]
            run(
                trainer,
                args.out,
                loggers=loggers,
                evaluate=evaluate,
                evaluate_every=args.evaluate_every or 10,
                started=partial(record_start, args.out, "prophrl train", args) if main else lambda: None,
            )
    if not main:
        return None
    print(f"{newest(args.out)}: {trainer.done} update{'s' * (trainer.done != 1)}")
    print(command("evaluate", args, policy_weights=args.out))
    print(f"  prophrl report {quote(str(args.out))}")
    return {"folder": args.out, "state": newest(args.out), "updates": trainer.done}


def usual_loggers() -> tuple[str, ...]:
    """Return the loggers for when none are given, and print how to get TensorBoard if it is missing."""
    if find_spec("tensorboard") is not None:
        return ("csv", "tensorboard")
    print(
        "tensorboard is not installed, metrics.csv has the numbers: pip install 'prophet-gym[train]'", file=sys.stderr
    )
    return ("csv",)


def make_trainer(args: Args, wrap: Callable[[VectorEnv], VectorEnv] = lambda env: env) -> Trainer:
    """Make the trainer that the arguments describe, checked but not begun; `wrap` is put around its env."""
    import torch
    from torch import nn

    from prophrl_algos._named import warn_untrained
    from prophrl_algos.rollout import Grouping, begin_from_starts
    from prophrl_algos.trainer import Learner

    device = resolved_device(args.device)
    learner = Learner.joined(cpu=device == "cpu", sharded=args.shard)
    learner.require_alike("arguments", {**asdict(args), "device": ""}, "start all with the same command")
    groups = learner.share(args.config.groups)
    here = args.rollouts == "local"
    rows = learner.rows(args.config.groups, args.config.group_size, args.num_envs) if here else None
    local, algorithm = make_local(args, groups, wrap, runs=here, rows=rows)
    warn_untrained(args.policy, args.policy_weights)
    learnt = [weight for weight in local.policy.parameters() if weight.requires_grad]
    if isinstance(algorithm.kernel, nn.Module):
        learnt += list(algorithm.kernel.parameters())
    optimizer = torch.optim.AdamW(learnt, lr=args.learning_rate, betas=(0.9, 0.95))
    trainer = Trainer(
        local.policy,
        optimizer,
        local.env,
        args.config,
        algorithm=algorithm,
        flowscale=args.flowscale,
        grouping=Grouping(begin_from_starts, (0.1, 0.9) if args.resample else (0, 1), args.discount),
        autocast=local.autocast,
        learner=learner,
    )
    if args.rollouts == "ray":
        require_fresh(algorithm, args.ray.max_staleness)
        if learner.sharded and args.ray.offload:
            raise ValueError("weights in shards stay where they are: --shard does not go with --ray.offload")
        if learner.size > 1 and not (args.ray.ray_address or "RAY_ADDRESS" in os.environ):
            raise ValueError("processes that learn together share a cluster: ray start --head, and give --ray-address")
        with learner.whole(local.policy):
            trainer.collector = RayRollouts(partial(make_worker, args, groups), local, args.ray, optimizer=optimizer)
    return trainer


def make_worker(args: Args, groups: int) -> LocalRollouts:
    """Make what a worker collects with, as the local run makes it."""
    return make_local(args, groups)[0]


def make_local(
    args: Args,
    groups: int,
    wrap: Callable[[VectorEnv], VectorEnv] = lambda env: env,
    *,
    runs: bool = True,
    rows: int | None = None,
) -> "tuple[LocalRollouts, Algorithm]":
    """Make what collects in `rows` sub-environments, and its algorithm; an env that never `runs` stays on the CPU."""
    import torch
    from torch import nn

    from prophrl_algos._named import make_algorithm, make_policy

    device = resolved_device(args.device)
    rows = rows or args.num_envs or groups_at_once(args, groups) * args.config.group_size
    place = args if runs else replace(args, device="cpu")
    env = wrap(place.make_env(rows, tasks=args.tasks, engine=args.engine, reward=args.reward))
    policy = make_policy(args.policy, env, args.policy_weights, device, args.load.options(args.env))
    assert isinstance(policy, nn.Module)
    algorithm = make_algorithm(args.algo, policy.spec)
    if args.advantages == "leave-one-out":
        algorithm = replace(algorithm, advantages=leave_one_out_advantages)
    if isinstance(algorithm.kernel, nn.Module):
        algorithm.kernel.to(device)
    schedule = algorithm.schedule(policy.spec, args.config.noise_level)
    return LocalRollouts(policy, env, schedule, torch.bfloat16 if args.autocast else None), algorithm


def groups_at_once(args: Args, groups: int) -> int:
    """Return how many groups one process runs at once: all, or a part of them that keeps every worker busy."""
    if args.rollouts == "local":
        return groups
    return max(count for count in range(1, -(-groups // args.ray.workers) + 1) if groups % count == 0)


def make_evaluation(args: Args, trainer: Trainer) -> Callable[[], Metrics]:
    """Return an evaluation on episodes of the same env, from `train` states drawn by a seed that training does not use.

    Its episodes are shared out among the processes. With `args.truth_env` the main one also measures the reward's
    precision on dreams that are replayed there.
    """
    from prophrl_algos._named import make_env
    from prophrl_algos.evaluate import Evaluation, evaluate

    learner, seed = trainer.learner, 10**6
    mine = range(learner.rank, args.evaluate_episodes, learner.size)
    rows = min(-(-args.evaluate_episodes // learner.size), 16)
    env = args.make_env(rows, tasks=args.tasks, engine=args.engine, reward=args.reward)
    dreams: Any = env.unwrapped
    if isinstance(getattr(dreams, "world_model", None), DecodesOnDemand):
        dreams.max_uncertainty = math.inf  # asked for, so that it is logged, and no limit
    precision = None
    if args.truth_env and learner.main:
        truth = make_env(args.truth_env, rows, starts="train", tasks=args.tasks)
        precision = precision_metrics(trainer.policy, env, truth, seed, stop=args.truth_stop)

    def measure() -> Metrics:
        with learner.whole(trainer.policy), learner.watched(f"evaluating after update {trainer.done}"):
            found = evaluate(trainer.policy, env, args.evaluate_episodes, seed=seed, numbers=mine) if mine else None
            precise = {} if precision is None else precision(trainer.done)
            shares = learner.gathered(() if found is None else found.episodes)
        order = range(args.evaluate_episodes)
        whole = Evaluation(tuple(shares[number % learner.size][number // learner.size] for number in order))
        return whole.metrics() | precise

    return measure


def precision_metrics(
    policy: FlowPolicy, dreams: VectorEnv, truth: VectorEnv, seed: int, *, stop: bool = False
) -> Callable[[int], Metrics]:
    """Return a function of the update's number that dreams one episode per sub-environment and replays it.

    `truth` is a simulator with as many sub-environments as `dreams`, from the same split.
    """
    import torch

    from prophet_gym.rewards import PrecisionMonitor
    from prophet_gym.sims.env import true_outcomes
    from prophrl_algos.evaluate import noise_seed
    from prophrl_algos.flow import FlowSchedule
    from prophrl_algos.rollout._collect import act as play

    monitor, schedule = PrecisionMonitor(stop=stop), FlowSchedule(policy.spec.num_steps, 0.0)
    everywhere = np.arange(dreams.num_envs)

    def measure(update: int) -> Metrics:
        generators = [torch.Generator().manual_seed(noise_seed(seed + update, row)) for row in everywhere.tolist()]
        instructions: list[str] = []

        def act(observation: Any, info: Mapping[str, Any]) -> np.ndarray:
            # An episode keeps its instruction, and only the reset's info is certain to say it.
            if not instructions:
                instructions.extend(map(str, info["instruction"]))
            return play(policy, dreams, observation, everywhere, instructions, schedule, generators)[2]

        found = monitor.watch(update, dreams, act, partial(true_outcomes, truth), seed=seed + update)
        return {
            "reward_precision": found.precision.mean,
            "reward_precision_low": found.precision.low,
            "reward_precision_high": found.precision.high,
            "reward_recall": found.recall.mean,
        }

    return measure
