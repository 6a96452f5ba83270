"""`prophet evaluate`: compare a checkpoint's dreams with held-out episodes of the simulator."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from prophet_gym._arguments import Count, Several, resolved_device
from prophet_gym.cli._options import BatchOptions, HeldOutOptions
from prophet_gym.specs import FIRST_CAMERA, Camera


@dataclass(frozen=True, kw_only=True)
class Args(BatchOptions, HeldOutOptions):
    """Compare dreams with held-out recorded episodes, open loop.

    Scores four conditions: the dream under the recorded actions, the dream under another episode's actions, the last
    frame repeated (what a dream must beat) and the autoencoder alone (what no dream can beat). Reports PSNR, SSIM,
    tSSIM, the end-point error and cosine of the optical flow, the position error of the gripper if the model tracks it,
    and that of the target object if the checkpoint has an object reader: means over episodes with 95% bootstrap
    intervals.
    """

    horizons: Annotated[tuple[Count, ...], Several()] = (8, 64, 160, 240)
    """Numbers of frames to predict."""
    spacing: Count = 32
    """Minimum number of frames between the windows of one horizon that are cut from the same episode."""
    look: Literal["light", "light-v2", "official"] | None = None
    """Look of the simulator while it records; the checkpoint's own by default."""
    camera: Camera = FIRST_CAMERA  # Camera whose frames are scored.
    save_state_errors: bool = False
    """Write how far the dreamt robot's state is off, by the dream's age, into the checkpoint, which then states it
    beside the state (`info["state_error"]`); frames are not scored. Choose episodes that no result is reported on."""
    card: bool = False
    """Also put the results into the checkpoint: `evaluation.json`, and a table in its `README.md`."""


def main(args: Args) -> dict[str, Any]:
    from prophet_gym.checkpoint import Checkpoint
    from prophet_gym.evaluation import evaluate_open_loop, windows_of
    from prophet_gym.evaluation._open_loop import require_dreams
    from prophet_gym.evaluation._report import evaluation_tables, machine, summarise
    from prophet_gym.evaluation._state import state_table

    checkpoint, device = Checkpoint.named(args.world_model), resolved_device(args.device)
    if args.card and not Path(args.world_model).expanduser().is_dir():
        raise ValueError("--card writes into the checkpoint: give --world-model FOLDER on this machine")
    world_model = checkpoint.world_model(device)
    require_dreams(world_model, args.camera)  # before anything is recorded
    episodes, recorded = args.read(checkpoint, args.look)
    state = _state(args, checkpoint, world_model, episodes)
    if args.save_state_errors:
        return {"checkpoint": args.world_model, **state}
    # An object reader knows the scene that it was trained in, which is the checkpoint's.
    object_reader = checkpoint.object_reader() if checkpoint.config.get("suite") == recorded["suite"] else None
    began = time.perf_counter()
    scores = evaluate_open_loop(
        world_model,
        episodes,
        args.horizons,
        rows=args.batch_size,
        spacing=args.spacing,
        seed=args.seed,
        read_object=None if object_reader is None or args.camera != FIRST_CAMERA else object_reader.positions,
        camera=args.camera,
        progress=True,
    )
    report: dict[str, Any] = {
        "checkpoint": args.world_model,
        **recorded,
        "tasks": _tasks(episodes),
        "episodes": len(episodes),
        "successes": _successes(episodes),
        "camera": args.camera,
        "spacing": args.spacing,
        "windows": _count(windows_of(episodes, args.horizons, args.spacing), args.horizons),
        "windows_with_still": _count(windows_of(episodes, args.horizons, args.spacing, still=0.0), args.horizons),
        "seed": args.seed,
        "device": device,
        "seconds": round(time.perf_counter() - began, 1),
        "machine": machine(),
        "horizons": summarise(scores, len(episodes)),
        **({"state": state} if state else {}),
    }
    print(
        f"{report['checkpoint']}: {report['episodes']} episodes of {report['suite']} from {report['starts']} starts, "
        f"look {report['look']}, tasks {', '.join(map(str, report['tasks']))}; mean [95% interval]\n"
    )
    print(evaluation_tables(report["horizons"]))
    if state:
        print(f"\n{state_table(state)}")
    if args.card:
        _write_card(checkpoint.folder, report)
    return report


def _tasks(episodes: Sequence[Any]) -> list[Any]:
    """Return the tasks: their numbers in a simulator, or their instructions."""
    return sorted({e.instruction if e.simulation is None else e.sim.task for e in episodes})


def _successes(episodes: Sequence[Any]) -> int | None:
    """Return how many episodes succeed; None where the data do not say."""
    if any(episode.success is None and episode.simulation is None for episode in episodes):
        return None
    return sum(bool(episode.done.any()) for episode in episodes)


def _write_card(folder: Path, report: dict[str, Any]) -> None:
    """Write the results beside the weights that they are of."""
    from prophet_gym._io.companions import measured_card
    from prophet_gym._io.header import read_header
    from prophet_gym.evaluation._report import evaluation_tables, write_json

    # The marks say whether the networks are still those that were measured.
    write_json(folder / "evaluation.json", {**report, "marks": read_header(folder).marks})
    what = (
        f"`prophet evaluate`: {report['episodes']} episodes of `{report['suite']}` that training kept out, open loop; "
        "mean [95% interval]."
    )
    measured_card(folder, evaluation_tables(report["horizons"]), what)


def _state(args: Args, checkpoint: Any, world_model: Any, episodes: Sequence[Any]) -> dict[str, Any]:
    """Return how far the robot's state is off, nothing for a model without; write it down if asked."""
    from prophet_gym._io.header import write_entries
    from prophet_gym.evaluation._state import half_widths, state_errors, summarise_state
    from prophet_gym.world_model import ShowsWrist

    chunk = world_model.chunk
    if not (args.save_state_errors or isinstance(world_model, ShowsWrist)):
        return {}
    chunks = max(args.horizons) // chunk
    errors = state_errors(world_model, episodes, chunks, rows=args.batch_size, seed=args.seed)
    if args.save_state_errors:
        widths = half_widths(errors)
        write_entries(checkpoint.folder, state_errors=widths)
        print(f"{checkpoint.folder} states errors for {len(widths)} chunks, those of {len(episodes)} episodes")
    return summarise_state(errors, chunk, args.horizons)


def _count(windows: Sequence[Any], horizons: Sequence[int]) -> dict[str, int]:
    return {str(horizon): sum(horizon in window.horizons for window in windows) for horizon in sorted(set(horizons))}
