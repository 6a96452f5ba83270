"""`prophet collect`: record scripted episodes in a simulator."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from prophet_gym._arguments import Arguments, Cameras, Items, OutFolder, Seed, Tasks, Workers
from prophet_gym._registration import SUITES
from prophet_gym.specs import FIRST_CAMERA


@dataclass(frozen=True)
class Args(Arguments):
    """Record scripted episodes, successes and failures, in a simulator."""

    out: OutFolder
    """Folder of the recording; an unfinished one is continued."""
    suite: str = "libero_object"
    """Suite of tasks, for example `libero_object` or `libero_goal`; `all` records LIBERO's four, each into a folder of
    its name in `out`, with as many episodes."""
    tasks: Tasks = ()
    """Numbers of the tasks, for example `--tasks 0 2 5`; all by default."""
    episodes: Items = 500
    """Number of episodes, spread evenly over the tasks."""
    look: str | None = None
    """Look of the simulator; its first by default. LIBERO has `light`, `light-v2` (both fast, with meshes that
    are built the first time, in minutes) and `official`."""
    seed: Seed = 0
    """Seed of the initial states and scripts."""
    starts: Literal["random", "official"] = "random"
    """Initial states to begin from; `official` ones are for evaluation only, never for training."""
    mode: str | None = None
    """Only script to run, for example `expert`; by default a mixture of scripts that succeed and scripts that fail."""
    cameras: Cameras = (FIRST_CAMERA,)
    """Cameras to record: `agentview`, or `agentview wrist`, which also records the robot's state."""
    workers: Workers = 2
    """Number of processes, each on one thread."""


def main(args: Args) -> dict[str, Any]:
    from prophet_gym._io.companions import recorded
    from prophet_gym.sims._recorder import Plan, collect
    from prophet_gym.sims.simulator import simulator_of

    written = []
    for suite, folder in folders_of(args).items():
        simulator = simulator_of(suite)
        plan = Plan(
            suite,
            args.tasks or tuple(range(simulator.tasks)),
            args.episodes,
            args.seed,
            args.look or simulator.looks[0],
            starts=args.starts,
            mode=args.mode,
            cameras=args.cameras,
        )
        new = collect(plan, folder, workers=args.workers)
        print(recorded(folder, args.episodes, new))
        written.append({"suite": suite, "folder": folder, "episodes": args.episodes, "new": new})
    return {"recordings": written}


def folders_of(args: Args) -> dict[str, Path]:
    """Return the suites to record, and the folder of each."""
    return {suite: args.out / suite for suite in SUITES} if args.suite == "all" else {args.suite: args.out}
