"""`prophet calibrate`: how far a judge is to be trusted, on recorded episodes and on dreams of the same actions."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro
from jaxtyping import UInt8

from prophet_gym.arguments import Arguments, Count, Device, Items, OutFile, Seed, Several, Workers


@dataclass(frozen=True)
class Args(Arguments):
    """Compare a judge's verdicts with the simulator's truth.

    Each recorded episode is judged twice: its own frames, and a dream from its first frame under the recorded actions,
    whose truth is that of the recording. Gives precision, recall and false positive rate with 95% intervals: by
    episode, by task, by who acted, by the dream's age; and how often a stated probability is right.
    """

    checkpoint: str = "bundled"
    """Dreams, and has the judge `classifier`: `bundled`, the name of a bundled checkpoint, or a folder."""
    reward: str = "classifier"
    """Any judge that `gym.make(..., reward=)` takes."""
    data: Path | None = None
    """A recording of `prophet collect`; without it, episodes from the official starts are recorded first, and kept."""
    episodes: Items = 40
    """How many, spread evenly over the tasks."""
    ages: Annotated[tuple[Count, ...], Several()] = (40, 80, 160, 240)
    """Upper bounds of the age groups, frames since the start."""
    dream: bool = True
    """Also judge dreams; with --no-dream recorded episodes alone."""
    rows: Items = 8
    """Episodes dreamt at once."""
    device: Device = "cpu"
    seed: Seed = 0
    """Of the dreams' noise."""
    workers: Workers = 2
    """Processes that record."""
    out: OutFile = Path("calibration.json")
    """The card; beside it `NAME.svg`, the reliability plot."""
    without: tuple[str, ...] = ()
    """Episodes of `data` to leave out, e.g. `task_03/episode_00007`."""


def main(args: Args) -> None:
    """Run the command."""
    from tqdm import tqdm

    from prophet_gym._report import machine, table, write_json
    from prophet_gym.checkpoint import Checkpoint
    from prophet_gym.cli.evaluate import Args as EvaluateArgs
    from prophet_gym.cli.evaluate import record_official
    from prophet_gym.data.recording import list_episodes, read_episode, read_meta
    from prophet_gym.evaluation._calibration import RATES, SOURCES, calibrate, grouped, score_videos, summary

    if args.reward == "None":
        raise ValueError("calibration needs a reward model to compare with the truth, got --reward None")
    checkpoint = Checkpoint.named(args.checkpoint)
    reward_model = checkpoint.reward_model(args.reward, args.device)
    assert reward_model is not None
    world_model = checkpoint.world_model(args.device)
    recording = EvaluateArgs(args.checkpoint, episodes=args.episodes, device=args.device, workers=args.workers)
    paths = (
        list_episodes(args.data, evaluating=True, without=args.without)[: args.episodes]
        if args.data
        else record_official(recording)
    )
    if not paths:
        raise ValueError(f"{args.data} holds no complete episode; make some with `prophet collect --out {args.data}`")
    meta = read_meta(paths[0].parents[1], needs=("suite", "look"))
    episodes = [read_episode(path) for path in paths]
    card: dict[str, Any] = {
        "checkpoint": args.checkpoint,
        "judge": args.reward,
        "suite": meta["suite"],
        "look": meta["look"],
        "starts": meta.get("starts", "random"),
        "chunk": world_model.chunk,
        "seed": args.seed,
        "machine": machine(),
    }
    sources = {"real": recorded_videos(episodes)}
    if args.dream:
        sources["dream"] = dreamt_videos(world_model, episodes, args.rows, args.seed)
    for name, videos in sources.items():
        with tqdm(total=len(episodes), desc=f"judge {name} episodes", unit="episode") as bar:
            scored = score_videos(reward_model, videos, world_model.chunk, progress=bar.update)
        card[name] = calibrate(scored, ages=args.ages)
    print(table(["", "judged", *RATES.values()], summary(card)))
    for name in sources:
        for group, label in (("by_age", "frames since the start"), ("by_policy", "who acted"), ("by_task", "task")):
            print(f"\n{table([f'{SOURCES[name]}: {label}', 'count', *RATES.values()], grouped(card, name, group))}")
    write_json(args.out, card)
    print(f"wrote {args.out}")
    from prophet_gym._reliability_plot import reliability_svg

    curves = {name: card[name]["reliability"]["bins"] for name in sources if card[name]["reliability"]}
    if curves:
        image = args.out.with_suffix(".svg")
        image.write_text(reliability_svg(curves), encoding="utf-8")
        print(f"wrote {image}")


def recorded_videos(episodes: Sequence[Any]) -> Iterator[Any]:
    """The recorded frames with their labels, one episode at a time."""
    from prophet_gym.evaluation._calibration import LabelledVideo

    for episode in episodes:
        yield LabelledVideo(
            episode.frames(), episode.sim.success, episode.instruction, episode.sim.task, episode.sim.mode
        )


def dreamt_videos(world_model: Any, episodes: Sequence[Any], rows: int, seed: int) -> Iterator[Any]:
    """Dreams of the recorded actions with the labels of the recorded episodes."""
    from prophet_gym.evaluation._calibration import LabelledVideo

    for number, frames in dreamt_frames(world_model, episodes, rows, seed):
        episode = episodes[number]
        labels = episode.sim.success[: len(frames)]
        yield LabelledVideo(frames, labels, episode.instruction, episode.sim.task, episode.sim.mode)


def dreamt_frames(
    world_model: Any, episodes: Sequence[Any], rows: int, seed: int
) -> Iterator[tuple[int, UInt8[np.ndarray, "t h w 3"]]]:
    """Dreams of the recorded actions from the recorded first frames, as (number of the episode, its frames).

    Episodes are dreamt in batches of similar length; an episode's dream ends with its last whole chunk.
    """
    import torch

    from prophet_gym.evaluation import dream

    chunk = world_model.chunk
    order = sorted(range(len(episodes)), key=lambda number: len(episodes[number]))
    for first in range(0, len(order), rows):
        numbers = order[first : first + rows]
        batch = [episodes[number] for number in numbers]
        whole = [len(episode) // chunk * chunk for episode in batch]
        actions = np.zeros((len(batch), max(whole), batch[0].actions.shape[1]), np.float32)
        for row, (episode, steps) in enumerate(zip(batch, whole, strict=True)):
            actions[row, :steps] = episode.actions[:steps]
        starts = np.stack([episode.frames()[:1] for episode in batch])
        if not max(whole):
            yield from zip(numbers, starts, strict=True)
            continue
        state = world_model.encode(torch.from_numpy(starts))
        frames = dream(world_model, state, actions, [seed + number for number in numbers]).frames
        for row, (number, steps) in enumerate(zip(numbers, whole, strict=True)):
            yield number, np.concatenate([starts[row], frames[row, :steps]])


if __name__ == "__main__":
    main(tyro.cli(Args))
