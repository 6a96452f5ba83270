"""`prophrl evaluate`: measure how often a policy succeeds, in dreams or in the simulator."""

import itertools
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from prophet_gym._arguments import Items, NotNegative, Seed, SomeTasks, resolved_device
from prophrl_algos.cli._options import DreamOptions, WeightsOptions

if TYPE_CHECKING:
    from prophrl_algos.evaluate import Evaluation


@dataclass(frozen=True, kw_only=True)
class Args(WeightsOptions, DreamOptions):
    """Measure the success rate of a policy, per task, with Wilson's 95% intervals.

    `prophrl evaluate --tiny` needs no other option.
    """

    policy: str = ""
    """Policy: `small` (10 denoising steps), `small-k4` (4), a folder or Hub repository of a published policy, or
    `package.module:function`, which is called with the environment and returns a FlowPolicy."""

    starts: str = "official"
    """Split of the initial states: `official` (50 per task) or `train`."""
    tasks: SomeTasks = (0,)
    """Numbers of the tasks, for example `--tasks 3 5`."""
    look: str = ""
    """Look of the simulator in a `LIBERO-*` environment: `light` (the default), `light-v2` or `official`."""
    episodes: Items = 10
    """Number of episodes of each task; they begin at the first states of the split."""
    num_envs: Items = 8
    """Number of episodes run at once."""
    initial_noise: NotNegative = 1.0
    """Factor on the Gaussian noise that each chunk is denoised from; 0 makes the policy deterministic."""
    noise_level: NotNegative = 0.0
    """Noise level of the sampling SDE, as in learning and recording; 0 samples with the ODE."""
    seed: Seed = 0
    """Seed of the initial states and of the policy's noise."""
    tiny: bool = False
    """Evaluate the bundled policy in one episode of the bundled world model, to see that both run here."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tiny == bool(self.policy):
            raise ValueError(
                "give --policy (`small`, `small-k4`, a folder, `package.module:function` ...), or --tiny, which brings "
                f"one, got {'both' if self.tiny else 'neither'}"
            )


def main(args: Args) -> dict[str, Any]:
    """Run the command."""
    from prophet_gym._io.progress import doing
    from prophet_gym.evaluation._report import machine
    from prophrl_algos._named import make_policy, warn_untrained
    from prophrl_algos.evaluate import evaluate
    from prophrl_algos.flow import FlowSchedule
    from prophrl_algos.vla._load import BUNDLED

    tiny = args.tiny
    if tiny:
        args = replace(args, tiny=False, policy="small-k4", policy_weights=Path(next(iter(BUNDLED))), episodes=1)
    asked = [{"task": task, "start": index} for task, index in itertools.product(args.tasks, range(args.episodes))]
    rows = min(args.num_envs, len(asked))
    device = resolved_device(args.device)
    chosen = {"engine": args.engine, "reward": args.reward, "look": args.look}
    with doing("loading the environment and the policy"):
        env = args.make_env(rows, starts=args.starts, tasks=args.tasks, **chosen)
        policy = make_policy(args.policy, env, args.policy_weights, device, args.load.options(args.env))
    warn_untrained(args.policy, args.policy_weights)
    schedule = FlowSchedule(policy.spec.num_steps, args.noise_level, initial_noise=args.initial_noise)
    found = evaluate(policy, env, asked, seed=args.seed, schedule=schedule)
    print(_worked(args, found) if tiny else _rates(found))
    episodes = [
        start | {"success": each.success, "valid": each.scored, "chunks": each.chunks, "instruction": each.instruction}
        for start, each in zip(asked, found.episodes, strict=True)
    ]
    told = "policy", "env", "world_model", "reward", "cameras", "look", "starts", "initial_noise", "noise_level"
    given = {name: getattr(args, name) for name in told}
    weights = None if args.policy_weights is None else str(args.policy_weights)
    results = {"weights": weights, "metrics": found.metrics(), "episodes": episodes, "machine": machine()}
    return given | results


def _rates(found: "Evaluation") -> str:
    """Return the success rate of each task and of all; with a reward that says more than success, its mean too."""
    tasks = found.per_task()
    parts = tasks if len(tasks) == 1 else {**tasks, f"all {len(tasks)} tasks": found}
    says_more = any(each.returns != float(each.success) for each in found.scored)
    lines = []
    for name, part in parts.items():
        low, high = part.interval
        mean = f"  mean return {part.metrics()['return']:.3g}" if says_more else ""
        lines.append(f"{part.success:6.1%} [{low:.1%}, {high:.1%}] of {len(part.episodes):3d}{mean}  {name}")
    return "\n".join(lines)


def _worked(args: Args, found: "Evaluation") -> str:
    """Return what one episode shows: that the installation works, and nothing of the policy."""
    (episode,) = found.episodes
    return (
        f"the installation works: {args.policy} acted in a dream of {episode.chunks} chunks, "
        f"“{episode.instruction}”\none episode says nothing of the policy (this one was "
        f"{'a success' if episode.success else 'no success'}); to measure it:\n"
        f"  prophrl evaluate --policy {args.policy} --policy-weights {args.policy_weights} --episodes 20"
    )
