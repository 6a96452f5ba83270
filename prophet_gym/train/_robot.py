"""`prophet train`: recordings train `_small`'s models, LeRobot data sets an `ActionProphet`.

It goes through the same stages but for the gripper tracker, which it does not have.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar
from zlib import crc32

import numpy as np
import torch
from jaxtyping import Float

from prophet_gym._io.networks import fill_matching
from prophet_gym._io.processes import by_main, is_main
from prophet_gym.checkpoint import Checkpoint
from prophet_gym.data._episode import Episode, held_out
from prophet_gym.data._mixture import named_options
from prophet_gym.data._recording import list_recordings
from prophet_gym.data._stacked import StackedSource, is_lerobot
from prophet_gym.embodiments import Robot, named_robot
from prophet_gym.embodiments._urdf import read_calibration, read_chain, tool_path
from prophet_gym.prophet import ActionConfig, ActionProphet, FrameProphet
from prophet_gym.prophet._autoencoder import FrameAutoencoder
from prophet_gym.prophet._gripper import Untracked
from prophet_gym.prophet._presets import action_transformer
from prophet_gym.prophet._transformer import ProphetTransformer3DModel
from prophet_gym.specs import FIRST_CAMERA, ActionSpec
from prophet_gym.train import _small
from prophet_gym.train._run_folder import record_start, results_of, run_lock
from prophet_gym.train._small import Args, Stage, Training, begin_stages, begin_together, chosen_stages, load_small

_MARGIN = 0.05
"""Widen the range of the data's actions by this part of it on either side, to bounds: a policy may go beyond it."""
_NARROWEST = 1e-3
"""Take at least this as the range, and as the deviation, of a number that never changes."""


def main(args: Args) -> dict[str, Any] | None:
    """Run the stages asked for, and return what there is then; those that are done already take no steps."""
    (_train if any(map(is_lerobot, args.data)) else _small.main)(args)
    return results_of(args.out) if is_main() else None


def _train(args: Args) -> None:
    if args.stage == "tracker":
        raise ValueError("a model of a LeRobot data set has no tracker: leave that stage away")
    device = begin_together(args)
    with run_lock(args.out, main=is_main()):
        base, shape = None, (args.cameras, args.size)
        if args.base is not None:
            base, shape = _load_base(args), shape_of(Checkpoint.named(args.base))
            # What was kept from its training is kept from all that follows.
            args = replace(args, held_out=base.config.held_out)
        sets = open_sets(args.data, *shape)
        if args.without:
            raise ValueError("episodes of a LeRobot data set are left out by number: lerobot:PATH,without=3+7")
        stages: list[Stage] = [stage for stage in chosen_stages(args) if stage != "tracker"]
        shape = {"cameras": sets[0].cameras, "size": sets[0].size, "embodiment": args.embodiment}
        data = {"data": [each.root for each in sets], "episodes": _counted(sets), **shape}
        by_main(lambda: begin_stages(args, None if base is None else base.source, stages, data))
        known = None if args.init_from is None else load_small(args.init_from)
        training = ActionTraining(args, base, known, device, tuple(sets))
        training._config()  # what cannot be trained is refused before anything is computed
        by_main(lambda: record_start(args.out, "prophet train", args))
        training.run(stages)


def _load_base(args: Args) -> ActionProphet:
    """Return the model that is trained further; ValueError for one of another kind, or what it fixes itself."""
    assert args.base is not None
    base = load_small(args.base)
    if not isinstance(base, ActionProphet):
        raise ValueError(
            f"--base {args.base} must be a model of a LeRobot data set, is a {type(base).__name__}: give --init-from, "
            "which begins with the weights that fit"
        )
    names = ("cameras", "size", "embodiment", "chunk", "urdf")
    fixed = {f"--{name}": getattr(args, name) for name in names}
    if given := [name for name, value in fixed.items() if value]:
        raise ValueError(f"{', '.join(given)} and all else of that kind are those of --base: leave them away")
    return base


def open_sets(
    data: Sequence[Path],
    cameras: Sequence[str] = (),
    size: tuple[int, int] | None = None,
    *,
    evaluating: bool = False,
) -> list[StackedSource]:
    """Open LeRobot data sets; the cameras and the size of the first are those of all; `evaluating` fits nothing."""
    if not all(map(is_lerobot, data)):
        raise ValueError(f"data must be LeRobot data sets or recordings, not both, got {', '.join(map(str, data))}")
    first = StackedSource(str(data[0]), cameras, size, evaluating=evaluating)
    shape = (first.cameras, first.size)
    return [first, *(StackedSource(str(name), *shape, evaluating=evaluating) for name in data[1:])]


def read_recorded(
    data: Sequence[Path], most: int | None, without: Sequence[str], shape: tuple[Sequence[str], tuple[int, int] | None]
) -> list[Sequence[Path | Episode]]:
    """List the episodes of several recordings, or of LeRobot data sets with the cameras and the size of `shape`."""
    if not any(map(is_lerobot, data)):
        return [*list_recordings(data, most=most, without=without)]
    return [each.episodes(most) for each in open_sets(data, *shape)]


def shape_of(checkpoint: Checkpoint) -> tuple[Sequence[str], tuple[int, int]]:
    """Return the cameras that a checkpoint dreams, and the size of each one's image."""
    cameras, (height, width) = tuple(checkpoint.config.get("cameras", ())), checkpoint.config["frame_size"]
    return cameras, (height // max(1, len(cameras)), width)


def kept_out(data: str, checkpoint: Checkpoint, most: int) -> list[Episode]:
    """Read the first `most` episodes of a LeRobot data set that training kept out, or those that the name lists.

    ValueError where there are none, or where the checkpoint cannot dream them.
    """
    config = checkpoint.config
    if "cameras" not in config:
        raise ValueError(
            f"{checkpoint.folder} must have been trained on LeRobot data sets to be compared with {data}: give a "
            "recording of `prophet collect`, or --world-model of `prophet train --data lerobot:...`"
        )
    source = open_sets([Path(data)], *shape_of(checkpoint), evaluating=True)[0]
    share, chosen = 1 / config.get("held_out", 20), "episodes" in named_options(data)[1]
    episodes = [each for each in source.episodes() if chosen or held_out(each.name, share)][:most]
    if not episodes:
        raise ValueError(
            f"{data} must have an episode that training kept out (one in {config.get('held_out', 20)}) and has none; "
            f"name such as were not trained on: {data},episodes=3+7"
        )
    if (width := episodes[0].actions.shape[1]) != config["action_dim"]:
        raise ValueError(f"actions of {data} have {width} dimensions, those of the checkpoint {config['action_dim']}")
    return episodes


def _counted(sets: Sequence[StackedSource]) -> dict[str, str]:
    """Count the episodes of data sets and sum up their lengths, to tell whether they have changed."""
    lengths = {str(each.root.resolve()): [each.steps(index) for index in range(len(each))] for each in sets}
    return {name: f"{len(steps)} ({crc32(repr(steps).encode()):08x})" for name, steps in lengths.items()}


@dataclass(frozen=True)
class ActionTraining(Training):
    """Run the stages of training on LeRobot data sets."""

    sets: tuple[StackedSource, ...]
    parts: ClassVar[tuple[str, ...]] = ("autoencoder",)

    @property
    def _cameras(self) -> tuple[str, ...]:
        return (FIRST_CAMERA,)  # into whose frames a set stacks all that it has

    @cached_property
    def _all(self) -> list[Episode]:
        return [episode for each in self.sets for episode in each.episodes(self.args.max_episodes)]

    def _episodes(self) -> Sequence[Episode]:
        return self._all

    def _tracker(self, config: ActionConfig) -> Untracked:
        return Untracked(config.chunk, self.device)

    def _untrained(self, config: ActionConfig) -> ProphetTransformer3DModel:
        args = self.args
        if self.base is not None:
            return self._further(self.base)
        model = action_transformer(config, args.width, args.layers, latent_channels=args.latent_channels)
        if self.known is not None:
            fill_matching(model, self.known.transformer)
        return model

    def _assembled(self, transformer: ProphetTransformer3DModel, config: ActionConfig) -> FrameProphet:
        return ActionProphet(transformer, self._part(FrameAutoencoder, "autoencoder"), config)

    def _config(self) -> ActionConfig:
        return self._described

    @cached_property
    def _described(self) -> ActionConfig:
        """Return what the data say: their robot, its actions, and how large frames are."""
        first, recorded = self.sets[0], [each for each in self._recorded() if isinstance(each, Episode)]
        widths = {episode.actions.shape[1] for episode in recorded}
        if len(widths) > 1:
            raise ValueError(f"all episodes must have actions of one width, got {sorted(widths)}; train them apart")
        actions = np.concatenate([episode.actions for episode in recorded]).astype(np.float64)
        if self.base is not None:
            return self._adapted(self.base.config, actions)
        robot = self._robot(recorded[0], actions)
        spec, (height, width) = robot.action_spec, first.size
        moments: dict[str, Any] = {
            "action_mean": tuple(actions.mean(axis=0).tolist()),
            "action_std": tuple(np.maximum(actions.std(axis=0), _NARROWEST).tolist()),
        }
        return ActionConfig(
            **moments,
            chunk=self.args.chunk or robot.chunk,
            frame_size=(len(first.cameras) * height, width),
            action_dim=spec.dim,
            cameras=first.cameras,
            action_names=spec.names,
            action_low=spec.low,
            action_high=spec.high,
            rest_action=robot.rest_action,
            fps=recorded[0].fps,
            held_out=self.args.held_out,
            embodiment=robot.name,
            **self._tools(spec.names, actions),
            suite=first.suite,
            look="recorded",
        )

    def _adapted(self, base: ActionConfig, actions: Float[np.ndarray, "n a"]) -> ActionConfig:
        """Return the config of the base: adapters make it that of another scene, whose actions may reach farther."""
        if actions.shape[1] != base.action_dim:
            raise ValueError(
                f"actions of the base have {base.action_dim} dimensions ({', '.join(base.action_names)}), the data's "
                f"{actions.shape[1]}: train a model of their own, with --init-from"
            )
        found = described_robot(base.embodiment, None, actions, base.fps).action_spec
        low, high = np.minimum(base.action_low, found.low), np.maximum(base.action_high, found.high)
        bounds = {"action_low": tuple(low.tolist()), "action_high": tuple(high.tolist())}
        scene = {"suite": self.sets[0].suite} if self.args.lora_rank else {}
        # Its actions stay in deviations of the data that it began with: the weights know no others.
        return replace(base, **bounds, held_out=self.args.held_out, **scene)

    def _tools(self, names: Sequence[str], actions: Float[np.ndarray, "n a"]) -> dict[str, Any]:
        """Return what the URDF and the calibration say, where they are given."""
        args, first = self.args, self.sets[0]
        if not args.known():
            return {}
        chain = read_chain(args, names, actions)
        path = tool_path(chain, torch.from_numpy(actions)).numpy()
        found: dict[str, Any] = {
            "tool_chain": chain,
            "tool_mean": tuple(path.mean(axis=0).tolist()),
            "tool_std": tuple(np.maximum(path.std(axis=0), _NARROWEST).tolist()),
        }
        if args.calibration is not None:
            cameras = {each.camera: each.episode(0).frames(0, 1).shape[1:3] for each in first.sources}
            found["tool_cameras"] = read_calibration(args.calibration, cameras, first.size)
        return found

    def _robot(self, episode: Episode, actions: Float[np.ndarray, "n a"]) -> Robot:
        """Return the robot that is named, or one as the data describe it."""
        if self.args.embodiment is None:
            names = self.sets[0].action_names
            return described_robot(episode.robot, names, actions, episode.fps)
        robot = named_robot(self.args.embodiment)
        if robot.action_spec.dim != actions.shape[1]:
            raise ValueError(
                f"actions of {robot.name} have {robot.action_spec.dim} dimensions, the data's {actions.shape[1]}; name "
                "another --embodiment, or leave it away"
            )
        return robot


def described_robot(
    name: str, names: Sequence[str] | None, actions: Float[np.ndarray, "n a"], fps: float | int
) -> Robot:
    """Return a robot whose actions have the names of a data set, and bounds a little wider than all that it did."""
    low, high = actions.min(axis=0), actions.max(axis=0)
    margin = np.maximum(_MARGIN * (high - low), _NARROWEST)
    numbered = tuple(f"action_{number}" for number in range(actions.shape[1]))
    bounds = (tuple(bound.tolist()) for bound in (low - margin, high + margin))
    return Robot(name=name, action_spec=ActionSpec(tuple(names or numbered), *bounds), control_hz=float(fps))
