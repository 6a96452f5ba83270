"""One start before and after learning, in LIBERO and in the dream: `python docs/proof_video.py --size short`.

Writes `docs/proof.webp`. The start is the first official one that was gained in LIBERO or, if more were lost, the
first that was lost, and that is so once more: episodes in LIBERO with the same weights and seeds do not always end the
same. How many there were of each is in the tables of docs/proof.md.
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

from proof import begins_from, cells_of, evaluation_seed  # noqa: E402
from proof_episodes import seeds_of  # noqa: E402
from proof_files import EVALUATIONS, Place, read_lines, read_policy  # noqa: E402
from proof_sizes import DREAM, SFT, SIZES  # noqa: E402

from prophrl_algos.cli.common import make_env  # noqa: E402
from prophrl_algos.evaluate import ode_schedule  # noqa: E402
from prophrl_algos.flow.policy import FlowPolicy  # noqa: E402
from prophrl_algos.flow.sampler import sample  # noqa: E402
from prophrl_algos.rollout import commands  # noqa: E402

Runs = dict[str, tuple[str, int, Path]]
"""When -> run, update and weights."""


@dataclass(frozen=True)
class Args:
    """Film it."""

    size: str = "short"
    run: str = "fa-grpo-s0"
    out: Path = Path("outputs/proof_short")
    """As given to benchmarks/proof.py."""
    logs: Path | None = None
    """Likewise."""
    dream: str = ""
    """Likewise."""
    picture: Path = ROOT / "docs" / "proof.webp"
    every: int = 4
    """Of the frames, one in so many is shown."""


def changed_starts(logs: Path, run: str, reality: str, updates: int) -> tuple[bool, list[dict[str, int]]]:
    """Whether most of the official starts with another outcome than before were gained, and those that changed so.

    Raises:
        ValueError: none changed, or one of the two policies is not evaluated yet.
    """
    lines = read_lines(logs / EVALUATIONS)
    found = {(line["run"], line["update"]): line for line in lines if line["world"] == reality}
    missing = [name for name, update in ((SFT, 0), (run, updates)) if (name, update) not in found]
    if missing:
        raise ValueError(f"{logs / EVALUATIONS} has no episodes of {', '.join(missing)}: evaluate it first")
    before, after = found[SFT, 0], found[run, updates]
    changed: dict[bool, list[dict[str, int]]] = {True: [], False: []}
    for task, start, was, done in zip(after["task"], after["start"], before["success"], after["success"], strict=False):
        if was != done:
            changed[bool(done)].append({"task": task, "start": start})
    gained = len(changed[True]) >= len(changed[False])
    if not changed[gained]:
        raise ValueError(f"{run} ends from every official start as the cloned policy did")
    return gained, changed[gained]


def film(
    policy: FlowPolicy,
    world: str,
    cell: dict[str, int],
    seeds: tuple[int, int] = (0, 0),
    starts: str = "official",
    dream: str = "",
) -> tuple[np.ndarray, bool]:
    """All frames of an episode, and whether it succeeds there; the seeds are of the env and of the policy's noise."""
    options = {"render": "step"} if world.startswith("LIBERO-") else {}
    env = make_env(world, 1, starts=starts, tasks=[cell["task"]], dream=dream, options=options)
    observation, info = env.reset(seed=seeds[0], options={name: [value] for name, value in cell.items()})
    text, frames, over, success = str(info["instruction"][0]), [np.asarray(observation["image"])], False, False
    schedule, generator = ode_schedule(policy), torch.Generator().manual_seed(seeds[1])
    while not over:
        obs = policy.prepare(observation, [text])
        actions = policy.decode(sample(policy, obs, schedule, [generator]).x0, obs)
        observation, _, terminated, truncated, info = env.step(commands(actions, env, np.arange(1)))
        frames.append(info["frames"][0][: int(info["executed"][0])])
        success |= bool(info["success"][0])
        over = bool(terminated[0] or truncated[0])
    env.close()
    return np.concatenate(frames), success


def film_all(
    place: Place, runs: Runs, cell: dict[str, int], world: str, dream: str = ""
) -> dict[str, tuple[np.ndarray, bool]]:
    """The same start for each of the policies, by the seeds of their evaluation."""
    films = {}
    for when, (run, update, weights) in runs.items():
        cells = cells_of(place.size, run, update, world)
        seeds = seeds_of(place.size, world, cells, cells.index(cell), evaluation_seed(place.size, run, update))
        films[when] = film(read_policy(place, weights), world, cell, seeds, dream=dream)
    return films


def main(args: Args) -> None:
    size = SIZES[args.size]
    place = Place(size, (), args.out, args.logs or args.out / "logs")
    runs: Runs = {
        "before": (SFT, 0, begins_from(place)),
        "after": (args.run, size.updates, place.snapshot(args.run, size.updates)),
    }
    gained, changed = changed_starts(place.logs, args.run, size.reality, size.updates)
    for cell in changed:
        real = film_all(place, runs, cell, size.reality)
        if [done for _, done in real.values()] == [not gained, gained]:
            break
        print(f"{cell}: ends otherwise this time")
    else:
        raise ValueError(f"none of {len(changed)} starts ends as {place.logs / EVALUATIONS} says, so none can be shown")
    dreamt = film_all(place, runs, cell, DREAM, args.dream)
    films = {
        when: {f"{when}, in LIBERO": real[when], f"{when}, in the dream": dreamt[when]} for when in runs
    }  # fmt: skip
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
