"""Clone experts to a middling success, learn in the simulator with the true reward, and evaluate the curve.

    python -m experiments.ceiling.run --stage clone
    python -m experiments.ceiling.run --stage learn --arms path
    python -m experiments.ceiling.run --stage evaluate
    python -m experiments.ceiling.run --stage report

README.md is the protocol. Every stage does what is left of it: one that was killed is resumed, weights and trainer are
saved at every update, and `evaluate` takes whatever snapshots there are, also while another process learns.
"""

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro

from experiments.ceiling.protocol import ARMS, DEMONSTRATIONS_SEED, LADDER, SIZE, WANTED, Settings
from experiments.reinforce_in_dream.episodes import episodes_of
from experiments.reinforce_in_dream.files import (
    EVALUATIONS,
    Place,
    add_line,
    columns,
    learning_log,
    read_lines,
)
from experiments.reinforce_in_dream.run import fit, learn
from prophet_gym.data._recording import episode_path, name_of
from prophet_gym.estimates import Estimate, paired_gain, wilson
from prophet_gym.evaluation._report import machine, write_json
from prophet_gym.sims._recorder import Plan, collect
from prophet_gym.train._run_folder import run_lock

CLONE, REPORT = "clone.json", "report.json"
CLONES = Path(__file__).parent / "results"
"""Folder of the committed clone."""
SHARED, ALONE = 3, 1
"""Episodes from each official state of the clone and of an arm's last snapshot, and of points on the way."""


@dataclass(frozen=True)
class Args:
    """Run the experiment, or what is left of it."""

    out: Path = Path("outputs/ceiling")
    """Folder of demonstrations and weights."""
    logs: Path | None = None
    """`OUT/logs` if not given."""
    stage: Literal["all", "clone", "learn", "evaluate", "report"] = "all"
    arms: tuple[str, ...] = ("path",)
    """Choose the arms of `protocol.py` that learn and are evaluated."""
    demonstrations: int = 100
    """The first number of demonstrations to try, one of the ladder."""
    updates: int = SIZE.updates
    """Number of updates of an arm; for `evaluate` the number after which it was stopped."""
    workers: int = 0
    """Processes of the simulator in evaluation; 0 simulates in this one."""
    device: str = "cpu"
    json: Path | None = None
    """Also write the report here."""


def demonstrate(place: Place, count: int) -> list[str]:
    """Record the experts that are missing of `count`, and return the names of those that are further ones."""
    (folder,), tasks = place.data, place.size.sft_tasks
    plan = Plan("libero_object", tasks, count, seed=DEMONSTRATIONS_SEED, look="light", mode="expert")
    wanted = [episode_path(folder, *job) for job in plan.jobs()]
    if not all(path.exists() for path in wanted):
        collect(plan, folder, workers=1)
    there = {name_of(path) for path in folder.glob("task_*/episode_*.npz")}
    return sorted(there - {name_of(path) for path in wanted})


def clone(place: Place, counts: Sequence[int], first: int) -> int:
    """Return the number of demonstrations whose clone succeeds as wanted, tried from `first` up or down the ladder.

    Raises:
        ValueError: None does.
    """
    path, found, count = place.logs / CLONE, {}, first
    if path.is_file():
        return int(json.loads(path.read_text(encoding="utf-8"))["demonstrations"])
    low, high = WANTED
    while count not in found:
        name = f"clone-{count}"
        snapshot = place.snapshot(name, place.size.sft_steps)
        if not snapshot.is_file() and (kept := CLONES / f"{name}.safetensors").is_file():
            # The clone that the results begin from; `fit` would make one that differs by rounding.
            snapshot.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(kept, snapshot)
        if not snapshot.is_file():
            fit(place, name, place.size.sft_steps, without=demonstrate(place, count))
        found[count] = evaluate_at(place, name, place.size.sft_steps, 0)
        if low <= found[count] <= high:
            write_json(path, {"demonstrations": count, "success_of": {str(n): rate for n, rate in found.items()}})
            return count
        at = counts.index(count) + (1 if found[count] < low else -1)
        count = counts[min(max(at, 0), len(counts) - 1)]
    raise ValueError(
        f"no clone succeeds in {low:.0%} to {high:.0%} of the official states: {found} by demonstrations; give "
        "protocol.LADDER a number between, or other steps of cloning"
    )


def evaluate_at(place: Place, run: str, update: int, seed: int) -> float:
    """Return the success of a snapshot from all official states; logged, and done once."""
    size = place.size
    known = [line for line in read_lines(place.logs / EVALUATIONS) if about(line) == (run, update, seed)]
    if not known:
        began = time.perf_counter()
        cells = [{"task": task, "start": start} for task in size.tasks for start in range(size.final_states)]
        weights = place.snapshot(run, update)
        found = episodes_of(place, weights, size.libero, "official", cells, seed=1000 * seed + update)
        line = {"run": run, "update": update, "seed": seed, "seconds": round(time.perf_counter() - began, 1)}
        known = [line | columns(found)]
        add_line(place.logs / EVALUATIONS, known[0])
        print(f"{run}, {update}, seed {seed}: {sum(known[0]['success'])}/{len(cells)}", flush=True)
    return float(np.mean(known[0]["success"]))


def about(line: Mapping[str, Any]) -> tuple[str, int, int]:
    """Return run, update and seed of a logged evaluation."""
    return line["run"], line["update"], line["seed"]


def learn_arm(place: Place, name: str, settings: Settings, cloned: Path) -> None:
    """Learn in the simulator, with a snapshot at every update."""
    every = replace(place, size=replace(place.size, point_every=1))
    run = f"{name}-s0"
    with run_lock(place.out / run):
        learn(every, run, settings.arm, 0, cloned, settings.rate, mixed=settings.mixed)


def points_of(place: Place, run: str) -> list[tuple[int, int]]:
    """Return update and seed of the points of an arm that can be evaluated: every tenth snapshot, and the last."""
    there = [int(path.stem) for path in (place.out / run / "snapshots").glob("*.safetensors")]
    chosen = [update for update in sorted(there) if update % place.size.point_every == 0]
    last = [(place.size.updates, seed) for seed in range(SHARED)] if place.size.updates in there else []
    return [(update, seed) for update in chosen if update < place.size.updates for seed in range(ALONE)] + last


def summarise(place: Place, count: int, arms: Sequence[str]) -> dict[str, Any]:
    """Return success along the runs, with intervals and gains over the clone that are paired by state."""
    steps = place.size.sft_steps
    lines = sorted(read_lines(place.logs / EVALUATIONS), key=lambda line: (line["update"], line["seed"]))
    base = outcomes(lines, f"clone-{count}", steps)
    curves = {name: curve(place, lines, f"{name}-s0", base) for name in arms}
    tasks = {str(task): rate(base[index]) for index, task in enumerate(place.size.tasks)}
    tried = {
        number: rate(outcomes(lines, f"clone-{number}", steps))
        for number in LADDER
        if any(about(line)[0] == f"clone-{number}" for line in lines)
    }
    return {
        "demonstrations": count,
        "tried": {str(number): each for number, each in tried.items()},
        "cloned": rate(base) | {"tasks": tasks},
        "arms": {name: each for name, each in curves.items() if each["updates"]},
        "machine": machine(),
    }


def curve(place: Place, lines: Sequence[Mapping[str, Any]], run: str, base: np.ndarray) -> dict[str, Any]:
    """Return an arm's points, what its rollouts succeeded in, and what it took."""
    updates = read_lines(learning_log(place.logs, run))
    seconds = np.cumsum([row["seconds_rollout"] + row["seconds_update"] for row in updates])
    frames = np.cumsum([row["frames"] for row in updates])
    points = []
    for update in sorted({line["update"] for line in lines if line["run"] == run}):
        found = outcomes(lines, run, update)
        states = [each.reshape(-1, each.shape[-1]) for each in (base, found)]
        gain = plain(paired_gain(*states))
        cost = {"frames": int(frames[update - 1]), "hours": round(float(seconds[update - 1]) / 3600, 2)}
        points.append({"update": update} | rate(found) | {"gain": gain} | cost)
    rollouts = [row["success"] for row in updates]
    hours = round(float(seconds[-1]) / 3600, 2) if updates else 0.0
    return {"updates": len(updates), "hours": hours, "rollouts": rollouts, "points": points}


def outcomes(lines: Sequence[Mapping[str, Any]], run: str, update: int) -> np.ndarray:
    """Return the successes of a snapshot, (tasks, states, repetitions)."""
    chosen = [line for line in lines if (line["run"], line["update"]) == (run, update)]
    tasks = len(dict.fromkeys(chosen[0]["task"]))
    return np.stack([np.reshape(line["success"], (tasks, -1)) for line in chosen], -1).astype(float)


def rate(successes: np.ndarray) -> dict[str, Any]:
    """Return a rate with Wilson's interval."""
    return plain(wilson(int(successes.sum()), successes.size))


def plain(estimate: Estimate) -> dict[str, Any]:
    """Return an estimate as the report has it."""
    return {"mean": estimate.mean, "low": estimate.low, "high": estimate.high, "episodes": estimate.episodes}


def run_stages(place: Place, args: Args) -> None:
    """Do what is left of the stages.

    Raises:
        ValueError: An arm has an unknown name, or no clone succeeds as wanted.
    """
    unknown = sorted(set(args.arms) - set(ARMS))
    if unknown or args.demonstrations not in LADDER:
        raise ValueError(
            f"arms must be of {', '.join(ARMS)} and demonstrations of {LADDER}, got {unknown or args.demonstrations}"
        )
    count = clone(place, LADDER, args.demonstrations)
    run, steps, whole = f"clone-{count}", place.size.sft_steps, args.stage == "all"
    for name in args.arms:
        if whole or args.stage == "learn":
            learn_arm(place, name, ARMS[name], place.snapshot(run, steps))
    if whole or args.stage == "evaluate":
        for seed in range(SHARED):
            evaluate_at(place, run, steps, seed)
        for name in args.arms:
            for update, seed in points_of(place, f"{name}-s0"):
                evaluate_at(place, f"{name}-s0", update, seed)
    if args.stage == "learn":
        return  # nothing is evaluated yet, maybe not even the clone
    for path in {place.logs / REPORT, args.json} - {None}:
        write_json(path, summarise(place, count, [*ARMS]))


def main(args: Args) -> None:
    """Run the command."""
    logs = args.logs or args.out / "logs"
    size = replace(SIZE, updates=args.updates)
    run_stages(Place(size, (args.out / "experts",), args.out, logs, args.device, args.workers), args)


if __name__ == "__main__":
    main(tyro.cli(Args))
