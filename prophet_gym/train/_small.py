"""Train the small Prophet, on a CPU or a GPU: `prophet train --data DIR --out DIR`.

Each stage resumes after a kill, and the result is `OUT/checkpoint`. With `--base` and all of its weights, the
transformer is trained further from `OUT/latents.npz` alone.
"""

import copy
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch

from prophet_gym._arguments import (
    Count,
    CountOrNone,
    DeviceOrAuto,
    Fraction,
    Items,
    Minutes,
    NotNegative,
    OutFolder,
    Several,
    resolved_device,
)
from prophet_gym._checks import require_known
from prophet_gym._io.companions import next_steps
from prophet_gym._io.lora import add_lora, merge_lora, save_lora
from prophet_gym._io.networks import fill_matching, load_part, save_network
from prophet_gym._io.processes import by_main, is_main, joined, require_alike
from prophet_gym._io.processor import Precision
from prophet_gym.checkpoint import Checkpoint
from prophet_gym.data._episode import Episode, held_out
from prophet_gym.data._first_frames import first_frames
from prophet_gym.data._latents import LatentEpisodes
from prophet_gym.data._recording import list_recordings, name_of, opened
from prophet_gym.embodiments import get_embodiment
from prophet_gym.embodiments._urdf import UrdfOptions
from prophet_gym.envs._initial_states import INDEX_NAME, write_initial_states
from prophet_gym.prophet import FrameProphet, Prophet, SmallConfig, SmallProphet, TwoViewConfig, TwoViewProphet
from prophet_gym.prophet._autoencoder import FrameAutoencoder
from prophet_gym.prophet._gripper import GripperTracker
from prophet_gym.prophet._presets import small_transformer
from prophet_gym.prophet._transformer import ProphetTransformer3DModel
from prophet_gym.specs import CAMERAS, FIRST_CAMERA
from prophet_gym.train._autoencoder import encode_episodes, train_autoencoder, tune_decoder
from prophet_gym.train._dynamics import Rehearsal, train_tracker, train_transformer
from prophet_gym.train._fit import FitConfig
from prophet_gym.train._run_folder import (
    begin_run,
    counted,
    read_average,
    record_start,
    require_steps,
    run_lock,
    steps_done,
)
from prophet_gym.train._view import measure_view

Stage = Literal["all", "autoencoder", "decoder", "latents", "tracker", "transformer", "checkpoint"]
_STAGES: tuple[Stage, ...] = ("autoencoder", "decoder", "latents", "tracker", "transformer", "checkpoint")


@dataclass(frozen=True)
class Args(UrdfOptions):
    """Train the small Prophet from recordings or LeRobot data sets, or adapt a checkpoint of it to another scene.

    Under `accelerate launch --num_processes N -m prophet_gym train`, or torchrun, N processes average their gradients.
    """

    out: OutFolder  # Folder for training states, logs and the result.
    data: tuple[Path, ...] = ()
    """Recordings of `prophet collect` or `prophrl record`, not read if `--base` and `OUT/latents.npz` are enough; or
    `lerobot:FOLDER` or `lerobot:owner/repo`, a data set of any robot, of which the model reads the actions alone."""
    base: str | None = None
    """Checkpoint whose transformer to train further: a name such as `bundled`, or a folder. Its autoencoder, tracker,
    camera, settings, reward model, object reader and initial states are kept. By default all is trained from
    scratch."""
    lora_rank: CountOrNone = 0
    """Rank of LoRA adapters that fit the transformer of `--base` to the scene of the data, 16 in the paper. The
    tracker is then trained from scratch and the decoder further; camera, suite and look are the data's. 0 trains all
    weights of the transformer, for the scene of `--base`."""
    init_from: str | None = None
    """Checkpoint whose autoencoder and transformer to begin with, as far as their shapes fit; all else (cameras, sizes,
    scene) is that of the data. By default all begins at random."""
    stage: Stage = "all"  # Stage to run, or `all`.
    cameras: Annotated[tuple[str, ...], Several(none=True)] = ()
    """Cameras to dream: `agentview`, the default, or `agentview wrist`, which also dreams the robot's state; of a
    LeRobot data set its features, such as `observation.images.front`, by default the first."""
    size: tuple[Items, Items] | None = None
    """Height and width of each camera's image of a LeRobot data set, multiples of 16 of at least 64: images are cut to
    these proportions about their middle, then resized. By default the longer side is at most 128 pixels."""
    embodiment: str | None = None
    """Robot of a LeRobot data set: a name, or `module:NAME`; by default one with the set's own names, rate and
    ranges."""
    latent_channels: Items = 4  # Channels of the autoencoder's latents, when training from scratch.
    held_out: Count = 20  # Keep one episode in n for validation; of a base of LeRobot data sets, its own n.
    max_episodes: Count | None = None  # Maximum number of episodes to read of each recording.
    autoencoder_steps: CountOrNone = 12_000  # Number of optimizer steps of the autoencoder, on 32 crops each.
    decoder_steps: CountOrNone = 6_000  # Number of further steps of the decoder; the encoder is frozen.
    tracker_steps: CountOrNone = 8_000  # Number of optimizer steps of the gripper tracker, on 128 windows each.
    steps: Count = 8_000  # Number of optimizer steps of the transformer.
    minutes: Minutes = math.inf  # Maximum minutes of the transformer's training, stopped runs included.
    batch_size: Items = 16  # Number of chunks per step of one process.
    learning_rate: NotNegative = 1e-3  # Peak learning rate of the transformer.
    warmup: CountOrNone = 200  # Number of warm-up steps of the transformer.
    ema: Fraction = 0.999  # Decay of the moving average of the transformer's weights; the average is the result.
    chunks: Count = 4  # Mean length of the training dreams, in chunks.
    single_until: Fraction = 0.6  # Fraction of the steps that train on single chunks, before dreams begin.
    chunk: Count | None = None
    """Number of actions per chunk, when training from scratch; the robot's own by default."""
    layers: Items = 6  # Number of blocks of the transformer, when training from scratch.
    width: Items = 192  # Width of the transformer, when training from scratch.
    without: tuple[str, ...] = ()  # Episodes to leave out, for example `task_03/episode_00007`.
    device: DeviceOrAuto = "auto"  # Device to train on: `cpu`, `cuda`, or `auto`, the GPU if there is one.
    precision: Precision = "auto"
    """Precision of matrix products on a CPU: `bf16`, `no` (float32), or `auto`, bf16 if the CPU supports it."""


def main(args: Args) -> None:
    """Run the stages asked for; those that are done already take no steps."""
    device = begin_together(args)
    with run_lock(args.out, main=is_main()):
        args = replace(args, cameras=_require_cameras(args))
        folder = None if args.base is None else Checkpoint.named(args.base).folder
        stages = chosen_stages(args)
        data = {"data": args.data, "episodes": counted(args.data)}
        by_main(lambda: begin_stages(args, folder, stages, data))
        base = None if args.base is None else load_small(args.base)
        if base is not None and not isinstance(base, SmallProphet):
            raise ValueError(f"{folder} is of LeRobot data sets: name them, or give its weights as --init-from")
        if base is not None and len(args.cameras) > base.views:
            raise ValueError(
                f"the base {folder} dreams only {FIRST_CAMERA}, got --cameras {' '.join(args.cameras)}; leave it away"
            )
        known = None if args.init_from is None else load_small(args.init_from)
        by_main(lambda: record_start(args.out, "prophet train", args))
        Training(args, base, known, device).run(stages)


def begin_together(args: Args) -> torch.device:
    """Join the processes that were started together, if there are several; return this one's device."""
    device = resolved_device(args.device)
    if "WORLD_SIZE" in os.environ:
        joined(cpu=device == "cpu", precision="no")  # from here on `cuda` is this process's own GPU
        require_alike("arguments", {**asdict(args), "device": ""}, "start all with the same command")
    return torch.device(device)


def _require_cameras(args: Args) -> tuple[str, ...]:
    """Return the cameras of recordings to dream; raise ValueError for options that are of LeRobot data sets alone."""
    if args.size is not None or args.embodiment is not None or args.known():
        raise ValueError("--size, --embodiment and --urdf are of LeRobot data sets: a recording knows its robot")
    cameras = args.cameras or (FIRST_CAMERA,)
    for camera in cameras:
        require_known("camera", camera, CAMERAS)
    Several(needed=FIRST_CAMERA)("cameras", cameras)
    return cameras


def load_small(name: str) -> FrameProphet:
    """Return a small Prophet of any kind by name or folder."""
    prophet = Prophet.from_pretrained(Checkpoint.named(name).folder)
    if not isinstance(prophet, FrameProphet):
        raise ValueError(f"training begins with a checkpoint of the small Prophet, and {name} holds a full one")
    return prophet


def chosen_stages(args: Args) -> tuple[Stage, ...]:
    """Return the stages to run: the one that is named, or all that a base leaves."""
    if args.base is None and args.lora_rank:
        raise ValueError("adapters are put into a checkpoint: give --base, e.g. bundled, or leave --lora-rank away")
    if args.base is not None and args.init_from is not None:
        raise ValueError("a base is trained further as it is: give --base or --init-from, not both")
    # The base's transformer reads the latents of its own.
    if args.base is not None and args.stage == "autoencoder":
        raise ValueError("with a base its autoencoder is kept: leave --base away, or name another stage")
    if args.stage != "all":
        return (args.stage,)
    if args.base is None:
        return _STAGES
    encoded = (args.out / "latents.npz").exists()
    kept: tuple[Stage, ...] = ("decoder", "tracker") if args.lora_rank else ()
    return (*(() if encoded else ("latents",)), *kept, "transformer", "checkpoint")


def begin_stages(args: Args, base: Path | None, stages: Sequence[Stage], data: dict[str, Any]) -> None:
    """Check that every stage to come resumes with what it was begun with, `data` too, before anything is computed."""
    begins = {"base": base, **({"lora_rank": args.lora_rank} if base else {"chunk": args.chunk})}
    recorded = {**data, "held_out": args.held_out, "max_episodes": args.max_episodes}
    views = {} if args.cameras == (FIRST_CAMERA,) else {"cameras": args.cameras}
    known = {"init_from": args.init_from}
    network = {} if base is not None else {"layers": args.layers, "width": args.width, **views, **known, **args.known()}
    # Steps and minutes are not among them: a run may resume with more.
    training = {name: getattr(args, name) for name in ("batch_size", "chunks", "single_until", "warmup", "ema")}
    asked: dict[str, dict[str, Any]] = {
        "autoencoder": {**recorded, **known},
        "decoder": recorded,
        "latents": {**recorded, "base": base},
        "tracker": begins,
        "transformer": {**begins, **network, **training, "learning_rate": args.learning_rate},
    }
    done = {stage: steps_done(args.out, stage) > 0 for stage in asked}
    # Latents may be made again as long as nothing was trained on them; left as they are, they must be of this data.
    encoded = (args.out / "latents.npz").exists()
    done["latents"] = encoded and ("latents" not in stages or done["tracker"] or done["transformer"])
    for stage, settings in asked.items():
        if stage in stages or (stage == "latents" and encoded and args.data):
            begin_run(args.out, settings, begun=done[stage], stage=stage)
    most = (args.autoencoder_steps, args.decoder_steps, args.tracker_steps, args.steps)
    for stage, steps in zip(("autoencoder", "decoder", "tracker", "transformer"), most, strict=True):
        if stage in stages:
            require_steps(args.out, stage, steps)


@dataclass(frozen=True)
class Training:
    """Run the stages of training; each reads what the ones before left in the folder."""

    args: Args
    base: Any  # a SmallProphet that is trained further, or None
    known: FrameProphet | None  # only lends weights to begin with
    device: torch.device
    parts: ClassVar[tuple[str, ...]] = ("autoencoder", "tracker")  # of the base, that are kept

    def run(self, stages: Sequence[Stage]) -> None:
        """Run some stages, in this order; each is a method of its name."""
        if self.base is not None:
            # A new scene needs a new tracker; else the base's own is used.
            for name in self.parts[:1] if self.args.lora_rank else self.parts:
                if not (self.args.out / name).exists():
                    by_main(partial(save_network, getattr(self.base, name), self.args.out / name))
        for stage in stages:
            getattr(self, stage)()

    def autoencoder(self) -> None:
        steps, wide = self.args.autoencoder_steps, self.args.latent_channels
        known = None if self.known is None else self.known.autoencoder
        more = {"cameras": self._cameras, "latent_channels": wide, "base": known}
        train_autoencoder(self._recorded(), self.args.out, steps=steps, **more, **self._computed())

    def decoder(self) -> None:
        steps, cameras = self.args.decoder_steps, self._cameras
        tune_decoder(self._recorded(), self.args.out, steps=steps, cameras=cameras, **self._computed())

    def latents(self) -> None:
        autoencoder = self._part(FrameAutoencoder, "autoencoder").to(self.device)
        rest = self._hand_rest() if len(self._cameras) > 1 else None
        target = self.args.out / "latents.npz"
        by_main(lambda: encode_episodes(self._recorded(), autoencoder, rest).save(target))

    def tracker(self) -> None:
        args, config = self.args, self._config()
        data = LatentEpisodes.load(args.out / "latents.npz")
        known = None if self.base is None or args.lora_rank else self.base.tracker
        train_tracker(data, config, args.out, steps=args.tracker_steps, base=known, **self._computed())

    def transformer(self) -> None:
        args, config = self.args, self._config()
        torch.manual_seed(0)
        transformer = self._untrained(config)
        transformer.to(self.device).train()
        data, tracker = LatentEpisodes.load(args.out / "latents.npz"), self._tracker(config)
        schedule = FitConfig(args.steps, args.learning_rate, warmup=args.warmup, ema=args.ema, minutes=args.minutes)
        rehearsal = Rehearsal(args.batch_size, args.chunks, args.single_until)
        train_transformer(transformer, tracker, data, config, args.out, schedule, rehearsal, args.precision)
        if args.lora_rank:
            by_main(lambda: save_lora(transformer, args.out / "lora"))
            merge_lora(transformer)
        by_main(lambda: save_network(transformer, args.out / "transformer"))

    def checkpoint(self) -> None:
        """Put the parts together, the transformer averaged as far as it has come, and say what to do next."""
        args, config = self.args, self._config()
        transformer = self._untrained(config)
        transformer.load_state_dict(read_average(args.out, "transformer"), strict=False)
        if args.lora_rank:
            merge_lora(transformer)
        prophet, base = self._assembled(transformer, config), self.base
        if base is not None and (config.suite, config.look) == (base.config.suite, base.config.look):
            prophet.source = base.source  # the same scene: its initial states and its success head are true of it
        recorded, folder = self._recorded() if args.data else [], args.out / "checkpoint"
        by_main(lambda: _write_checkpoint(prophet, folder, recorded))
        if is_main():
            print(next_steps(folder, args.data[0] if args.data else "DIR", prophet.config.embodiment))

    def _tracker(self, config: Any) -> Any:
        """Return what tells the transformer where the gripper is."""
        del config
        return self._part(GripperTracker, "tracker")

    def _assembled(self, transformer: ProphetTransformer3DModel, config: Any) -> FrameProphet:
        """Put the result together."""
        parts = self._part(FrameAutoencoder, "autoencoder"), self._part(GripperTracker, "tracker")
        kind = TwoViewProphet if isinstance(config, TwoViewConfig) else SmallProphet
        return kind(transformer, *parts, config)

    @property
    def _cameras(self) -> tuple[str, ...]:
        return self.args.cameras if self.base is None else tuple(CAMERAS)[: self.base.views]

    def _computed(self) -> dict[str, Any]:
        return {"device": self.device, "precision": self.args.precision}

    def _part(self, kind: Any, name: str) -> Any:
        return load_part(kind, self.args.out / name).eval()

    def _episodes(self) -> Sequence[Path | Episode]:
        if not self.args.data:
            raise ValueError("this stage reads recordings: give --data, a folder that `prophet collect` wrote")
        return list(chain(*list_recordings(self.args.data, most=self.args.max_episodes, without=self.args.without)))

    def _recorded(self) -> Sequence[Path | Episode]:
        """Return the episodes to train on."""
        paths = [path for path in self._episodes() if not held_out(name_of(path), 1 / self.args.held_out)]
        if not paths:
            raise ValueError(
                f"{', '.join(map(str, self.args.data))} has no episode to train on beside those held out "
                f"(--held-out {self.args.held_out}: one in so many) and left out; record more with `prophet collect`"
            )
        return paths

    def _untrained(self, config: Any) -> ProphetTransformer3DModel:
        """Return the transformer that training begins with."""
        args = self.args
        if self.base is None:
            sizes: dict[str, Any] = {"views": len(args.cameras), "latent_channels": args.latent_channels}
            model = small_transformer(args.width, args.layers, action_dim=config.action_dim, **sizes)
            if self.known is not None:
                fill_matching(model, self.known.transformer)
            return model
        return self._further(self.base)

    def _further(self, base: FrameProphet) -> ProphetTransformer3DModel:
        """Return a copy of the base's transformer to train: the stages that follow read the base as it was."""
        transformer = copy.deepcopy(base.transformer).requires_grad_(requires_grad=True)
        if self.args.lora_rank:
            add_lora(transformer, self.args.lora_rank)
        return transformer

    def _config(self) -> Any:
        """Return the base's config, or what the scene and the robot of the first episode say."""
        base = None if self.base is None else self.base.config
        if base is not None and not self.args.lora_rank:
            return base
        episode = opened(self._episodes()[0])
        if episode.camera is None:
            raise ValueError(f"{episode.name} must say what camera looks on; record it with `prophet collect`")
        camera = tuple(map(tuple, episode.camera.astype(float).tolist()))
        scene = {"camera": camera, "suite": episode.sim.suite, "look": episode.sim.look}
        if base is not None:
            return replace(base, **scene)
        robot = get_embodiment(episode.robot)
        height, width = episode.frames(0, 1).shape[1:3]
        no_op = tuple(map(float, robot.action_before(episode.actions[0])))
        chunk, action_dim = self.args.chunk or robot.chunk, robot.action_spec.dim
        sizes = {"chunk": chunk, "frame_size": (height, width), "action_dim": action_dim}
        plain = {"embodiment": robot.name, "no_op": no_op, **sizes, **scene}
        if len(self.args.cameras) == 1:
            return SmallConfig(**plain)
        if robot.wrist is None:
            raise ValueError(f"{robot.name} must say where the camera at its hand sits (`Embodiment.wrist`)")
        wrist = tuple(map(tuple, robot.wrist.tolist()))
        hand = {"wrist": wrist, "hand_rest": tuple(self._hand_rest().tolist()), "opening": robot.gripper.opening}
        data = LatentEpisodes.load(self.args.out / "latents.npz")
        return measure_view(TwoViewConfig(**plain, **hand), data)

    def _hand_rest(self) -> np.ndarray:
        """Return the hand's quaternion that turns are measured from: the base's, or that of the first frame."""
        if self.base is not None:
            return np.array(self.base.config.hand_rest)  # pyright: ignore[reportAttributeAccessIssue]
        return opened(self._episodes()[0]).sim.gripper_quaternion[0].astype(np.float64)


def _write_checkpoint(prophet: Prophet, folder: Path, recorded: Sequence[Path | Episode]) -> None:
    """Save a model with what its base had beside it.

    Where there are no initial states, first frames of the recorded episodes become the split `train`.
    """
    places = [folder, *([] if prophet.source is None else [prophet.source])]
    if recorded and not any(any((place / "starts").glob(f"*/{INDEX_NAME}")) for place in places):
        write_initial_states(folder / "starts" / "train", first_frames(recorded, prophet.frame_size))
    prophet.save_pretrained(folder)
