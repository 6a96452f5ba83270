"""`prophrl sft`: behaviour cloning of a flow policy on recorded episodes."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from prophrl_algos.flow.policy import FlowPolicy, Obs
from prophrl_algos.sft import DrawBatch, SftConfig


@dataclass(frozen=True)
class Args:
    """Fit a flow policy to episodes that `prophet collect` recorded; never from official starts.

    A run that was killed goes on when the command is given again.
    """

    data: Path
    """A recording of `prophet collect`."""
    policy: str = "tiny"
    """`tiny`, or `package.module:function`, a function from the env to a FlowPolicy."""
    env: str = "Prophet-LIBERO-v0"
    """What the policy will act in."""
    out: Path = Path("outputs/sft")
    """The folder of the run."""
    config: SftConfig = field(default_factory=SftConfig)
    tasks: tuple[int, ...] = ()
    """Only these tasks; all if not given."""
    failures: bool = False
    """Also clone episodes that did not succeed."""
    device: str = "cpu"


@dataclass(frozen=True)
class Demonstrations:
    """All frames and commands of some episodes, in memory.

    Attributes:
        frames: of each episode.
        actions: of each episode.
        instructions: of each episode.
    """

    frames: list[UInt8[np.ndarray, "f h w 3"]]
    actions: list[Float[np.ndarray, "t a"]]
    instructions: list[str]

    def draw(self, rows: int, horizon: int, generator: torch.Generator) -> tuple[np.ndarray, Tensor, list[str]]:
        """Frames, the next `horizon` commands (the last one repeated past the end) and instructions."""
        lengths = torch.tensor([len(actions) for actions in self.actions])
        picks = torch.randint(int(lengths.sum()), (rows,), generator=generator)
        ends = lengths.cumsum(0)
        episodes = torch.searchsorted(ends, picks, right=True).tolist()
        steps = [int(pick - ends[episode] + lengths[episode]) for pick, episode in zip(picks, episodes, strict=True)]
        pictures = np.stack([self.frames[episode][step] for episode, step in zip(episodes, steps, strict=True)])
        chunks = [
            self.actions[episode][np.minimum(np.arange(step, step + horizon), len(self.actions[episode]) - 1)]
            for episode, step in zip(episodes, steps, strict=True)
        ]
        return pictures, torch.from_numpy(np.stack(chunks)), [self.instructions[episode] for episode in episodes]


def main(args: Args) -> None:
    """Run the command."""
    from prophrl_algos.cli.common import make_env, make_policy
    from prophrl_algos.loggers import CsvLogger
    from prophrl_algos.sft import LAST, sft

    demonstrations = read_demonstrations(args)
    env = make_env(args.env, 1, starts="train")
    policy = make_policy(args.policy, env, None, args.device)
    env.close()
    loss = sft(policy, draw_from(policy, demonstrations), args.config, args.out, logger=CsvLogger(args.out / "sft.csv"))
    print(f"{args.out / LAST}: {len(demonstrations.actions)} episodes, loss {loss:.4f}")


def read_demonstrations(args: Args) -> Demonstrations:
    """The recorded episodes that succeed (or all), decoded."""
    from prophet_gym.data.recording import list_episodes, read_episode, refuse_official

    paths = [path for task in args.tasks or (None,) for path in list_episodes(args.data, task)]
    refuse_official(args.data)
    episodes = [read_episode(path) for path in paths]
    chosen = [episode for episode in episodes if args.failures or episode.success[-1]]
    if not chosen:
        raise ValueError(
            f"{args.data} holds no episode to clone ({len(episodes)} recorded, none succeeds); record some with "
            f"`prophet collect --out {args.data}`, or pass --failures"
        )
    return Demonstrations(
        [episode.frames() for episode in chosen],
        [episode.actions for episode in chosen],
        [episode.instruction for episode in chosen],
    )


def draw_from(policy: FlowPolicy, demonstrations: Demonstrations) -> DrawBatch:
    """Batches as `sft` wants them, on the policy's device."""

    def draw(rows: int, generator: torch.Generator) -> tuple[Obs, Float[Tensor, "b h a"]]:
        pictures, actions, instructions = demonstrations.draw(rows, policy.spec.horizon, generator)
        return policy.prepare({"image": pictures}, instructions), actions.to(next(iter(policy.parameters())).device)

    return draw
