"""`prophet calibrate`: compare a reward model with the truth, on recorded episodes and on dreams of their actions."""

from dataclasses import dataclass
from typing import Any

from prophet_gym._arguments import resolved_device
from prophet_gym.cli._options import BatchOptions, HeldOutOptions


@dataclass(frozen=True, kw_only=True)
class Args(BatchOptions, HeldOutOptions):
    """Compare a reward model with the simulator's truth.

    Scores each recorded episode twice: its own frames, and a dream from its first frame under the recorded actions,
    whose true outcome is taken to be the recording's. Reports precision, recall and false-positive rate with 95%
    intervals, by episode, task, policy and time since the initial state, and the calibration of the probabilities.
    """

    reward: str = "classifier"
    """Name of a reward model, as `gym.make(..., reward=)` takes it."""
    dream: bool = True
    """Also score dreams; `--no-dream` scores recorded episodes only."""


def main(args: Args) -> dict[str, Any]:
    from prophet_gym._io.progress import progress
    from prophet_gym.checkpoint import Checkpoint
    from prophet_gym.evaluation._calibration import RATES, SOURCES, calibrate, grouped, score_videos, summary
    from prophet_gym.evaluation._dreams import dreamt_frames, labelled
    from prophet_gym.evaluation._report import machine, table

    if args.reward == "None":
        raise ValueError("calibration needs a reward model to compare with the truth, got --reward None")
    checkpoint, device = Checkpoint.named(args.world_model), resolved_device(args.device)
    reward_model, world_model = checkpoint.reward_model(args.reward, device), checkpoint.world_model(device)
    assert reward_model is not None
    episodes, recorded = args.read(checkpoint)
    card: dict[str, Any] = {
        "checkpoint": args.world_model,
        "judge": args.reward,
        **recorded,
        "chunk": world_model.chunk,
        "seed": args.seed,
        "machine": machine(),
    }
    sources = {"real": (labelled(episode, episode.frames()) for episode in episodes)}
    if args.dream:
        dreams = dreamt_frames(world_model, episodes, args.batch_size, args.seed)
        sources["dream"] = (labelled(episodes[number], frames) for number, frames in dreams)
    for name, videos in sources.items():
        shown = iter(progress(videos, f"score: {SOURCES[name]}", total=len(episodes), unit="episode"))
        card[name] = calibrate(score_videos(reward_model, shown, world_model.chunk))
    print(table(["", "scored", *RATES.values()], summary(card)))
    for name in sources:
        for group, label in (("by_age", "frames since the start"), ("by_policy", "who acted"), ("by_task", "task")):
            print(f"\n{table([f'{SOURCES[name]}: {label}', 'count', *RATES.values()], grouped(card, name, group))}")
    return card
