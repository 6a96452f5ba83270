"""Distill a Prophet into one of fewer sampler steps: `prophet distill --teacher DIR --sampler-steps N --out DIR`.

The student begins with the teacher's weights; the result, `OUT/checkpoint`, says its steps itself.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from prophet_gym._arguments import Count, CountOrNone, OutFolder
from prophet_gym._io.companions import next_steps
from prophet_gym._io.lora import merge_lora, save_lora
from prophet_gym.checkpoint import Checkpoint
from prophet_gym.data._latents import LatentEpisodes
from prophet_gym.data._windows import Windows
from prophet_gym.prophet import FrameProphet, Prophet, SmallProphet
from prophet_gym.prophet._autoencoder import FRAMES_PER_LATENT, stack_frames
from prophet_gym.prophet._flow import distillation_losses, flow_levels, nested_levels, sample_euler
from prophet_gym.prophet._full import euler_levels, remembered
from prophet_gym.prophet._gripper import Untracked, flow_source
from prophet_gym.prophet._transformer import ProphetTransformer3DModel, predict_clean
from prophet_gym.train import _robot, _small
from prophet_gym.train._dynamics import Config, Dreams, Rehearsal, Tracker, inputs_of, rehearsed
from prophet_gym.train._fit import fit
from prophet_gym.train._full import Batching, Draws, ToolVideos, choose_trained, encode_chunk, train_full
from prophet_gym.train._pretrain import MAY_CHANGE, FullOptions, open_clips
from prophet_gym.train._run_folder import begin_run, record_start, require_steps, results_of, run_lock, steps_done

_NAME = "distill"
_CHUNKS = 4  # mean length of the small Prophet's training dreams, as in `prophet train`

Levels = Sequence[Float[Tensor, " levels"]]


@dataclass(frozen=True, kw_only=True)
class Args(FullOptions):
    """Distill a Prophet, small or full, into one that dreams alike in fewer sampler steps."""

    teacher: str  # Checkpoint to distill, with which the student begins: a name, a folder, or a Hub repository.
    sampler_steps: Count  # Number of sampler steps of the student, fewer than the teacher's.
    teacher_steps: Count | None = None  # Number of sampler steps of the teacher; the checkpoint's by default.
    data: tuple[str, ...] = ()
    """Data sets: for a full Prophet as `prophet pretrain` takes them, for a small one as `prophet train` takes them and
    not read if `OUT/latents.npz` exists."""
    out: OutFolder  # Folder for training states, logs and the result.
    steps: Count = 5_000  # Number of optimizer steps.
    warmup: CountOrNone = 200  # Number of warm-up steps.


def main(args: Args) -> dict[str, Any] | None:
    """Run the steps that are left and write the student."""
    accelerator = args.accelerator()
    if accelerator.is_fsdp2:
        raise ValueError("a Prophet is distilled with all weights in every process: launch it without FSDP")
    student = Prophet.from_pretrained(Checkpoint.named(args.teacher).folder, device=accelerator.device)
    small, teacher = isinstance(student, FrameProphet), copy.deepcopy(student.transformer)
    most = args.teacher_steps or student.config.steps
    levels = nested_levels(flow_levels if small else euler_levels, args.sampler_steps, most)
    if small:
        if accelerator.num_processes > 1:
            raise ValueError("a small Prophet is distilled in one process; start the command alone")
        if not (args.out / "latents.npz").exists():
            recorded = tuple(map(Path, args.data))
            _robot.main(_small.Args(args.out, recorded, str(student.source), stage="latents"))
    solver = {} if small else {"solver": "euler"}
    student.config = replace(student.config, steps=args.sampler_steps, **solver)
    if args.lora_rank or not small:
        choose_trained(student, lora_rank=args.lora_rank, seed=args.seed)
    else:
        student.transformer.requires_grad_(requires_grad=True)
    if args.gradient_checkpointing and not small:
        student.transformer.enable_gradient_checkpointing()
    with run_lock(args.out, main=accelerator.is_main_process):
        begin_run(args.out, args, begun=steps_done(args.out, _NAME) > 0, free=MAY_CHANGE, stage=_NAME)
        require_steps(args.out, _NAME, args.steps)
        if accelerator.is_main_process:
            record_start(args.out, "prophet distill", args)
        (_distill_small if small else _distill_full)(student, teacher, levels, args, accelerator)
        if accelerator.is_main_process:
            if args.lora_rank:
                save_lora(student.transformer, args.out / "lora")
                merge_lora(student.transformer)
            student.save_pretrained(args.out / "checkpoint", half=small)
            print(next_steps(args.out / "checkpoint", "DIR", student.config.embodiment))
    accelerator.end_training()
    return results_of(args.out) if accelerator.is_main_process else None


class FullDistillation(nn.Module):
    """Make `distillation_losses` of a chunk, after a real past, the forward pass of one module."""

    def __init__(self, student: Any, teacher: ProphetTransformer3DModel, levels: Levels) -> None:
        super().__init__()
        self.transformer, self.autoencoder, self.teacher = student.transformer, student.autoencoder, teacher
        self.levels = levels

    def forward(self, batch: Windows, draws: Draws, images: ToolVideos | None) -> Float[Tensor, " n"]:
        """Return the loss of each step of the student."""
        past, order = torch.cat([batch.history, batch.frames[:, :1]], dim=1), self.teacher.config["history_order"]
        parts = encode_chunk(self.autoencoder, past, batch.frames[:, 1:], batch.actions, order, images)
        with torch.no_grad():
            predict = partial(predict_clean, self.teacher, remembered(self.teacher, parts[0]))
        return distillation_losses(self.transformer, predict, *parts, draws.noise[:, 0], self.levels)


def _distill_full(
    student: Any, teacher: ProphetTransformer3DModel, levels: Levels, args: Args, accelerator: Any
) -> None:
    clips, batching = open_clips(student, args.data, 1), Batching(args.batch_size, workers=args.workers)
    objective, schedule = FullDistillation(student, teacher, levels), args.schedule()
    train_full(
        student, clips, args.out, schedule, batching, accelerator=accelerator, objective=objective, name=_NAME
    )  # fmt: skip


def _tracker(student: Any) -> Tracker:
    return (
        student.tracker
        if isinstance(student, SmallProphet)
        else Untracked(student.config.chunk, student.transformer.device)
    )


def _distill_small(
    student: Any, teacher: ProphetTransformer3DModel, levels: Levels, args: Args, accelerator: Any
) -> None:
    """Train on the student's own dreams: at every age of a dream it learns what its teacher would dream next."""
    data = LatentEpisodes.load(args.out / "latents.npz")
    read, tracker = (student.latent_size, student.config.action_dim), _tracker(student)
    if (found := (data.latents.shape[2:], data.actions.shape[1])) != read:
        raise ValueError(
            f"{args.out / 'latents.npz'} must hold what the teacher reads, latents of {read[0]} cells and actions of "
            f"{read[1]} dimensions, got {found[0]} and {found[1]}; give --data and another --out"
        )
    own = torch.stack([*[passed[0] for passed in levels], levels[-1][-1]])

    def loss(
        transformer: Callable[..., Tensor],
        tracker: Tracker,
        data: LatentEpisodes,
        config: Config,
        dreams: Dreams,
        generator: torch.Generator,
    ) -> tuple[Tensor, dict[str, float], Dreams]:
        windows = dreams.windows(data, config.chunk)
        inputs = inputs_of(dreams, windows, tracker, config)
        slots = (*inputs.given.shape[:2], config.chunk // FRAMES_PER_LATENT, *inputs.given.shape[3:])
        source = flow_source(inputs, torch.randn(slots, generator=generator).to(inputs.given), config.noise_scale)
        with accelerator.autocast():
            teach, dream = (partial(predict_clean, network, inputs) for network in (teacher, transformer))
            losses = distillation_losses(transformer, teach, inputs, stack_frames(windows.future), source, levels)
            with torch.no_grad():
                dreamt = sample_euler(dream, float(own[0]) * source, own)
        return losses, {}, dreams.go_on(tracker, inputs, dreamt, config.reader_weight)

    rehearsal = Rehearsal(args.batch_size, _CHUNKS, 0.0)
    step, carried = rehearsed(loss, tracker, data, student.config, rehearsal, args.steps)
    fit(
        student.transformer.train(), step, args.schedule(), args.out,
        name=_NAME, state=(carried,), accelerator=accelerator,
    )  # fmt: skip
