"""`prophrl record`: record a policy in the simulator, for a world model to learn from."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from prophet_gym._arguments import Cameras, Items, NotNegative, OutFolder, Seed, Tasks, Workers
from prophet_gym.specs import FIRST_CAMERA
from prophrl_algos.cli._options import Load, WeightsOptions

if TYPE_CHECKING:
    from prophet_gym.sims.simulator import Simulator
    from prophrl_algos.flow import FlowPolicy


@dataclass(frozen=True, kw_only=True)
class Args(WeightsOptions):
    """Record a policy in the LIBERO simulator, successes and failures, from `train` states.

    `prophet train --data` reads the recording, so that a world model learns what the policy does while it explores.
    Run the same command again to continue a recording that was stopped.
    """

    out: OutFolder
    """Folder of the recording; an unfinished one is continued."""
    policy: str = "small-k4"
    """Policy, as `prophrl evaluate --policy` takes it."""
    suite: str = "libero_object"
    """Suite of tasks, for example `libero_object` or `libero_goal`."""
    tasks: Tasks = ()
    """Numbers of the tasks, for example `--tasks 3 5`; all by default."""
    episodes: Items = 100
    """Number of episodes, spread evenly over the tasks."""
    noise_level: NotNegative = 0.5
    """Noise level of the sampling SDE, as in rollouts; 0 samples with the ODE."""
    look: str = "light"
    """Look of the simulator: `light`, `light-v2` or `official`."""
    seed: Seed = 0
    """Seed of the initial states and of the policy's noise."""
    cameras: Cameras = (FIRST_CAMERA,)
    """Cameras that the policy sees and that are recorded: `agentview`, or `agentview wrist`, with the robot's state."""
    workers: Workers = 2
    """Number of processes, each on one thread."""


def act(
    policy: str,
    weights: Path | None,
    load: Load,
    noise_level: float,
    sim: "Simulator",
    rng: np.random.Generator,
    *,
    cameras: Sequence[str] = (FIRST_CAMERA,),
) -> Iterator[np.ndarray]:
    """Yield a policy's actions in a simulator, chunk after chunk, without end."""
    import torch

    from prophet_gym.sims.simulator import HasWristCamera
    from prophrl_algos.flow import FlowSchedule, sample

    made = policy_of(policy, weights, load)
    schedule = FlowSchedule(made.spec.num_steps, noise_level)
    generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
    while True:
        seen = {"image": sim.render()[None]}
        if len(cameras) > 1:
            assert isinstance(sim, HasWristCamera)
            seen |= {"wrist_image": sim.render_wrist()[None], "state": sim.robot_state()[None].astype(np.float32)}
        obs = made.prepare(seen, [sim.instruction])
        with torch.no_grad():
            chunk = made.decode(sample(made, obs, schedule, [generator]).x0, obs)[0].cpu().clamp(-1, 1)
        yield from chunk.numpy()


@cache
def policy_of(policy: str, weights: Path | None, load: Load) -> "FlowPolicy":
    """Make the policy, once in each process."""
    from prophrl_algos._named import make_env, make_policy

    env = make_env("Prophet-LIBERO-v0", 1, starts="train")
    return make_policy(policy, env, weights, options=load.options("LIBERO"))


def main(args: Args) -> dict[str, Any]:
    """Run the command."""
    from prophet_gym._io.companions import recorded
    from prophet_gym.sims._recorder import Plan, collect
    from prophet_gym.sims.simulator import simulator_of
    from prophrl_algos._named import warn_untrained

    warn_untrained(args.policy, args.policy_weights)
    which = (args.policy, args.policy_weights, args.load)
    policy_of(*which)
    plan = Plan(
        args.suite,
        args.tasks or tuple(range(simulator_of(args.suite).tasks)),
        args.episodes,
        args.seed,
        args.look,
        cameras=args.cameras,
        actor=partial(act, *which, args.noise_level, cameras=args.cameras),
        about=f"{args.policy} {args.policy_weights or ''} at noise {args.noise_level:g}".replace("  ", " "),
    )
    new = collect(plan, args.out, workers=args.workers)
    print(recorded(args.out, args.episodes, new))
    return {"folder": args.out, "episodes": args.episodes, "new": new}
