"""`prophet starts`: render the initial states of a suite for a checkpoint."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from prophet_gym._arguments import Arguments, Cameras, Items, OutFolder, Tasks, Whole
from prophet_gym._registration import SUITES
from prophet_gym.specs import FIRST_CAMERA

SPLITS: tuple[Literal["official", "train"], ...] = ("official", "train")


@dataclass(frozen=True)
class Args(Arguments):
    """Render the initial states of all splits of a suite: `prophet starts --world-model FOLDER --suite libero_goal`.

    Frame size and look are the checkpoint's; without a checkpoint they are 128 pixels and `light`. With `--data` the
    first frames of recorded episodes become the split `train`, and nothing is rendered.
    """

    world_model: str | None = None
    """Checkpoint that will dream from the states: `bundled`, a folder, or a Hub repository."""
    out: OutFolder | None = None
    """Folder for both splits, read by `starts=OUT/train`; by default the checkpoint's folder `starts`, which
    `starts="train"` reads."""
    suite: str = "libero_object"
    """Suite of tasks, for example `libero_object` or `libero_goal`; `all` is LIBERO's four, together."""
    look: str | None = None
    """Look of the simulator: `light`, `light-v2` or `official`; the checkpoint's by default."""
    size: Annotated[int, Whole(8, 4096)] | None = None
    """Height and width of the frames in pixels; the checkpoint's by default."""
    per_task: Items = 50
    """Number of initial states of each task in each split."""
    tasks: Tasks = ()
    """Numbers of the tasks, for example `--tasks 0 2 5`; all by default."""
    cameras: Cameras = (FIRST_CAMERA,)
    """Cameras to render: `agentview`, or `agentview wrist`, which also stores the robot's state."""
    data: tuple[Path, ...] = ()
    """Recordings, or LeRobot data sets as `lerobot:FOLDER`, of what the checkpoint dreams: its cameras, at its size."""


def main(args: Args) -> dict[str, Any]:
    if args.data:
        return _take(args)
    from prophet_gym._io.progress import progress
    from prophet_gym.envs._initial_states import write_initial_states
    from prophet_gym.sims._initial_states import render_initial_states
    from prophet_gym.sims.simulator import simulator_of
    from prophet_gym.specs import InitialState

    out, look, size = resolved(args)
    suites = tuple(SUITES) if args.suite == "all" else (args.suite,)
    jobs = [(suite, task) for suite in suites for task in args.tasks or range(simulator_of(suite).tasks)]
    how = {"look": look, "size": size, "cameras": args.cameras}

    def rendered(split: Literal["train", "official"], bar: Any) -> Iterator[InitialState]:
        for suite, task in jobs:
            for start in render_initial_states(suite, task, split, args.per_task, **how):
                bar.update()
                yield start

    splits = {}
    for split in SPLITS:
        # Perturbed suites have official states alone.
        if any(split not in simulator_of(suite).splits for suite in suites):
            continue
        with progress(None, f"{args.suite} {split}", total=len(jobs) * args.per_task, unit="start") as bar:
            written = write_initial_states(out / split, rendered(split, bar))
        print(f"{out / split}: {size}x{size} pixels, look {look}, {written / 1e6:.1f} MB")
        splits[split] = {"folder": out / split, "bytes": written}
    return {"splits": splits, "size": size, "look": look}


def _take(args: Args) -> dict[str, Any]:
    """Write first frames of recorded episodes as the split `train`."""
    from prophet_gym.checkpoint import Checkpoint
    from prophet_gym.data._first_frames import first_frames
    from prophet_gym.envs._initial_states import write_initial_states
    from prophet_gym.train._robot import read_recorded, shape_of

    if args.world_model is None:
        raise ValueError("say what will dream from these frames: give --world-model")
    checkpoint = Checkpoint.named(args.world_model)
    out = args.out or _own_starts(args.world_model)
    recorded = [episode for each in read_recorded(args.data, None, (), shape_of(checkpoint)) for episode in each]
    states = first_frames(recorded, tuple(checkpoint.config["frame_size"]), args.per_task)
    write_initial_states(out / "train", states)
    print(f"{out / 'train'}: {len(states)} first frames, {len({state.task for state in states})} tasks")
    return {"splits": {"train": {"folder": out / "train", "states": len(states)}}}


def _own_starts(world_model: str) -> Path:
    """Return where a checkpoint on this machine keeps its initial states."""
    folder = Path(world_model).expanduser()
    if not folder.is_dir():
        raise ValueError("give --out FOLDER, or --world-model FOLDER of a checkpoint on this machine")
    return folder / "starts"


def resolved(args: Args) -> tuple[Path, str, int]:
    """Return where the splits go, the look and the size of their frames."""
    from prophet_gym.checkpoint import Checkpoint

    look, size, out = args.look or "light", args.size or 128, args.out
    if args.world_model is not None:
        config = Checkpoint.named(args.world_model).config
        height, width = config["frame_size"]
        if height != width and args.size is None:
            raise ValueError(f"the simulator renders squares, {args.world_model} dreams {height}x{width}; give --size")
        look, size = args.look or config["look"], args.size or height
        if out is None and Path(args.world_model).expanduser().is_dir():
            out = Path(args.world_model).expanduser() / "starts"
    if out is None:
        raise ValueError("give --out FOLDER, or --world-model FOLDER of a checkpoint on this machine")
    return out, look, size
