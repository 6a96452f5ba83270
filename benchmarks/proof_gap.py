"""What a policy makes of dreamt pictures: the same moments of the same episodes, in LIBERO and in a dream of them.

    prophrl record --weights SmallVLA-LIBERO-object-sft --task 0,3,5 --episodes 45 --seed 99 --out outputs/policy_val
    prophet redream --data outputs/policy_val --out outputs/policy_val_dreamt
    python benchmarks/proof_gap.py --recording outputs/policy_val --dreams bundled outputs/policy_val_dreamt \
        --weights SmallVLA-LIBERO-object-sft --json benchmarks/results/proof_gap.json

A dream follows the recorded commands, so where it is right the policy sees the same and does the same. By the dream's
age: how far from the truth the policy thinks that gripper and target are, and how much its commands differ from those
that the recorded picture makes it give, as a share of those.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from prophet_gym.cli.report import machine, table, write_json
from prophet_gym.data.recording import Episode, list_episodes, read_episode
from prophrl_algos.cli.common import make_env, make_policy
from prophrl_algos.cli.demonstrations import points_of
from prophrl_algos.flow.sampler import sample
from prophrl_algos.flow.schedule import FlowSchedule
from prophrl_algos.vla import SmallVLA

AGES = ((0, 10), (10, 20), (20, 35))
"""Of a dream, in chunks."""


@dataclass(frozen=True)
class Args:
    """Compare what a policy sees in LIBERO and in dreams."""

    recording: Path
    """A recording of `prophrl record`."""
    dreams: dict[str, Path]
    """Name -> dreams of it by `prophet redream`."""
    weights: Path
    json: Path
    episodes: int = 45


@dataclass(frozen=True)
class Looked:
    """What a policy makes of the frames of an episode at which it acts.

    Attributes:
        off: distance from gripper and target to where it sees them, pixels of the 128.
        commands: the six of motion, of a chunk.
    """

    off: np.ndarray
    commands: np.ndarray


def look(policy: SmallVLA, episode: Episode) -> Looked:
    """What the policy makes of an episode, without noise."""
    frames = episode.frames()[:-1]
    moments = np.arange(0, len(frames), policy.spec.exec_steps)
    obs = policy.prepare({"image": frames[moments]}, [episode.instruction] * len(moments))
    off = 64 * (policy.places(obs)[:, :2] - points_of(episode)[moments]).norm(dim=-1)
    with torch.no_grad():
        path = sample(
            policy,
            obs,
            FlowSchedule.uniform(policy.spec.num_steps, 0.0),
            [torch.Generator().manual_seed(int(moment)) for moment in moments],
        )
    return Looked(off.numpy(), policy.decode(path.x0, obs).numpy()[..., :6])


def pairs(policy: SmallVLA, real: Path, dream: Path, episodes: int) -> Iterator[tuple[int, Looked, Looked]]:
    """Age in chunks, and both worlds of every moment."""
    for path in list_episodes(real, evaluating=True)[:episodes]:
        true, dreamt = (look(policy, read_episode(folder / path.relative_to(real))) for folder in (real, dream))
        for age in range(len(dreamt.off)):
            yield age, *(Looked(each.off[age], each.commands[age]) for each in (true, dreamt))


def compare(policy: SmallVLA, real: Path, dream: Path, episodes: int) -> dict[str, Any]:
    """Medians by age."""
    groups: dict[str, list[tuple[Looked, Looked]]] = defaultdict(list)
    for age, true, dreamt in pairs(policy, real, dream, episodes):
        for low, high in AGES:
            if low <= age < high:
                groups[f"{low}-{high - 1}"].append((true, dreamt))
    return {
        name: {
            "moments": len(found),
            **{
                f"{what}_px_{world}": float(np.nanmedian([pair[side].off[point] for pair in found]))
                for point, what in enumerate(("gripper", "target"))
                for side, world in enumerate(("real", "dream"))
            },
            "commands": float(
                np.sum([np.abs(true.commands - dreamt.commands).mean() for true, dreamt in found])
                / np.sum([np.abs(true.commands).mean() for true, _ in found])
            ),
        }
        for name, found in groups.items()
    }


def main(args: Args) -> None:
    env = make_env("Prophet-LIBERO-v0", 1, starts="train")
    policy = make_policy("small-k4", env, args.weights)
    assert isinstance(policy, SmallVLA)
    found = {name: compare(policy, args.recording, folder, args.episodes) for name, folder in args.dreams.items()}
    write_json(args.json, {"machine": machine(), "episodes": args.episodes, "dreams": found})
    rows = [
        [name, age, str(group["moments"]), *(f"{group[key]:.2f}" for key in list(group)[1:])]
        for name, ages in found.items()
        for age, group in ages.items()
    ]
    print(table(["dream", "age", "moments", *list(next(iter(next(iter(found.values())).values())))[1:]], rows))


if __name__ == "__main__":
    main(tyro.cli(Args))
