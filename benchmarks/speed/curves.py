"""Measure what a chunk of a dream costs as sub-environments and chunks grow, stepped as RL does, and draw both curves.

    python -m benchmarks.speed.curves --json benchmarks/results/speed/curves.json --png docs/images/speed.png

The first curve is frames per second of 1 to 64 sub-environments, the second milliseconds of each chunk of episodes of
64, which must not grow with their age. Both by the fastest engine of this machine, with the success head.
"""

import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from benchmarks.speed.harness import recorded


@dataclass(frozen=True)
class Args:
    """Configure the benchmark."""

    rows: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64)
    """Sub-environments at once."""
    seconds: float = 8.0
    """Time of each measurement, after two steps that are not counted."""
    horizon: int = 64
    """Chunks of an episode."""
    horizon_rows: int = 4
    """Sub-environments whose cost is measured by age."""
    rounds: int = 3
    """Episodes; the fastest step of each age counts, which other processes delay least."""
    engine: str = "auto"
    """Run the transformer with this engine."""
    json: Path | None = None
    """Write the numbers to this file."""
    png: Path | None = None
    """Draw the curves into this file."""


def stepped(args: Args, rows: int, steps: int | None) -> list[float]:
    """Return the seconds of each step, of so many or for the time of a measurement."""
    from prophet_gym.factory import make_vector_env

    envs = make_vector_env(rows, max_episode_steps=None, render="chunk", engine=args.engine)
    envs.reset(seed=0)
    rng, times = np.random.default_rng(0), []
    while len(times) < (steps or 5) or (steps is None and sum(times[2:]) < args.seconds):
        actions = rng.uniform(-0.3, 0.3, envs.action_space.shape).astype(np.float32)
        began = time.perf_counter()
        envs.step(actions)
        times.append(time.perf_counter() - began)
    return times


def draw(found: dict[str, Any], path: Path) -> None:
    """Draw both curves."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3), layout="constrained")
    left, right = figure.subplots(1, 2)
    rows = [int(name) for name in found["rows"]]
    left.plot(rows, [each["frames_per_second"] for each in found["rows"].values()], marker="o")
    left.set(xscale="log", xlabel="sub-environments", ylabel="frames/s", ylim=(0, None))
    left.set_xticks(rows, [str(count) for count in rows], minor=False)
    right.plot(range(1, 1 + len(found["horizon_ms"])), found["horizon_ms"])
    right.set(xlabel="chunk of the episode", ylabel=f"ms, {found['horizon_rows']} sub-environments", ylim=(0, None))
    figure.savefig(path, dpi=110)


def main(args: Args) -> None:
    with recorded(args.json) as found:
        found |= {"engine": args.engine, "rows": {}, "horizon_rows": args.horizon_rows}
        for rows in args.rows:
            times = stepped(args, rows, None)[2:]
            typical = statistics.median(times)
            found["rows"][str(rows)] = {
                "ms": round(1000 * typical, 1),
                "fastest_ms": round(1000 * min(times), 1),
                "frames_per_second": round(8 * rows / typical, 1),
            }
            print(f"{rows:3} sub-environments: {found['rows'][str(rows)]}", flush=True)
        stepped(args, args.horizon_rows, 3)
        episodes = [stepped(args, args.horizon_rows, args.horizon) for _ in range(args.rounds)]
        found["horizon_ms"] = [round(1000 * min(each), 1) for each in zip(*episodes, strict=True)]
        first, last = (statistics.median(part) for part in (found["horizon_ms"][1:9], found["horizon_ms"][-8:]))
        found["last_by_first"] = round(last / first, 3)
        print(f"the last eight chunks by the second to ninth: {found['last_by_first']}")
        if args.png:
            draw(found, args.png)


if __name__ == "__main__":
    main(tyro.cli(Args))
