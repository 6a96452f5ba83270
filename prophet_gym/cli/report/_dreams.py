"""Film what a trained world model dreams of held-out episodes, beside their recordings."""

from pathlib import Path

import numpy as np
import torch

from prophet_gym.checkpoint import Checkpoint
from prophet_gym.cli.report._films import Film, Films, write_films
from prophet_gym.cli.report._runs import Run
from prophet_gym.data._episode import held_out
from prophet_gym.data._recording import list_recordings, name_of, read_episode
from prophet_gym.evaluation import dream
from prophet_gym.evaluation._metrics import frame_metrics

_STEPS, _FIRST, _WORST = 160, 2, 2
"""Dream at most so many actions of an episode; show the first episodes, and the worst of the others."""


def film_dreams(run: Run, episodes: int, device: str) -> None:
    """Dream held-out episodes of the run's recordings with its checkpoint; the run's folder keeps the films.

    Raises:
        ValueError: The run is none of `prophet train`, has no checkpoint yet, or none of its episodes is held out.
    """
    folder = run.folder / "checkpoint"
    begun = [each for each in run.history if str(each.get("command", "")).startswith("prophet train ")]
    data = next((each["arguments"] for each in begun[::-1] if each["arguments"].get("data")), None)
    if data is None or not (folder / "prophet.json").is_file():
        raise ValueError(
            f"films need a run of `prophet train` that has ended and says which recordings it read, and {run.folder} "
            f"{'has no checkpoint' if data else 'does not say it'}; leave --films away"
        )
    listed = list_recordings([Path(each) for each in data["data"]], without=data["without"])
    kept = [path for paths in listed for path in paths if held_out(name_of(path), 1 / data["held_out"])][:episodes]
    if not kept:
        raise ValueError(f"no episode of {', '.join(data['data'])} is held out for validation; leave --films away")
    world_model = Checkpoint.named(str(folder)).world_model(device)
    found = []
    for path in kept:
        episode = read_episode(path)
        steps = min(_STEPS, len(episode)) // world_model.chunk * world_model.chunk
        recorded = episode.frames()[: steps + 1]
        state = world_model.encode(torch.from_numpy(recorded[None, :1]))
        dreamt = np.concatenate([recorded[:1], dream(world_model, state, episode.actions[None, :steps], [0]).frames[0]])
        metrics = frame_metrics(recorded[1:], np.ascontiguousarray(dreamt[1:])).summary()
        found.append((name_of(path), episode, {"recorded": recorded, "dreamt": dreamt}, metrics))
    worst = sorted(range(min(_FIRST, len(found)), len(found)), key=lambda number: found[number][3]["PSNR_mean"])
    films = []
    for number in [*range(min(_FIRST, len(found))), *worst[:_WORST]]:
        name, episode, videos, metrics = found[number]
        kind = "one of the first" if number < _FIRST else "one of the worst"
        caption = f"{name}, {kind}: “{episode.instruction}”. PSNR {metrics['PSNR_mean']:.1f} dB."
        films.append(Film(videos, episode.instruction, caption, float(episode.fps)))
    rows = [
        [name, episode.instruction, *(f"{metrics[key]:.3g}" for key in ("PSNR_mean", "EPE_mean"))]
        for name, episode, _, metrics in found
    ]
    about = (
        f"Held-out episodes as recorded and as the checkpoint dreams them from the first frame and the actions, up to "
        f"{_STEPS} of them. Shown are the first episodes and the worst of the others, by PSNR."
    )
    write_films(run.folder, films, Films(about, {}, ["episode", "instruction", "PSNR dB", "EPE px"], rows))
