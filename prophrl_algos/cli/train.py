"""`prophrl train`: reinforcement learning of a flow policy in groups of rollouts."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

from gymnasium.vector import VectorEnv

from prophet_gym.arguments import Arguments, Device, Items, NoneTwice, Number, OutFolder, Positive, Tasks, Whole
from prophrl_algos.algorithms import FlowScale, leave_one_out_advantages
from prophrl_algos.cli.precision import Precision
from prophrl_algos.cli.published import Published
from prophrl_algos.trainer import Metrics, Trainer, TrainerConfig


@dataclass(frozen=True)
class Args(Arguments):
    """Improve a flow policy in the dream (or in the simulator: `--env LIBERO-Object-v0`).

    Training begins from `train` starts only. A run that was killed goes on when the command is given again.
    """

    policy: str
    """What learns: `small` (10 denoising steps), `small-k4` (4), `tiny` (untrained, for tests), a folder or Hub
    repository of a published policy, or `package.module:function`, a function from the env to a FlowPolicy."""
    weights: Path | None = None
    """A folder or file that `prophrl sft` or `prophrl train` wrote, or a bundled name: where the policy starts."""
    env: str = "Prophet-LIBERO-v0"
    """A registered id."""
    dream: str = ""
    """The checkpoint that dreams, a folder or Hub repository; the bundled one if not given."""
    algo: str = "fa-grpo"
    """A name that `prophrl` lists, or `package.module:function`, a function from a FlowSpec to an Algorithm."""
    advantages: Literal["group", "leave-one-out"] = "group"
    """`group`: (return - mean) / std of the group; `leave-one-out`: return - mean of the group's other rollouts."""
    out: OutFolder = Path("outputs/rl")
    """The folder of the run."""
    config: TrainerConfig = field(default_factory=TrainerConfig)
    flowscale: FlowScale = field(default_factory=FlowScale)
    """`--flowscale.alpha 1` switches it off."""
    learning_rate: Positive = 3e-4
    """Of AdamW; 5e-6 for models of billions of parameters."""
    discount: Annotated[float, Number(above=0, most=1)] = 1.0
    """The reward of chunk n, counted from 0, counts discount^n: below 1 a sooner success is worth more."""
    num_envs: Items | None = None
    """Rows; one per rollout if not given."""
    tasks: Tasks = ()
    """Only these tasks; all if not given."""
    resample: bool = False
    """Replace groups whose mean success lies outside 0.1 .. 0.9, up to twice as many groups."""
    ema: Annotated[float, Number(above=0, most=1)] | None = None
    """Evaluate an average of the weights with this decay."""
    autocast: bool = False
    """Compute the policy in bfloat16; the dream computes as it does without."""
    published: Published = field(default_factory=Published)
    """How a published policy is used."""
    device: Device = "cpu"
    evaluate_every: Annotated[int, Whole(0, 10**9)] = 0
    """Evaluate after so many updates, on `train` starts of the same env; 0 does not."""
    evaluate_episodes: Items = 20
    precision: Precision = field(default_factory=Precision)
    """How the reward's precision is watched."""
    loggers: Annotated[tuple[str, ...], NoneTwice()] | None = None
    """Of csv, jsonl, tensorboard, wandb, trackio, terminal; csv, terminal and tensorboard if not given."""


MAY_CHANGE = (
    "out", "config", "flowscale", "num_envs", "device", "evaluate_every", "evaluate_episodes", "precision", "loggers",
)  # fmt: skip
"""Arguments that a run may be gone on with otherwise; `config` and `flowscale` are checked by the trainer."""


def main(args: Args) -> None:
    """Run the command."""
    from prophet_gym.train._run_folder import begin_run, run_lock
    from prophrl_algos.checkpoint import load_checkpoint
    from prophrl_algos.loggers import make_logger, require_loggers
    from prophrl_algos.run import LAST, run

    names = usual_loggers() if args.loggers is None else args.loggers
    require_loggers(names)
    trainer = make_trainer(args)
    if args.precision.truth_env and not args.evaluate_every:
        raise ValueError("--precision.truth-env is asked at every evaluation: give --evaluate-every too")
    evaluate = make_evaluation(args, trainer) if args.evaluate_every else None
    with run_lock(args.out, main=trainer.processes.main):
        begun = (args.out / LAST).exists()
        begin_run(args.out, args, begun=begun, free=MAY_CHANGE)
        done = load_checkpoint(args.out / LAST)["trainer"]["done"] if begun else 0
        updates = args.config.updates
        loggers = [make_logger(name, args.out, updates=updates, done=done) for name in names]
        run(trainer, args.out, loggers=loggers, evaluate=evaluate, evaluate_every=args.evaluate_every or 10)
    print(f"{args.out / LAST}: {trainer.done} updates")


def usual_loggers() -> tuple[str, ...]:
    """What is logged to if nothing is asked for; says so where TensorBoard is missing."""
    if find_spec("tensorboard") is not None:
        return ("csv", "terminal", "tensorboard")
    print(
        "tensorboard is not installed, metrics.csv has the numbers: pip install 'prophet-gym[train]'", file=sys.stderr
    )
    return ("csv", "terminal")


def make_trainer(args: Args, wrap: Callable[[VectorEnv], VectorEnv] = lambda env: env) -> Trainer:
    """What the command line asks for; everything is checked, nothing is generated. `wrap` is put around the env."""
    import torch
    from torch import nn

    from prophrl_algos._named import begin_of, make_algorithm, make_env, make_policy, warn_untrained
    from prophrl_algos.rollout import Grouping, KeepWithin, keep_all
    from prophrl_algos.trainer import Execution

    config = args.config
    rows = config.groups * config.group_size if args.num_envs is None else args.num_envs
    env = wrap(make_env(args.env, rows, starts="train", tasks=args.tasks, device=args.device, dream=args.dream))
    policy = make_policy(args.policy, env, args.weights, args.device, args.published)
    warn_untrained(args.policy, args.weights)
    assert isinstance(policy, nn.Module)
    algorithm = make_algorithm(args.algo, policy.spec)
    if args.advantages == "leave-one-out":
        algorithm = replace(algorithm, advantages=leave_one_out_advantages)
    learnt = [weight for weight in policy.parameters() if weight.requires_grad]
    if isinstance(algorithm.kernel, nn.Module):
        learnt += list(algorithm.kernel.parameters())
    return Trainer(
        policy,
        torch.optim.AdamW(learnt, lr=args.learning_rate, betas=(0.9, 0.95)),
        env,
        config,
        algorithm=algorithm,
        flowscale=args.flowscale,
        grouping=Grouping(begin_of(env), KeepWithin() if args.resample else keep_all, discount=args.discount),
        execution=Execution(torch.bfloat16 if args.autocast else None, args.ema),
    )


def make_evaluation(args: Args, trainer: Trainer) -> Callable[[], Metrics]:
    """Return an evaluation on episodes of the same env, from `train` states drawn by a seed that training does not use.

    With `args.precision.truth_env` it also measures the reward's precision on dreams that are replayed there.
    """
    from prophrl_algos._named import make_env
    from prophrl_algos.cli.precision import precision_metrics
    from prophrl_algos.evaluate import evaluate

    rows, seed = min(args.evaluate_episodes, 16), 10**6
    env = make_env(args.env, rows, starts="train", tasks=args.tasks, device=args.device, dream=args.dream)
    precision = None
    if args.precision.truth_env:
        truth = make_env(args.precision.truth_env, rows, starts="train", tasks=args.tasks)
        precision = precision_metrics(trainer.policy, env, truth, args.precision, seed)

    def measure() -> Metrics:
        tell = trainer.progress
        found = evaluate(
            trainer.policy,
            env,
            args.evaluate_episodes,
            seed=seed,
            progress=lambda stage, done, total: tell(f"evaluation, {stage}", done, total),
        )
        return found.metrics() | ({} if precision is None else precision(trainer.done))

    return measure
