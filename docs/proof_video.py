"""One start before and after learning, in reality and in the dream: `python docs/proof_video.py --size short`.

Writes `docs/proof.webp`. The start is the first official one at which the cloned policy fails in reality and the
improved one does not, in the log and again in the film. So it is chosen to show a gain, and says nothing of how often
there was one; the tables of docs/proof.md do.
"""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro

from prophet_gym.cli.film import side_by_side, stack, write_moving_picture

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "benchmarks"))

from proof import begins_from  # noqa: E402
from proof_files import EVALUATIONS, Place, read_lines, read_policy  # noqa: E402
from proof_sizes import DREAM, SFT, SIZES  # noqa: E402

from prophrl_algos.cli.common import make_env  # noqa: E402
from prophrl_algos.evaluate import ode_schedule  # noqa: E402
from prophrl_algos.flow.policy import FlowPolicy  # noqa: E402
from prophrl_algos.flow.sampler import sample  # noqa: E402
from prophrl_algos.rollout import commands  # noqa: E402

Films = dict[str, tuple[np.ndarray, bool]]
"""Label -> frames, and whether the episode succeeds."""


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


def gained_starts(logs: Path, run: str, reality: str, updates: int) -> list[dict[str, int]]:
    """The official starts at which the log has the cloned policy fail and the improved one succeed, in order.

    Raises:
        ValueError: there is none, or one of the two is not evaluated yet.
    """
    lines = read_lines(logs / EVALUATIONS)
    found = {(line["run"], line["update"]): line for line in lines if line["world"] == reality}
    missing = [name for name, update in ((SFT, 0), (run, updates)) if (name, update) not in found]
    if missing:
        raise ValueError(f"{logs / EVALUATIONS} has no episodes of {', '.join(missing)}: evaluate it first")
    before, after = found[SFT, 0], found[run, updates]
    gained = [
        {"task": task, "start": start}
        for task, start, was, done in zip(
            after["task"], after["start"], before["success"], after["success"], strict=False
        )
        if done and not was
    ]
    if not gained:
        raise ValueError(f"{run} succeeds from no official start at which the cloned policy failed")
    return gained


def film(
    policy: FlowPolicy, world: str, cell: dict[str, int], seed: int = 0, starts: str = "official"
) -> tuple[np.ndarray, bool]:
    """All frames of an episode, and whether it succeeds there."""
    options = {"render": "step"} if world.startswith("LIBERO-") else {}
    env = make_env(world, 1, starts=starts, tasks=[cell["task"]], options=options)
    observation, info = env.reset(seed=seed, options={name: [value] for name, value in cell.items()})
    text, frames, over, success = str(info["instruction"][0]), [np.asarray(observation["image"])], False, False
    schedule, generator = ode_schedule(policy), torch.Generator().manual_seed(seed)
    while not over:
        obs = policy.prepare(observation, [text])
        actions = policy.decode(sample(policy, obs, schedule, [generator]).x0, obs)
        observation, _, terminated, truncated, info = env.step(commands(actions, env, np.arange(1)))
        frames.append(info["frames"][0][: int(info["executed"][0])])
        success |= bool(info["success"][0])
        over = bool(terminated[0] or truncated[0])
    env.close()
    return np.concatenate(frames), success


def told_again(
    policies: dict[str, FlowPolicy], reality: str, cells: list[dict[str, int]]
) -> tuple[dict[str, int], Films]:
    """The first of the starts whose real film also fails before and succeeds after, and these two films.

    Raises:
        ValueError: there is none; the noise that a policy acts from is not that of the log.
    """
    for cell in cells:
        films = {when: film(policy, reality, cell) for when, policy in policies.items()}
        if films["after"][1] and not films["before"][1]:
            return cell, films
        print(f"{cell}: not so under other noise", flush=True)
    raise ValueError(f"none of {len(cells)} starts that were gained is gained again under other noise")


def main(args: Args) -> None:
    size = SIZES[args.size]
    place = Place(size, (), args.out, args.logs or args.out / "logs")
    weights = {"before": begins_from(place), "after": place.snapshot(args.run, size.updates)}
    policies = {when: read_policy(place, path) for when, path in weights.items()}
    cells = gained_starts(place.logs, args.run, size.reality, size.updates)
    cell, real = told_again(policies, size.reality, cells)
    films: dict[str, Films] = {
        when: {f"{when}, in reality": real[when], f"{when}, in the dream": film(policy, DREAM, cell)}
        for when, policy in policies.items()
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
