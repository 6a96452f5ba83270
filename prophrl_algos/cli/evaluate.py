"""`prophrl evaluate`: how often a policy succeeds, in the dream or in the simulator."""

import itertools
from dataclasses import dataclass, field
from pathlib import Path

from prophet_gym.arguments import Arguments, Device, Items, NotNegative, OutFile, Seed, SomeTasks
from prophrl_algos.cli.published import Published


@dataclass(frozen=True)
class Args(Arguments):
    """Run a policy, without noise if not asked, and count its successes, per task, with Wilson's 95% intervals."""

    policy: str
    """What acts: `small` (10 denoising steps), `small-k4` (4), `tiny` (untrained, for tests), a folder or Hub
    repository of a published policy, or `package.module:function`, a function from the env to a FlowPolicy."""
    weights: Path | None = None
    """A folder or file that `prophrl sft` or `prophrl train` wrote, or a bundled name."""
    env: str = "Prophet-LIBERO-v0"
    """A registered id, e.g. `LIBERO-Object-v0`, the simulator."""
    dream: str = ""
    """The checkpoint that dreams, a folder or Hub repository; the bundled one if not given."""
    starts: str = "official"
    """`official` (the 50 states of each task) or `train`."""
    tasks: SomeTasks = (0,)
    """Tasks to run."""
    episodes: Items = 10
    """Of each task: its first official states, or as many drawn starts."""
    num_envs: Items = 8
    """Episodes at once."""
    initial_noise: NotNegative = 1.0
    """Factor on the noise that each chunk is denoised from; 0 for its centre, the same every time."""
    noise_level: NotNegative = 0.0
    """a of the SDE that chunks are sampled with, as while a policy learns or is recorded; 0 acts without noise."""
    published: Published = field(default_factory=Published)
    """How a published policy is used."""
    device: Device = "cpu"
    seed: Seed = 0
    json: OutFile | None = None
    """Also write every episode to this file."""


def main(args: Args) -> None:
    """Run the command."""
    from tqdm import tqdm

    from prophet_gym._report import machine, write_json
    from prophrl_algos._named import make_env, make_policy, warn_untrained
    from prophrl_algos.evaluate import evaluate, ode_schedule
    from prophrl_algos.flow import FlowSchedule

    cells = [{"task": task, "start": index} for task, index in itertools.product(args.tasks, range(args.episodes))]
    rows = min(args.num_envs, len(cells))
    env = make_env(args.env, rows, starts=args.starts, tasks=args.tasks, device=args.device, dream=args.dream)
    policy = make_policy(args.policy, env, args.weights, args.device, args.published)
    warn_untrained(args.policy, args.weights)
    schedule = ode_schedule(policy, args.initial_noise)
    if args.noise_level:
        schedule = FlowSchedule.uniform(policy.spec.num_steps, args.noise_level, initial_noise=args.initial_noise)
    with tqdm(total=len(cells), desc="evaluate", unit="episode") as bar:
        found = evaluate(
            policy,
            env,
            cells,
            seed=args.seed,
            schedule=schedule,
            # Told after every chunk, and an update by 0 would draw the bar again: a line of a log each time.
            progress=lambda _stage, done, _total: bar.update(done - bar.n) if done > bar.n else None,
        )
    tasks = found.per_task()
    for name, part in {**tasks, f"all {len(tasks)} tasks": found}.items():
        low, high = part.interval
        print(f"{part.success:6.1%} [{low:.1%}, {high:.1%}] of {len(part.episodes):3d}  {name}")
    write_json(
        args.json,
        {
            "policy": args.policy,
            "weights": None if args.weights is None else str(args.weights),
            "env": args.env,
            "starts": args.starts,
            "initial_noise": args.initial_noise,
            "noise_level": args.noise_level,
            "metrics": found.metrics(),
            "episodes": [
                {"task": cell["task"], "start": cell["start"], "success": e.success, "valid": e.scored,
                 "chunks": e.chunks, "instruction": str(e.start.get("instruction", ""))}
                for cell, e in zip(cells, found.episodes, strict=True)
            ],
            "machine": machine(),
        },
    )  # fmt: skip
