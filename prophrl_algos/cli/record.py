"""`prophrl record`: what a policy does in LIBERO, as episodes that a world model learns from."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import UInt8

from prophet_gym.arguments import Arguments, Items, NotNegative, OutFolder, Seed, Workers
from prophrl_algos.cli.published import Published

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from prophet_gym.sims.simulator import Simulator
    from prophrl_algos.flow import FlowPolicy


@dataclass(frozen=True)
class Args(Arguments):
    """Record a policy in the LIBERO simulator, successes and failures, from `train` placements.

    `prophet train --data` reads such a recording as it does one of scripts: a world model that is to be explored by a
    policy should have seen what the policy does. A recording that was killed is continued by the same command.
    """

    out: OutFolder
    """Folder for the recording; an unfinished one is continued."""
    policy: str = "small-k4"
    """As `prophrl evaluate --policy`."""
    weights: Path | None = None
    """A folder or file that `prophrl sft` or `prophrl train` wrote."""
    suite: str = "libero_object"
    task: str = "all"
    """Task numbers such as 3 or 0,2,5, or all."""
    episodes: Items = 100
    """Episodes in all, spread evenly over the tasks."""
    noise_level: NotNegative = 0.5
    """a of the SDE that rollouts are sampled with; 0 acts without noise."""
    dream: str = ""
    """Where given (`bundled`, a bundled checkpoint's name or a folder), the policy sees the simulator's first picture
    and from there on only this checkpoint's dream of its own commands; the simulator executes them, until the dream's
    judge sees success. So the recording says what is true of what the dream makes a policy believe."""
    look: str = "light"
    seed: Seed = 0
    workers: Workers = 2
    """Processes, each on one thread."""
    published: Published = field(default_factory=Published)
    """How a published policy is used."""


@dataclass(frozen=True)
class PolicyActor:
    """Acts in a simulator as a policy does; made anew, once, in every process that it is sent to.

    Attributes:
        policy: as `make_policy` takes it.
        weights: likewise.
        noise_level: of its sampling.
        published: likewise.
        dream: the checkpoint whose dream it sees; the simulator's own pictures if empty.
    """

    policy: str
    weights: Path | None
    noise_level: float
    published: Published
    dream: str = ""

    def __call__(self, sim: "Simulator", rng: np.random.Generator) -> Iterator[np.ndarray]:
        """Commands chunk after chunk: without end, or until the dream's judge sees success."""
        import torch

        from prophrl_algos.flow import FlowSchedule, sample

        policy = _policy(self)
        schedule = FlowSchedule.uniform(policy.spec.num_steps, self.noise_level)
        generator = torch.Generator().manual_seed(int(rng.integers(2**62)))
        dream = Dreamer(self.dream, sim.render(), sim.instruction, int(rng.integers(2**62))) if self.dream else None
        while dream is None or not dream.success:
            obs = policy.prepare({"image": (sim.render() if dream is None else dream.image)[None]}, [sim.instruction])
            with torch.no_grad():
                chunk = policy.decode(sample(policy, obs, schedule, [generator]).x0, obs)[0].cpu().clamp(-1, 1)
            if dream is not None:
                dream.step(chunk)
            yield from chunk.numpy()


class Dreamer:
    """One dream, from a picture of the simulator on.

    Args:
        checkpoint: that dreams and judges.
        image: the first one.
        instruction: of the task.
        seed: of the dream's noise.
    """

    def __init__(
        self, checkpoint: str, image: UInt8[np.ndarray, "h w 3"], instruction: str, seed: int
    ) -> None:  # fmt: skip
        import torch

        from prophet_gym.checkpoint import Checkpoint

        found = Checkpoint.named(checkpoint)
        self.world_model, self.reward_model = found.world_model(), found.reward_model()
        self.image, self.instruction, self.success = image, instruction, False
        self._state = self.world_model.encode(torch.from_numpy(image[None, None]))
        self._video = torch.from_numpy(image[None])
        self._generator = torch.Generator().manual_seed(seed)

    def step(self, actions: "Float[Tensor, 'k a']") -> None:
        """Dream a chunk; `image` is its last frame, `success` what the judge says of all so far."""
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
    return make_policy(actor.policy, env, actor.weights, published=actor.published)


def main(args: Args) -> None:
    """Run the command."""
    from prophet_gym.cli.collect import parse_tasks
    from prophet_gym.sims.recorder import Plan, collect
    from prophrl_algos._named import warn_untrained

    warn_untrained(args.policy, args.weights)
    actor = PolicyActor(args.policy, args.weights, args.noise_level, args.published, args.dream)
    _policy(actor)
    plan = Plan(
        args.suite,
        parse_tasks(args.task),
        args.episodes,
        args.seed,
        args.look,
        actor=actor,
        about=f"{args.policy} {args.weights or ''} at noise {args.noise_level:g}".replace("  ", " ")
        + (f" in the dream of {args.dream}" if args.dream else ""),
    )
    collect(plan, args.out, workers=args.workers)
