"""One start before and after learning, in reality and in the dream: `python docs/proof_video.py --size short`.

Writes `docs/proof.webp`. The start is the first official one of the log at which the cloned policy failed in reality
and the improved one did not, so it shows what was learnt and not how often; the table of docs/proof.md says how often.
"""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from prophet_gym.cli.film import side_by_side, stack, write_moving_picture

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from proof import begins_from  # noqa: E402
from proof_files import EVALUATIONS, Place, read_lines, read_policy  # noqa: E402
from proof_sizes import DREAM, SIZES  # noqa: E402

from prophrl_algos.cli.common import make_env  # noqa: E402
from prophrl_algos.flow.policy import FlowPolicy  # noqa: E402
from prophrl_algos.flow.sampler import sample  # noqa: E402
from prophrl_algos.flow.schedule import FlowSchedule, no_step  # noqa: E402


@dataclass(frozen=True)
class Args:
    """Film it."""

    size: str = "short"
    run: str = "fa-grpo+flowscale-s0"
    out: Path = Path("outputs/proof_short")
    """As given to benchmarks/proof.py."""
    logs: Path | None = None
    """Likewise."""
    picture: Path = ROOT / "docs" / "proof.webp"
    every: int = 4
    """Of the frames, one in so many is shown."""


def telling_start(logs: Path, run: str, reality: str, updates: int) -> dict[str, int]:
    """The first official start that the cloned policy fails and the improved one does not.

    Raises:
        ValueError: there is none.
    """
    lines = read_lines(logs / EVALUATIONS)
    found = {(line["run"], line["update"]): line for line in lines if line["world"] == reality}
    before, after = found["sft", 0], found[run, updates]
    for index, done in enumerate(after["success"]):
        if done and not before["success"][index]:
            return {"task": after["task"][index], "start": after["start"][index]}
    raise ValueError(f"{run} succeeds from no official start at which the cloned policy failed")


def film(
    policy: FlowPolicy, world: str, cell: dict[str, int], seed: int = 0, starts: str = "official"
) -> tuple[np.ndarray, bool]:
    """All frames of an episode, and whether it succeeds there."""
    options = {"render": "step"} if world.startswith("LIBERO-") else {}
    env = make_env(world, 1, starts=starts, tasks=[cell["task"]], options=options)
    observation, info = env.reset(seed=seed, options={name: [value] for name, value in cell.items()})
    text, frames, over, success = str(info["instruction"][0]), [np.asarray(observation["image"])], False, False
    schedule = FlowSchedule.uniform(policy.spec.num_steps, 0.0, choose=no_step)
    generator = torch.Generator().manual_seed(seed)
    while not over:
        obs = policy.prepare(observation, [text])
        actions = policy.decode(sample(policy, obs, schedule, [generator]).x0, obs).detach().cpu().numpy()
        observation, _, terminated, truncated, info = env.step(actions.clip(-1, 1))
        frames.append(info["frames"][0][: int(info["executed"][0])])
        success |= bool(info["success"][0])
        over = bool(terminated[0] or truncated[0])
    env.close()
    return np.concatenate(frames), success


def main(args: Args) -> None:
    size = SIZES[args.size]
    place = Place(size, (), args.out, args.logs or args.out / "logs")
    weights = {
        "before": begins_from(place),
        "after": place.snapshot(args.run, size.updates),
    }
    cell = telling_start(place.logs, args.run, size.reality, size.updates)
    worlds = {"reality": size.reality, "the dream": DREAM}
    films: dict[str, dict[str, Any]] = {
        when: {f"{when}, in {name}": film(read_policy(place, path), world, cell) for name, world in worlds.items()}
        for when, path in weights.items()
    }
    longest = max(len(frames) for row in films.values() for frames, _ in row.values())
    images = []
    for moment in range(0, longest, args.every):
        rows = [
            side_by_side(
                {label: frames[min(moment, len(frames) - 1)] for label, (frames, _) in row.items()},
                " | ".join(f"{label}: {'success' if done else 'failure'}" for label, (_, done) in row.items()),
                2,
            )
            for row in films.values()
        ]
        images.append(stack(rows))
    write_moving_picture(args.picture, images, 20 // args.every)
    print(f"{cell}: wrote {args.picture}")


if __name__ == "__main__":
    main(tyro.cli(Args))
