"""Film one initial state before and after learning, in LIBERO and in the dream.

    python -m experiments.reinforce_in_dream.video --size short

The state is the first official one that was gained in LIBERO or, if more were lost, the first that was lost, and that
is so once more: episodes in LIBERO with the same weights and seeds do not always end the same. README.md says how many
there were of each. A caption shows an outcome from the moment on at which the episode has ended.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from jaxtyping import UInt8

from experiments.reinforce_in_dream.episodes import seeds_of
from experiments.reinforce_in_dream.files import EVALUATIONS, IMAGES, Place, read_lines, read_policy
from experiments.reinforce_in_dream.protocol import DREAM, SFT, SIZES
from experiments.reinforce_in_dream.run import cells_of, evaluation_seed
from prophet_gym._io.pictures.panels import side_by_side, stack, write_animation
from prophrl_algos._named import make_env
from prophrl_algos.flow import FlowPolicy, FlowSchedule, sample
from prophrl_algos.rollout._collect import env_actions

Runs = dict[str, tuple[str, int, Path]]
"""When -> run, update and weights."""
Video = tuple[UInt8[np.ndarray, "t h w 3"], bool]
"""Frames, and whether the episode succeeds."""


@dataclass(frozen=True)
class Args:
    """Choose what to film."""

    size: str = "short"
    run: str = "fa-grpo-s0"
    out: Path = Path("outputs/reinforce_short")
    """As given to the run."""
    logs: Path | None = None
    """As given to the run."""
    dream: str = ""
    """As given to the run."""
    image: Path = IMAGES / "video.webp"
    every: int = 4
    """One frame in so many is shown."""


def changed_starts(logs: Path, run: str, libero: str, updates: int) -> tuple[bool, list[dict[str, int]]]:
    """Return whether most of the states with another outcome than before were gained, and those that changed so.

    Raises:
        ValueError: None changed, or one of the two policies is not evaluated yet.
    """
    lines = read_lines(logs / EVALUATIONS)
    found = {(line["run"], line["update"]): line for line in lines if line["world"] == libero}
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
        raise ValueError(f"{run} ends from every official state as the cloned policy did")
    return gained, changed[gained]


def record(
    policy: FlowPolicy, world: str, cell: dict[str, int], seeds: tuple[int, int] = (0, 0), dream: str = ""
) -> Video:
    """Film an episode from an official state; the seeds are of the env and of the policy's noise."""
    options = {"render": "step"} if world.startswith(("LIBERO-", "Prophet-")) else {}
    env = make_env(world, 1, starts="official", tasks=[cell["task"]], world_model=dream, options=options)
    observation, info = env.reset(seed=seeds[0], options={name: [value] for name, value in cell.items()})
    text, frames, over, success = str(info["instruction"][0]), [np.asarray(observation["image"])], False, False
    schedule, generator = FlowSchedule(policy.spec.num_steps, 0.0), torch.Generator().manual_seed(seeds[1])
    while not over:
        obs = policy.prepare(observation, [text])
        actions = policy.decode(sample(policy, obs, schedule, [generator]).x0, obs)
        observation, _, terminated, truncated, info = env.step(env_actions(actions, env, np.arange(1)))
        frames.append(info["frames"][0][: int(info["executed"][0])])
        success |= bool(info["success"][0])
        over = bool(terminated[0] or truncated[0])
    env.close()
    return np.concatenate(frames), success


def record_all(place: Place, runs: Runs, cell: dict[str, int], world: str, dream: str = "") -> dict[str, Video]:
    """Film the same state for each of the policies, by the seeds of their evaluation."""
    videos = {}
    for when, (run, update, weights) in runs.items():
        cells = cells_of(place.size, run, update, world)
        seeds = seeds_of(place.size, world, cells, cells.index(cell), evaluation_seed(place.size, run, update))
        videos[when] = record(read_policy(place, weights), world, cell, seeds, dream)
    return videos


def captioned(row: Mapping[str, Video], moment: int, scale: int = 2) -> UInt8[np.ndarray, "h w 3"]:
    """Draw films of one policy side by side at a moment, with the outcomes of those that have ended by then."""
    frames = {label: images[min(moment, len(images) - 1)] for label, (images, _) in row.items()}
    ended = {label: done for label, (images, done) in row.items() if moment >= len(images) - 1}
    return side_by_side(
        frames, " | ".join(f"{label}: {'success' if done else 'failure'}" for label, done in ended.items()), scale
    )


def main(args: Args) -> None:
    """Run the command."""
    size = SIZES[args.size]
    place = Place(size, (), args.out, args.logs or args.out / "logs")
    runs: Runs = {
        "before": (SFT, 0, place.initial_weights()),
        "after": (args.run, size.updates, place.snapshot(args.run, size.updates)),
    }
    gained, changed = changed_starts(place.logs, args.run, size.libero, size.updates)
    for cell in changed:
        libero = record_all(place, runs, cell, size.libero)
        if [done for _, done in libero.values()] == [not gained, gained]:
            break
        print(f"{cell}: ends otherwise this time")
    else:
        raise ValueError(f"none of {len(changed)} states ends as {place.logs / EVALUATIONS} says, so none can be shown")
    dreamt = record_all(place, runs, cell, DREAM, args.dream)
    videos = {when: {f"{when}, in LIBERO": libero[when], f"{when}, in the dream": dreamt[when]} for when in runs}
    longest = max(len(frames) for row in videos.values() for frames, _ in row.values())
    moments = [*range(0, longest - 1, args.every), longest - 1]
    images = [stack([captioned(row, moment) for row in videos.values()]) for moment in moments]
    write_animation(args.image, images, 20 // args.every)
    print(f"{cell}: wrote {args.image}")


if __name__ == "__main__":
    main(tyro.cli(Args))
