"""`prophet evaluate`: a checkpoint's dreams against held-out episodes of the simulator."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from prophet_gym.arguments import Arguments, Count, Device, Items, OutFile, Seed, Several, Workers

Look = Literal["light", "plain", "official"]


@dataclass(frozen=True)
class Args(Arguments):
    """Compare dreams with held-out recorded episodes, open loop.

    Scores the dream under the recorded actions and under another episode's, the last frame copied (what a dream must
    beat) and the autoencoder alone (what it cannot beat): PSNR, SSIM, tSSIM, flow end-point error and cosine, the
    gripper's position error where the model reads it, the target object's where the checkpoint has an object reader;
    means over episodes with 95% bootstrap intervals.
    """

    checkpoint: str = "bundled"
    """`bundled`, the name of a bundled checkpoint, or the path of a checkpoint folder."""
    data: Path | None = None
    """A recording of `prophet collect`; without it, episodes from the official starts are recorded first, and kept."""
    episodes: Items = 40
    """How many episodes, spread evenly over the tasks."""
    horizons: Annotated[tuple[Count, ...], Several()] = (8, 64, 160, 240)
    """Frames to predict."""
    spacing: Count = 32
    """At least so many frames lie between the windows of a horizon that are cut from one episode."""
    look: Look | None = None
    """Look of the simulator when episodes are recorded; the checkpoint's own if not given."""
    device: Device = "cpu"
    rows: Items = 8
    """Windows dreamt at once."""
    seed: Seed = 0
    """Of the dreams' noise."""
    workers: Workers = 2
    """Processes that record."""
    json: OutFile | None = None
    """Also write the numbers to this file."""
    without: tuple[str, ...] = ()
    """Episodes of `data` to leave out, e.g. `task_03/episode_00007`."""


def main(args: Args) -> None:
    """Run the command."""
    from prophet_gym._report import evaluation_tables, machine, summarise, write_json
    from prophet_gym.checkpoint import Checkpoint
    from prophet_gym.data.recording import list_episodes, read_episode, read_meta
    from prophet_gym.evaluation import evaluate_open_loop, windows_of

    checkpoint = Checkpoint.named(args.checkpoint)
    world_model = checkpoint.world_model(args.device)
    paths = (
        list_episodes(args.data, evaluating=True, without=args.without)[: args.episodes]
        if args.data
        else record_official(args)
    )
    if not paths:
        raise ValueError(f"{args.data} holds no complete episode; make some with `prophet collect --out {args.data}`")
    episodes = [read_episode(path) for path in paths]
    meta = read_meta(paths[0].parents[1], needs=("suite", "look"))
    # It knows the scene it was trained in, which is the checkpoint's.
    object_reader = checkpoint.object_reader() if checkpoint.config.get("suite") == meta["suite"] else None
    began = time.perf_counter()
    scores = evaluate_open_loop(
        world_model,
        episodes,
        args.horizons,
        rows=args.rows,
        spacing=args.spacing,
        seed=args.seed,
        read_object=None if object_reader is None else object_reader.positions,
        progress=True,
    )
    report: dict[str, Any] = {
        "checkpoint": args.checkpoint,
        "suite": meta["suite"],
        "look": meta["look"],
        "starts": meta.get("starts", "random"),
        "tasks": sorted({episode.sim.task for episode in episodes}),
        "episodes": len(episodes),
        "successes": sum(bool(episode.sim.success.any()) for episode in episodes),
        "spacing": args.spacing,
        "windows": _count(windows_of(episodes, args.horizons, args.spacing), args.horizons),
        "windows_with_still": _count(windows_of(episodes, args.horizons, args.spacing, still=0.0), args.horizons),
        "seed": args.seed,
        "device": args.device,
        "seconds": round(time.perf_counter() - began, 1),
        "machine": machine(),
        "horizons": summarise(scores, len(episodes)),
    }
    print(
        f"{report['checkpoint']}: {report['episodes']} episodes of {report['suite']} from {report['starts']} starts, "
        f"look {report['look']}, tasks {', '.join(map(str, report['tasks']))}; mean [95% interval]\n"
    )
    print(evaluation_tables(report["horizons"]))
    write_json(args.json, report)


def _count(windows: Sequence[Any], horizons: Sequence[int]) -> dict[str, int]:
    return {str(horizon): sum(horizon in window.horizons for window in windows) for horizon in sorted(set(horizons))}


def record_official(args: Args) -> list[Path]:
    """Record what is missing of the held-out episodes, which later runs use again, and return where they lie.

    Raises:
        MissingAssetsError: if the simulator cannot run here.
    """
    from prophet_gym._io.cache import cache_dir
    from prophet_gym.checkpoint import Checkpoint
    from prophet_gym.data.recording import episode_path
    from prophet_gym.errors import MissingAssetsError
    from prophet_gym.sims.libero._install import missing

    reason = missing()
    if reason is not None:
        raise MissingAssetsError(f"cannot record held-out episodes: {reason}. Or give recorded ones with --data")
    from prophet_gym.sims.recorder import Plan, collect

    checkpoint = Checkpoint.named(args.checkpoint)
    starts = checkpoint.initial_states("official")
    suite = starts.suites[0]
    look = args.look or checkpoint.config.get("look", "light")
    plan = Plan(suite, starts.tasks, args.episodes, seed=0, look=look, starts="official")
    version = f"v{plan.meta()['script_version']}.{plan.meta()['look_version']}"
    folder = cache_dir() / "recordings" / f"{suite}_{look}_official_{version}"
    collect(plan, folder, workers=args.workers)
    return [episode_path(folder, *job) for job in plan.jobs()]


if __name__ == "__main__":
    main(tyro.cli(Args))
