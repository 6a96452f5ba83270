"""Open-loop evaluation: dream from real frames under the recorded actions, and compare with what really followed.

Beside the dream stand what it must beat (the last frame copied), what it cannot beat (the autoencoder alone), and the
same dream under another episode's actions, which must be worse: that is how much the model listens.
"""

import os
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import TypeAlias

import numpy as np
import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from prophet_gym._io.progress import progress as progress_bar
from prophet_gym.data._episode import Episode
from prophet_gym.evaluation._dreams import begin_episodes, dream
from prophet_gym.evaluation._metrics import FrameMetrics, frame_metrics, optical_flow
from prophet_gym.specs import FIRST_CAMERA, WRIST_CAMERA
from prophet_gym.world_model import Reconstructs, Resumes, ResumesBoth, State, WorldModel

METRICS = {"psnr": "PSNR_mean", "ssim": "SSIM_mean", "tssim": "tSSIM_mean", "epe": "EPE_mean", "cosine": "dir_cos_mean"}
GRIPPER = "gripper_mm"
OBJECT = "object_mm"
_ENCODED_FRAMES = 4  # the most that `WorldModel.encode` takes
_RESUMED_FRAMES = 20  # as many as the bundled Prophet carries
_RECONSTRUCTED_FRAMES = 32  # pass the autoencoder at once, for memory
_MOVED = 0.02  # metres that an object must move in a window to be scored: one that stands is predicted by copying
_READABLE = 0.03  # metres by which the reader may err on the real frame that is scored: in the basket the object hides
_STILL = 0.002  # metres within which an arm is at rest: it shows nothing, and copying the last frame is then perfect

ReadObject: TypeAlias = Callable[[UInt8[Tensor, "t h w 3"], str], Float[Tensor, "t 3"]]
"""World positions (metres) of the object that an instruction names, in frames: `ObjectReader.positions`."""
_Notes: TypeAlias = dict[tuple[str, str], list[list[float]]]
Scores: TypeAlias = Mapping[int, Mapping[str, Mapping[str, np.ndarray]]]
"""`scores[horizon][condition][metric][i]`: the mean over the windows of episode i, NaN where it has no window."""


@dataclass(frozen=True)
class Window:
    """Say which frames to predict: those after frame `start` of an episode, up to each horizon."""

    episode: int
    start: int
    horizons: tuple[int, ...]

    @property
    def length(self) -> int:
        return max(self.horizons)


def windows_of(
    episodes: Sequence[Episode], horizons: Sequence[int], spacing: int, *, still: float = _STILL
) -> list[Window]:
    """Choose where to dream from, and how far; where a known gripper stays within `still` metres there is no window.

    Windows of a horizon begin at frame 0 and then every `max(horizon, spacing)` frames, so they do not overlap, and
    shorter horizons are read off the beginning of longer ones.
    """
    found: dict[tuple[int, int], list[int]] = defaultdict(list)
    for horizon in sorted(set(horizons)):
        for number, episode in enumerate(episodes):
            for start in range(0, len(episode.actions) - horizon + 1, max(horizon, spacing)):
                if episode.tools is None:
                    found[number, start].append(horizon)
                    continue
                path = episode.gripper_position[start : start + horizon + 1]
                if np.linalg.norm(path - path[0], axis=1).max() >= still:
                    found[number, start].append(horizon)
    return [Window(episode, start, tuple(reached)) for (episode, start), reached in found.items()]


def evaluate_open_loop(
    world_model: WorldModel,
    episodes: Sequence[Episode],
    horizons: Sequence[int] = (8, 64, 160, 240),
    *,
    rows: int = 8,
    spacing: int = 32,
    seed: int = 0,
    read_object: ReadObject | None = None,
    camera: str = FIRST_CAMERA,
    progress: bool = False,
) -> Scores:
    """Score a world model against recorded episodes.

    Conditions: `dream`; `other_actions` (the dream under the actions of the next episode that is long enough, at the
    same time); `copy` (the last recorded frame, repeated); and `autoencoder` if the model `Reconstructs`. `windows_of`
    chooses the windows. The model is given a window's first frame and what came before it: twenty frames and the past
    actions if it `Resumes`, else up to four frames. Only the predicted frames are scored.

    Metrics: those of `METRICS`; `gripper_mm`, the error of the gripper's position at the window's end, if the model
    `TracksGripper`; and `object_mm`, the error of the target object's position as `read_object` estimates it from the
    window's last frame. `object_mm` is over the windows in which the object moves by 2 cm or more and `read_object` is
    within 3 cm on the recorded last frame; its condition `real` is the error of `read_object` on recorded frames.

    Args:
        world_model: Any world model.
        episodes: Recorded episodes; a horizon leaves out those that are shorter.
        horizons: Numbers of frames to predict, multiples of the model's chunk; by default 0.4 to 12 seconds of LIBERO.
        rows: Batch size: the number of windows dreamt at once.
        spacing: Minimum number of frames between windows; a large one leaves one window per episode.
        seed: Seed of the noise.
        read_object: Estimates the target object's position from a frame.
        camera: The camera whose frames are scored; a model that dreams both is given both.
        progress: Whether to show a progress bar.

    Raises:
        ValueError: A horizon is no multiple of the chunk, no episode reaches the shortest horizon, or the model or an
            episode lacks the camera.
    """
    windows = _checked_windows(world_model, episodes, horizons, spacing, camera)
    scores: dict[int, _Notes] = {h: defaultdict(lambda: [[] for _ in episodes]) for h in sorted(set(horizons))}
    bar = progress_bar(None, "evaluate", total=sum(w.length for w in windows), unit="frame", shown=progress)
    # Optical flow and SSIM leave the interpreter to others while they compute, so threads are enough.
    with bar, ThreadPoolExecutor(os.cpu_count()) as pool:
        for batch in _batches(windows, rows, _past_frames(world_model)):
            stretches = list(pool.map(lambda window: _Stretch.cut(episodes[window.episode], window, camera), batch))
            predictions = _predict(world_model, stretches, episodes, seed)
            measured = pool.map(lambda p: frame_metrics(p.target.future, p.frames, p.target.flow), predictions)
            for prediction, metrics in zip(predictions, measured, strict=True):
                for horizon in prediction.target.window.horizons:
                    _note(scores[horizon], prediction, metrics.first(horizon), horizon // world_model.chunk)
            if read_object is not None:
                _note_objects(scores, stretches, predictions, read_object)
            bar.update(sum(window.length for window in batch))
    return {horizon: _episode_means(notes) for horizon, notes in scores.items()}


def require_dreams(world_model: WorldModel, camera: str) -> None:
    """Raise ValueError unless the world model dreams a camera."""
    if camera != FIRST_CAMERA and not isinstance(world_model, ResumesBoth):
        raise ValueError(f"camera={camera!r} must be one that the world model dreams: it dreams only {FIRST_CAMERA}")


def _checked_windows(
    world_model: WorldModel, episodes: Sequence[Episode], horizons: Sequence[int], spacing: int, camera: str
) -> list[Window]:
    wrong = [horizon for horizon in horizons if horizon < 2 or horizon % world_model.chunk]
    if wrong:
        raise ValueError(f"horizons must be multiples of the chunk ({world_model.chunk}) above 1, got {wrong}")
    require_dreams(world_model, camera)
    windows = windows_of(episodes, horizons, spacing)
    if not windows:
        raise ValueError(
            f"no episode is long enough, or none moves: horizons {list(horizons)} need at least {min(horizons)} "
            f"actions, the longest of {len(episodes)} episodes has {max(map(len, episodes), default=0)}"
        )
    return windows


@dataclass(frozen=True)
class _Stretch:
    """Hold a window with its episode up to its end: what is given, and what is to be predicted."""

    window: Window
    episode: Episode
    camera: str
    frames: UInt8[np.ndarray, "t h w 3"]
    flow: np.ndarray

    @classmethod
    def cut(cls, episode: Episode, window: Window, camera: str) -> "_Stretch":
        frames = episode.frames(0, window.start + window.length + 1, camera=camera)
        return cls(window, episode, camera, frames, optical_flow(frames[window.start + 1 :]))

    @property
    def future(self) -> UInt8[np.ndarray, "t h w 3"]:
        return self.frames[self.window.start + 1 :]

    def past(self, count: int, camera: str | None = None) -> UInt8[np.ndarray, "t h w 3"]:
        """Return the newest frames that are given, of the camera that is scored or of another."""
        first, end = max(0, self.window.start + 1 - count), self.window.start + 1
        if camera in (None, self.camera):
            return self.frames[first:end]
        return self.episode.frames(first, end, camera=camera)


@dataclass(frozen=True)
class _Prediction:
    target: _Stretch
    condition: str
    frames: UInt8[np.ndarray, "t h w 3"]
    gripper: Float[np.ndarray, "n 3"] | None


def _predict(
    world_model: WorldModel, stretches: Sequence[_Stretch], episodes: Sequence[Episode], seed: int
) -> list[_Prediction]:
    predictions = [_Prediction(s, "copy", np.repeat(s.past(1), s.window.length, axis=0), None) for s in stretches]
    if isinstance(world_model, Reconstructs):
        predictions += [_Prediction(s, "autoencoder", _reconstructed(world_model, s), None) for s in stretches]
    others = [(stretch, _other_episode(stretch.window, episodes)) for stretch in stretches]
    sources = {
        "dream": [(stretch, stretch.episode) for stretch in stretches],
        "other_actions": [(stretch, other) for stretch, other in others if other is not None],
    }
    for condition, able in sources.items():
        if not able:
            continue
        target = [stretch for stretch, _ in able]
        actions = np.stack([source.actions[s.window.start :][: s.window.length] for s, source in able])
        # One seed an episode: the same noise for both conditions, and whatever the batch around it.
        seeds = [seed + s.window.episode for s in target]
        dreamt = dream(world_model, _begin(world_model, target), actions, seeds, target[0].camera)
        for row, stretch in enumerate(target):
            path = None if dreamt.gripper is None else dreamt.gripper[row]
            predictions.append(_Prediction(stretch, condition, dreamt.frames[row], path))
    return predictions


def _begin(world_model: WorldModel, stretches: Sequence[_Stretch]) -> State:
    if not any(stretch.window.start for stretch in stretches):
        return begin_episodes(world_model, [stretch.episode for stretch in stretches])

    def past(camera: str) -> UInt8[Tensor, "b t h w 3"]:
        return torch.from_numpy(np.stack([each.past(_past_frames(world_model), camera) for each in stretches]))

    frames, actions = past(FIRST_CAMERA), None
    first = min(stretch.window.start for stretch in stretches)
    # At an episode's start there is no chunk of past actions: the model takes the arm to be at rest.
    if isinstance(world_model, Resumes) and first >= world_model.chunk:
        led = [s.episode.actions[s.window.start - world_model.chunk : s.window.start] for s in stretches]
        actions = torch.from_numpy(np.stack(led))
    if isinstance(world_model, ResumesBoth) and all(len(each.episode.cameras) > 1 for each in stretches):
        return world_model.resume_both(frames, past(WRIST_CAMERA), actions)
    if actions is None or not isinstance(world_model, Resumes):
        return world_model.encode(frames)
    return world_model.resume(frames, actions)


def _past_frames(world_model: WorldModel) -> int:
    return _RESUMED_FRAMES if isinstance(world_model, Resumes) else _ENCODED_FRAMES


def _reconstructed(world_model: Reconstructs | ResumesBoth, stretch: _Stretch) -> UInt8[np.ndarray, "t h w 3"]:
    """Return the real future through the autoencoder, the given frame before every piece: a dream may keep from it."""
    pieces = []
    if stretch.camera == FIRST_CAMERA:
        assert isinstance(world_model, Reconstructs)
        reconstruct = world_model.reconstruct
    else:
        assert isinstance(world_model, ResumesBoth)
        reconstruct = world_model.reconstruct_wrist
    for i in range(0, stretch.window.length, _RECONSTRUCTED_FRAMES):
        frames = np.concatenate([stretch.past(1), stretch.future[i : i + _RECONSTRUCTED_FRAMES]])
        pieces.append(reconstruct(torch.from_numpy(frames[None]))[0, 1:].cpu().numpy())
    return np.concatenate(pieces)


def _other_episode(window: Window, episodes: Sequence[Episode]) -> Episode | None:
    """Return the next episode that lasts as long as the window; None if no other does."""
    others = (*episodes[window.episode + 1 :], *episodes[: window.episode])
    return next((other for other in others if len(other.actions) >= window.start + window.length), None)


def _batches(windows: Sequence[Window], rows: int, past: int) -> Iterator[list[Window]]:
    """Yield windows of one length that have equally many frames before them; the longest first."""

    # The longest first, so that the last batch of the run, which may be small, is a short one.
    def kind(window: Window) -> tuple[int, int]:
        return -window.length, min(window.start + 1, past)

    for _, group in groupby(sorted(windows, key=lambda w: (*kind(w), w.episode, w.start)), key=kind):
        same = list(group)
        yield from (same[i : i + rows] for i in range(0, len(same), rows))


def _note(notes: _Notes, prediction: _Prediction, metrics: FrameMetrics, chunks: int) -> None:
    summary, window = metrics.summary(), prediction.target.window
    for name, key in METRICS.items():
        notes[prediction.condition, name][window.episode].append(summary[key])
    if prediction.gripper is not None:
        end = window.start + chunks * (window.length // len(prediction.gripper))
        distance = np.linalg.norm(prediction.gripper[chunks - 1] - prediction.target.episode.gripper_position[end])
        notes[prediction.condition, GRIPPER][window.episode].append(1000.0 * float(distance))


def _note_objects(
    scores: dict[int, _Notes],
    stretches: Sequence[_Stretch],
    predictions: Sequence[_Prediction],
    read_object: ReadObject,
) -> None:
    for stretch in stretches:
        window, episode = stretch.window, stretch.episode
        if episode.target_positions is None:
            continue
        path = episode.target_positions[window.start :]
        moved = [h for h in window.horizons if np.linalg.norm(path[h] - path[0]) >= _MOVED]
        if not moved:
            continue
        shown = {p.condition: p.frames for p in predictions if p.target is stretch} | {"real": stretch.future}
        errors = {}
        for condition, frames in shown.items():
            last = torch.from_numpy(frames[[horizon - 1 for horizon in moved]])
            errors[condition] = np.linalg.norm(read_object(last, episode.instruction).numpy() - path[moved], axis=1)
        for number, horizon in enumerate(moved):
            if errors["real"][number] < _READABLE:
                for condition, distances in errors.items():
                    scores[horizon][condition, OBJECT][window.episode].append(1000.0 * float(distances[number]))


def _episode_means(notes: _Notes) -> dict[str, dict[str, np.ndarray]]:
    means: dict[str, dict[str, np.ndarray]] = defaultdict(dict)
    for (condition, metric), values in notes.items():
        seen = [[value for value in episode if not np.isnan(value)] for episode in values]
        means[condition][metric] = np.array([np.mean(v) if v else np.nan for v in seen])
    return dict(means)
