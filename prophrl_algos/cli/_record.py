"""`prophrl record`: record a policy in the simulator, for a world model to learn from."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from prophet_gym._arguments import Items, NotNegative, OutFolder, Seed, Tasks, Workers
from prophrl_algos.cli._options import Load, WeightsOptions

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from prophet_gym.sims.simulator import Simulator
    from prophrl_algos.flow import FlowPolicy


@dataclass(frozen=True, kw_only=True)
class Args(WeightsOptions):
    """Record a policy in the LIBERO simulator, successes and failures, from `train` states.

    `prophet train --data` reads such a recording like one of scripts: a world model should have seen what the policy
    that explores it does. Give the same command again to continue a recording that was stopped.
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
    """Noise level of the sampling SDE, as in rollouts; 0 acts without noise."""
    world_model: str = ""
    """Checkpoint of a world model: if given, the policy sees the simulator's first image and then only this model's
    dream of its own actions, which the simulator executes until the checkpoint's reward model sees success. Such a
    recording shows what really happens where the policy believes a dream."""
    look: str = "light"
    """Look of the simulator: `light` or `official`."""
    seed: Seed = 0
    """Seed of the initial states and of the policy's noise."""
    workers: Workers = 2
    """Number of processes, each on one thread."""


@dataclass(frozen=True)
class PolicyActor:
    """Acts in a simulator as a policy does, or in the dream of a checkpoint; each process makes the policy once."""

    policy: str
    weights: Path | None
    noise_level: float
    load: Load = field(default_factory=Load)
    world_model: str = ""

    def __call__(self, sim: "Simulator", rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Yield actions chunk after chunk: without end, or until the dream's reward model sees success."""
        import torch

        from prophrl_algos.flow import FlowSchedule, sample

        policy = _policy(self)
        schedule = FlowSchedule.uniform(policy.spec.num_steps, self.noise_level)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        dream = None
        if self.world_model:
            dream = Dreamer(self.world_model, sim.render(), sim.instruction, int(rng.integers(2**62)))
        while dream is None or not dream.success:
            obs = policy.prepare({"image": (sim.render() if dream is None else dream.image)[None]}, [sim.instruction])
            with torch.no_grad():
                chunk = policy.decode(sample(policy, obs, schedule, [generator]).x0, obs)[0].cpu().clamp(-1, 1)
            if dream is not None:
                dream.step(chunk)
            yield from chunk.numpy()


class Dreamer:
    """Dreams one episode from an image of the simulator, and scores it."""

    def __init__(self, checkpoint: str, image: UInt8[np.ndarray, "h w 3"], instruction: str, seed: int) -> None:
        import torch

        from prophet_gym.checkpoint import Checkpoint

        found = Checkpoint.named(checkpoint)
        self.world_model, self.reward_model = found.world_model(), found.reward_model()
        self.image, self.instruction, self.success = image, instruction, False
        self._state = self.world_model.encode(torch.from_numpy(image[None, None]))
        self._video = torch.from_numpy(image[None])
        self._generator = torch.Generator().manual_seed(seed)

    def step(self, actions: "Float[Tensor, 'k a']") -> None:
        """Dream a chunk; `image` becomes its last frame, and `success` tells whether the reward model sees one."""
        import torch

        with torch.no_grad():
            chunk = self.world_model.rollout(self._state, actions[None], generators=[self._generator])
        self._state, frames = chunk.state, chunk.frames[0].cpu()
        self.image, self._video = frames[-1].numpy(), torch.cat([self._video, frames])
        if self.reward_model is not None:
            seen = self._video[:: self.reward_model.stride][-self.reward_model.max_frames :]
            self.success = bool(self.reward_model.score([seen], [self.instruction]).success[0])


@cache
def _policy(actor: PolicyActor) -> "FlowPolicy":
    from prophrl_algos._named import make_env, make_policy

    env = make_env("Prophet-LIBERO-v0", 1, starts="train")
    return make_policy(actor.policy, env, actor.weights, options=actor.load.options("LIBERO"))


def main(args: Args) -> None:
    """Run the command."""
    from prophet_gym.sims._recorder import Plan, collect
    from prophet_gym.sims.simulator import simulator_of
    from prophrl_algos._named import warn_untrained

    warn_untrained(args.policy, args.policy_weights)
    actor = PolicyActor(args.policy, args.policy_weights, args.noise_level, args.load, args.world_model)
    _policy(actor)
    plan = Plan(
        args.suite,
        args.tasks or tuple(range(simulator_of(args.suite).tasks)),
        args.episodes,
        args.seed,
        args.look,
        actor=actor,
        about=f"{args.policy} {args.policy_weights or ''} at noise {args.noise_level:g}".replace("  ", " ")
        + (f" in the dream of {args.world_model}" if args.world_model else ""),
    )
    collect(plan, args.out, workers=args.workers)
