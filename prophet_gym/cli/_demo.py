"""`prophet demo`: dream an initial state under the recorded actions and under others; it needs only the checkpoint."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice, product
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from prophet_gym._arguments import Count, Items, OutFolder, Tasks, Whole, Writable, resolved_device
from prophet_gym.cli._options import DreamOptions

LIBERO, DREAM, OTHER = "LIBERO", "dream, same actions", "dream, other actions"
MOMENTS = 8
CLOSEST_FIRST = (3, 5, 0, 8)
"""Tasks of the bundled checkpoint's own episodes, by how close its dream of each looks to the recording."""


@dataclass(frozen=True, kw_only=True)
class Args(DreamOptions):
    """Dream a recorded episode, and the same initial state under another episode's actions, beside the recording.

    Writes demo.mp4 and demo.png (a contact sheet) and prints how close the dreams come and how fast they were.
    """

    data: Path | None = None
    """Recording of `prophet collect`; the checkpoint's own episodes by default."""
    tasks: Tasks = ()
    """Numbers of the tasks to show, in this order; all by default."""
    episodes: Items = 3
    """Maximum number of episodes to show."""
    steps: Count = 160
    """Maximum number of actions of each episode."""
    out: OutFolder = Path("outputs")
    """Folder for the video and the contact sheet."""
    scale: Annotated[int, Whole(1, 32)] = 3
    """Factor by which the video's frames are enlarged."""
    animation: Annotated[Path, Writable(endings=(".gif", ".webp"))] | None = None
    """Also write a small endless animation of the first episode to this .gif or .webp file."""


@dataclass(frozen=True)
class Scene:
    """Hold an episode as recorded and as dreamt; frame 0 of each video is the recorded one."""

    instruction: str
    videos: dict[str, np.ndarray]
    seconds: float

    @property
    def steps(self) -> int:
        return len(self.videos[LIBERO]) - 1


def main(args: Args) -> dict[str, Any]:
    import imageio.v3 as iio

    from prophet_gym._io.pictures.panels import contact_sheet, stack, write_animation, write_mp4
    from prophet_gym._io.progress import doing, progress
    from prophet_gym.checkpoint import Checkpoint
    from prophet_gym.evaluation._report import machine, table

    with doing("loading the world model and the episodes"):
        world_model = Checkpoint.named(args.world_model).world_model(resolved_device(args.device))
        episodes = demo_episodes(args)
    scenes = [
        dream_scene(world_model, episode, other_actions, args.steps, args.seed)
        for episode, other_actions in progress(episodes, "dream", unit="episode")
    ]
    fps = int(episodes[0][0].fps)
    video = (
        image
        for scene in progress(scenes, "draw and encode", unit="episode")
        for image in scene_images(scene, args.scale)
    )
    write_mp4(args.out / "demo.mp4", video, fps)
    moments = [np.linspace(0, scene.steps, MOMENTS).round().astype(int).tolist() for scene in scenes]
    sheets = [contact_sheet(scene.videos, at, scene.instruction) for scene, at in zip(scenes, moments, strict=True)]
    iio.imwrite(args.out / "demo.png", stack(sheets))
    if args.animation is not None:
        every_second = list(islice(scene_images(scenes[0], 2), 0, None, 2))
        write_animation(args.animation, every_second, fps // 2)
    found = measure(scenes)
    frames, seconds = sum(2 * scene.steps for scene in scenes), sum(scene.seconds for scene in scenes)
    print(table(["PSNR dB / EPE px", "8 frames", "64 frames", "to the end"], _rows(found)))
    print(
        f"\n{frames} frames dreamt in {seconds:.1f} s: {frames / seconds:.0f} frames/s, two dreams at once "
        f"(the camera's rate is {fps})\nwrote {args.out / 'demo.mp4'} and {args.out / 'demo.png'}"
    )
    speed = {"rows": 2, "frames_per_second": round(frames / seconds, 1)}
    return {"checkpoint": args.world_model, "metrics": found, "speed": speed, "machine": machine()}


def demo_episodes(args: Args) -> list[tuple[Any, np.ndarray]]:
    """Return the recorded episodes to show, each with the actions of the one that follows it."""
    from prophet_gym.checkpoint import Checkpoint
    from prophet_gym.data._recording import read_episode

    folder = args.data or Checkpoint.named(args.world_model).folder / "demo"
    if not folder.is_dir():
        raise FileNotFoundError(f"there is no folder {folder}; give as --data what `prophet collect` wrote")
    found = [read_episode(path) for path in sorted(folder.glob("**/episode_*.npz"))]
    if len(found) < 2:
        raise ValueError(f"{folder} must hold at least two recorded episodes, found {len(found)}; give other --data")
    if args.data is None:
        # A stable sort: tasks that the list does not name keep their order, behind those that it does.
        places = {task: place for place, task in enumerate(CLOSEST_FIRST)}
        found.sort(key=lambda episode: places.get(episode.sim.task, len(places)))
    pairs = [(episode, found[(i + 1) % len(found)].actions) for i, episode in enumerate(found)]
    if args.tasks:
        recorded = sorted({episode.sim.task for episode in found})
        missing = sorted(set(args.tasks) - set(recorded))
        if missing:
            raise ValueError(f"{folder} has episodes of the tasks {recorded}, none of {missing}; give other --tasks")
        pairs = [pair for task in args.tasks for pair in pairs if pair[0].sim.task == task]
    return pairs[: args.episodes]


def dream_scene(world_model: Any, episode: Any, other_actions: np.ndarray, steps: int, seed: int) -> Scene:
    """Dream an episode under its own actions and under others, both at once and with the same noise."""
    import torch

    from prophet_gym.evaluation import dream

    steps = min(steps, len(episode), len(other_actions)) // world_model.chunk * world_model.chunk
    if steps == 0:
        raise ValueError(f"an episode must have at least one chunk of {world_model.chunk} actions, got {len(episode)}")
    recorded = episode.frames()[: steps + 1]
    actions = np.stack([episode.actions[:steps], other_actions[:steps]])
    state = world_model.encode(torch.from_numpy(np.repeat(recorded[None, :1], 2, axis=0)))
    began = time.perf_counter()
    dreamt = dream(world_model, state, actions, [seed, seed]).frames
    seconds = time.perf_counter() - began
    same, other = (np.concatenate([recorded[:1], row]) for row in dreamt)
    return Scene(episode.instruction, {LIBERO: recorded, DREAM: same, OTHER: other}, seconds)


def scene_images(scene: Scene, scale: int) -> Iterator[np.ndarray]:
    """Yield the labelled images of a scene's video."""
    from prophet_gym._io.pictures.panels import side_by_side

    for i in range(scene.steps + 1):
        panels = {label: video[i] for label, video in scene.videos.items()}
        yield side_by_side(panels, f"{scene.instruction}   {i}/{scene.steps}", scale)


def measure(scenes: Sequence[Scene]) -> dict[str, dict[str, dict[str, float]]]:
    """Return the mean PSNR and EPE of the dreamt frames over the first 8, the first 64 and all frames."""
    from prophet_gym._io.progress import progress
    from prophet_gym.evaluation._metrics import frame_metrics

    found: dict[str, dict[str, dict[str, float]]] = {}
    labels = (DREAM, OTHER, "last frame copied")
    measured: dict[str, list[Any]] = {label: [] for label in labels}
    for label, scene in progress([*product(labels, scenes)], "measure", unit="video"):
        recorded = scene.videos[LIBERO]
        shown = scene.videos.get(label, np.broadcast_to(recorded[:1], recorded.shape))
        measured[label].append(frame_metrics(recorded[1:], np.ascontiguousarray(shown[1:])))
    for label, metrics in measured.items():
        found[label] = {}
        for name, frames in (("8", 8), ("64", 64), ("all", 10**6)):
            summaries = [m.first(frames).summary() for m in metrics if frames == 10**6 or len(m.psnr) >= frames]
            if summaries:
                found[label][name] = {
                    key: round(float(np.mean([s[key] for s in summaries])), 4) for key in ("PSNR_mean", "EPE_mean")
                }
    return found


def _rows(found: dict[str, dict[str, dict[str, float]]]) -> list[list[str]]:
    def cell(value: dict[str, float] | None) -> str:
        return "-" if value is None else f"{value['PSNR_mean']:.2f} / {value['EPE_mean']:.3f}"

    return [[label, *(cell(by_length.get(key)) for key in ("8", "64", "all"))] for label, by_length in found.items()]
