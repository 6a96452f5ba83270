"""Train the full Prophet: `prophet pretrain --base DIR --data DIR --out DIR`, on several GPUs with `accelerate launch`.

The result is `OUT/checkpoint`, or the adapters alone in `OUT/lora`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float32
from torch.nn import functional as F

from prophet_gym._arguments import (
    Arguments,
    Count,
    CountOrNone,
    Fraction,
    Items,
    NotNegative,
    OutFolder,
    Positive,
    Seed,
)
from prophet_gym._io.companions import next_steps
from prophet_gym._io.lora import save_lora
from prophet_gym._io.processes import joined
from prophet_gym._io.processes._sharding import is_sharded, whole
from prophet_gym.data._mixture import read_mixture_entry
from prophet_gym.data._recipe import described, expanded
from prophet_gym.data._windows import Tools, ToPlan, WindowDataset, as_given
from prophet_gym.embodiments import EMBODIMENTS, Embodiment, get_embodiment
from prophet_gym.embodiments._kinematics import ARM_DIM, tool_frame_deltas
from prophet_gym.prophet import Prophet
from prophet_gym.prophet._action_frames import plan
from prophet_gym.train._fit import FitConfig
from prophet_gym.train._full import Batching, choose_trained, clip_shape, config_of, drawing, train_full
from prophet_gym.train._run_folder import begin_run, record_start, require_steps, results_of, run_lock, steps_done

Actions = Float32[np.ndarray, "k a"]
ModelActions = Float32[np.ndarray, "k m"]


@dataclass(frozen=True, kw_only=True)
class FullOptions(Arguments):
    """Configure the training of a full Prophet; the optimizer's defaults are A2World's (reference.md section 1)."""

    lora_rank: CountOrNone = 0  # Rank of the LoRA adapters, 16 in the paper; 0 trains all weights.
    steps: Count = 30_000  # Number of optimizer steps.
    batch_size: Items = 1  # Number of windows in a batch of one process.
    accumulate: Count = 1  # Number of batches per optimizer step (gradient accumulation).
    learning_rate: Positive = 1e-4  # Peak learning rate.
    warmup: CountOrNone = 1000  # Number of warm-up steps.
    weight_decay: NotNegative = 0.1  # Weight decay of AdamW, only for matrices.
    ema: Fraction = 0.999  # Decay of the moving average of the weights; the average is the result.
    precision: Literal["auto", "bf16", "no"] = "auto"  # `bf16`, `no` (float32), or `auto`: bf16 on a GPU.
    gradient_checkpointing: bool = True
    """Recompute the activations of each block in the backward pass, which takes less memory and more time."""
    workers: CountOrNone = 4  # Number of processes that decode windows, for each process that trains.
    save_every: Positive = 1800.0  # Number of seconds between training states.
    keep: Count = 2  # Number of training states to keep.
    seed: Seed = 0  # Seed of data order, noise and adapters.
    cpu: bool = False  # Train on the CPU even where there is a GPU.

    def schedule(self) -> FitConfig:
        """Return what `fit` reads of them."""
        return FitConfig(
            steps=self.steps, learning_rate=self.learning_rate, warmup=self.warmup, weight_decay=self.weight_decay,
            ema=self.ema, accumulate=self.accumulate, save_every=self.save_every, keep=self.keep, seed=self.seed,
        )  # fmt: skip

    def accelerator(self) -> Any:
        """Return the accelerator that they ask for."""
        on_gpu = torch.cuda.is_available() and not self.cpu
        precision = ("bf16" if on_gpu else "no") if self.precision == "auto" else self.precision
        return joined(cpu=self.cpu, precision=precision)


@dataclass(frozen=True)
class Args(FullOptions):
    """Train all weights of the full Prophet, or adapters (LoRA) in it."""

    base: str  # Checkpoint to begin with, as `prophet convert` writes it: a folder or Hub repository.
    data: tuple[str, ...]
    """Data sets, each `PATH`, `KIND:PATH` or `KIND:PATH,name=value,...`, or the sets of a recipe below a folder:
    `recipe:prophet,root=FOLDER`, where a TOML file may take the place of `prophet`. Kinds are rlds, agibot, droid,
    bridge, lerobot and, for HDF5, libero, libero_regenerated, robomimic. The names are: weight; camera; actions
    (`checkpoint`: the actions are those of the base's robot, or of another robot by its name; `poses`: the motion
    between the tools' poses; `given`: model actions); state, numbers, open, closed and calibration (the poses of the
    tools and the camera); and the options of the data set's reader."""
    out: OutFolder  # Folder for training states, logs and the result.
    dry_run: bool = False
    """Print what would be read, and whether it is there, and train nothing: neither base nor data need be there."""
    draw_tools: bool = False
    """Train the action-frame conditioner too, on the windows whose tool poses and camera are known. The result draws
    action frames in its dreams, as does a base that draws them."""
    self_forcing: Count = 1  # Number of chunks per window; after the first they continue the model's own frames.
    sampler_steps: Count = 5  # Number of sampler steps that generate those frames.
    shard: bool = False
    """Spread weights, gradients and moments over the processes (FSDP2), for models that do not fit on one GPU."""


WAYS = ("checkpoint", *EMBODIMENTS, "given", "poses")
"""Name the ways in which actions can be read, the default first."""
MAY_CHANGE = (
    "out", "steps", "batch_size", "accumulate", "precision", "gradient_checkpointing", "workers", "save_every",
    "keep", "cpu", "shard", "dry_run",
)  # fmt: skip
"""Arguments that may differ when a run resumes."""


def main(args: Args) -> dict[str, Any] | None:
    """Run the steps that are left and write the result."""
    if args.dry_run:
        print(plan := described(args.data, WAYS))
        return {"plan": plan.splitlines()}
    batching = Batching(args.batch_size, args.self_forcing, args.sampler_steps, args.workers)
    accelerator = args.accelerator()
    prophet = open_base(args, accelerator.device)
    clips = open_clips(prophet, args.data, args.self_forcing)
    if args.gradient_checkpointing:
        prophet.transformer.enable_gradient_checkpointing()
    with run_lock(args.out, main=accelerator.is_main_process):
        if accelerator.is_main_process:
            begin_run(args.out, args, begun=steps_done(args.out, "full") > 0, free=MAY_CHANGE)
        require_steps(args.out, "full", args.steps)
        if accelerator.is_main_process:
            record_start(args.out, "prophet pretrain", args)
        schedule = replace(args.schedule(), sharded=args.shard)
        train_full(prophet, clips, args.out, schedule, batching, accelerator=accelerator)
        weights = {name: whole(each) for name, each in trained_of(prophet).items()}
        if accelerator.is_main_process:
            write_result(unsharded(prophet, args, weights), args)
    accelerator.end_training()
    return results_of(args.out) if accelerator.is_main_process else None


def open_base(args: Args, device: torch.device) -> Prophet:
    """Return the model that training begins with, its trained weights marked."""
    prophet = Prophet.from_pretrained(args.base, device=device)
    if args.draw_tools and not config_of(prophet).draw_tools:
        if args.lora_rank:
            raise ValueError(
                "adapters do not train the action-frame conditioner: give --draw-tools with --lora-rank 0, or a base "
                "whose prophet.json says draw_tools"
            )
        prophet = drawing(prophet)
    choose_trained(prophet, lora_rank=args.lora_rank, seed=args.seed)
    return prophet


def trained_of(prophet: Prophet) -> dict[str, torch.Tensor]:
    """Return the weights that are trained."""
    return {name: each for name, each in prophet.transformer.named_parameters() if each.requires_grad}


def unsharded(prophet: Prophet, args: Args, weights: Mapping[str, torch.Tensor]) -> Prophet:
    """Return the model with these weights, made again where its own are in shards."""
    if not any(map(is_sharded, trained_of(prophet).values())):
        return prophet
    made = open_base(args, torch.device("cpu"))
    with torch.no_grad():
        for name, each in trained_of(made).items():
            each.copy_(weights[name])
    return made


def open_clips(prophet: Prophet, data: tuple[str, ...], chunks: int) -> WindowDataset:
    """Open the data sets of a mixture as clips for this checkpoint."""
    config = config_of(prophet)
    plans = _ways(get_embodiment(config.embodiment), prophet.transformer.config["action_dim"])
    entries = [read_mixture_entry(text, plans) for text in expanded(data, plans)]
    return WindowDataset(entries, clip_shape(config, chunks))


def _ways(robot: Embodiment, action_dim: int) -> dict[str, ToPlan]:
    """Return the ways `WAYS` by name."""
    ways: list[ToPlan] = [
        partial(robot_plan, robot=each, action_dim=action_dim) for each in (robot, *EMBODIMENTS.values())
    ]
    return dict(zip(WAYS, [*ways, as_given, partial(poses_plan, action_dim=action_dim)], strict=True))


def robot_plan(actions: Actions, tools: Tools, *, robot: Embodiment, action_dim: int) -> tuple[ModelActions, Tools]:
    """Return the model's actions for a robot's, and where they lead from the true pose at the window's current frame.

    Both are what a rollout from that pose computes; true poses after it are not read. So the images show what
    was commanded, as they will in dreams; the true path would tell what came of it (a grasp that held the gripper open,
    an arm that lagged or was stopped), which no dream can know beforehand.

    Differences from the paper: it reads actions off the recorded poses, see `poses_plan`; for BRIDGE, whose actions
    are their differences, that is the same but for the gripper.
    """
    if tools is None and robot.posed:
        raise ValueError(
            f"what {robot.name}'s actions come to depends on where the tools are, which this data set does not say; "
            "name its states and what they hold, state=COLUMN,numbers=xyz+euler+gripper, or add actions=given to data "
            "that hold model actions"
        )
    if actions.shape[1] != robot.action_spec.dim:
        raise ValueError(
            f"{robot.name} takes actions of {robot.action_spec.dim} dimensions, the data have {actions.shape[1]}; "
            "add actions=given to data that hold model actions"
        )
    _require_arms(robot.arms, action_dim)
    start = None if tools is None else torch.from_numpy(tools[:1])
    found = plan(robot, torch.from_numpy(actions)[None], start, action_dim)
    return found.actions[0].numpy(), None if found.tools is None else found.tools[0].numpy()


def poses_plan(actions: Actions, tools: Tools, *, action_dim: int) -> tuple[ModelActions, Tools]:  # noqa: ARG001
    """Return the motion between true poses as model actions (ProphRL, section on actions), and these poses to be drawn.

    This is right for any robot whose model actions are metres and radians, whatever its own are.
    """
    if tools is None:
        raise ValueError(
            "actions=poses needs data that say where the tools are: name the states and what they hold, "
            "state=COLUMN,numbers=xyz+euler+gripper"
        )
    _require_arms(tools.shape[1], action_dim)
    model_actions = tool_frame_deltas(tools[..., :3], tools[..., 3:6], tools[..., 6])
    return F.pad(torch.from_numpy(model_actions), (0, action_dim - model_actions.shape[1])).numpy(), tools


def _require_arms(arms: int, action_dim: int) -> None:
    if action_dim < ARM_DIM * arms:
        needed = f"{arms} arm(s) need {ARM_DIM * arms} dimensions of an action"
        raise ValueError(f"{needed}, but the model reads {action_dim}")


def write_result(prophet: Prophet, args: Args) -> None:
    """Write the averaged weights as a checkpoint in float32, or the adapters alone."""
    if not args.lora_rank:
        prophet.save_pretrained(args.out / "checkpoint", half=False)
        print(next_steps(args.out / "checkpoint", "DIR", prophet.config.embodiment))
        return
    folder = args.out / "lora"
    save_lora(prophet.transformer, folder)
    print(f"wrote {folder}; `prophet merge --base {args.base} --lora {folder} --out DIR` makes a checkpoint of it")
