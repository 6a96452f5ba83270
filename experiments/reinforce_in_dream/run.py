"""Reinforce a cloned policy in the dream alone, and evaluate it in LIBERO.

    python -m experiments.reinforce_in_dream.run --size short --out outputs/reinforce_short
    python -m experiments.reinforce_in_dream.run --size cpu --out outputs/reinforce_cpu

README.md is the protocol. Stages: clone demonstrations, choose a learning rate on `train` initial states, learn in the
dream, then evaluate every snapshot in LIBERO and in the dream on official states. A stage or run that is there already
is not repeated, one that was killed is resumed, and a run whose points are all logged no longer needs its weights;
`--runs` and `--stage` split the work over machines. Weights lie in `--out`; what was logged, an object a line, in
`--logs`.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from gymnasium.vector import VectorEnv
from torch import nn

from benchmarks.reward_robustness import DegradedOracle
from experiments.reinforce_in_dream.episodes import episodes_of, official_episodes, train_cells
from experiments.reinforce_in_dream.files import (
    CHOICE,
    CLONED_FROM,
    EVALUATIONS,
    TRIES,
    JsonLines,
    Place,
    add_line,
    claim,
    claim_cloned,
    columns,
    learning_log,
    read_lines,
    spaces,
    write_weights,
)
from experiments.reinforce_in_dream.protocol import DREAM, SFT, SIZES, Arm, Size
from prophet_gym.estimates import wilson
from prophet_gym.evaluation._report import write_json
from prophrl_algos._demonstrations import read_demonstrations
from prophrl_algos._loggers import Logger
from prophrl_algos._named import make_policy
from prophrl_algos.algorithms import FlowScale
from prophrl_algos.cli._train import Args as TrainArgs
from prophrl_algos.cli._train import make_trainer
from prophrl_algos.run import run as run_trainer
from prophrl_algos.sft import SftConfig, sft
from prophrl_algos.trainer import Metrics, TrainerConfig
from prophrl_algos.vla import SmallVLA

Stage = Literal["all", "sft", "choose", "learn", "evaluate"]


@dataclass(frozen=True)
class Args:
    """Run the experiment, or what is left of it."""

    size: Literal["short", "cpu", "full", "reward"] = "short"
    data: tuple[Path, ...] = (Path("outputs/demonstrations_cpu"), Path("outputs/slips_cpu"))
    """Recordings of `prophet collect` from random placements, to clone a policy from: experts and others."""
    dream: str = ""
    """The checkpoint that dreams; the bundled one if not given."""
    out: Path = Path("outputs/reinforce")
    logs: Path | None = None
    """`OUT/logs` if not given; those of the repository are in `experiments/reinforce_in_dream/results/SIZE`."""
    stage: Stage = "all"
    runs: tuple[str, ...] = ()
    """Only these, e.g. `fa-grpo-s0`; all if not given."""
    workers: int = 2
    """Processes of the simulator in evaluation; an arm that learns in it steps it in its own process."""
    device: str = "cpu"


class Snapshots(Logger):
    """Keep the weights of chosen updates, as a logger that reads nothing of the run."""

    def __init__(self, policy: nn.Module, path_of: Callable[[int], Path], chosen: Callable[[int], bool]) -> None:
        self.policy, self.path_of, self.chosen = policy, path_of, chosen

    def log(self, metrics: Metrics, update: int) -> None:
        """Write a snapshot after a chosen update."""
        del metrics
        if self.chosen(update + 1):
            write_weights(self.policy, self.path_of(update + 1))


def runs_of(size: Size) -> dict[str, tuple[Arm, int]]:
    """Return arm and seed of every run by name."""
    return {f"{name}-s{seed}": (arm, seed) for name, arm in size.arms.items() for seed in range(arm.seeds)}


def cells_of(size: Size, run: str, update: int, world: str) -> list[dict[str, int]]:
    """Return the official initial states of a point.

    At the end they are all states, in LIBERO as often as the runs of an arm share them; on the way they are the first
    ones, which the runs share.
    """
    seeds = 1 if run == SFT else runs_of(size)[run][0].seeds
    last = run == SFT or update == size.updates
    states = size.final_states if last else ceil(size.point_states / seeds)
    repeats = max(1, size.repeats // seeds) if last and world != DREAM else 1
    return [{"task": task, "start": start} for _ in range(repeats) for task in size.tasks for start in range(states)]


def evaluation_seed(size: Size, run: str, update: int) -> int:
    """Return the seed of a point, so that each run of an arm acts under noise of its own."""
    return update + 1000 * (0 if run == SFT else runs_of(size)[run][1])


def points_of(size: Size, run: str) -> list[int]:
    """Return the updates after which a run is evaluated."""
    return [0] if run == SFT else sorted({*range(size.point_every, size.updates, size.point_every), size.updates})


def clone(place: Place) -> None:
    """Fit the policy to demonstrations, and try it on `train` initial states.

    Raises:
        ValueError: The logs are of a cloned policy that is not there.
    """
    size, path = place.size, place.snapshot(SFT, place.size.sft_steps)
    if size.cloned:
        return
    if not path.is_file():
        if (place.logs / CLONED_FROM).is_file():
            raise ValueError(
                f"{place.logs} is of a cloned policy that is not in {path}: bring it there (for the "
                "repository's logs README.md says how), or give other --logs"
            )
        fit(place, SFT, size.sft_steps)
    for world in (size.libero, DREAM):
        success_on_train(place, SFT, size.sft_steps, world)


def fit(place: Place, run: str, steps: int, without: Sequence[str] = ()) -> None:
    """Fit a new policy to the demonstrations, but for those of these names, and write its snapshot."""
    size = place.size
    policy = make_policy(size.policy, spaces(), None, place.device)
    assert isinstance(policy, nn.Module)
    shown = read_demonstrations(policy, place.data, tasks=size.sft_tasks, failing=size.sft_failing, without=without)
    if isinstance(policy, SmallVLA):
        policy.fit_actions(shown.all_actions())
    config = SftConfig(steps=steps, batch_size=size.sft_batch_size, learning_rate=size.sft_rate)
    sft(policy, shown.draw, config, place.out / run, logger=JsonLines(place.logs / f"{run}.jsonl"))
    write_weights(policy, place.snapshot(run, steps), half=True)


def choose(place: Place) -> dict[str, Any]:
    """Choose the learning rate by success on `train` initial states of LIBERO."""
    path, size = place.logs / CHOICE, place.size
    if path.is_file():
        return json.loads(path.read_text(encoding="utf-8"))
    choice: dict[str, Any] = {"rate": size.rates[0]}
    if len(size.rates) > 1:
        weights = place.initial_weights()
        found = {rate: try_rate(place, weights, rate) for rate in size.rates}
        choice = {"rate": max(size.rates, key=lambda rate: found[rate]), "success_of_rates": found}
    write_json(path, choice)
    return choice


def try_rate(place: Place, weights: Path, rate: float) -> float:
    """Return the success in LIBERO after a few updates at this learning rate, under a seed that no run has."""
    name = f"rate-{rate:g}"
    learn(place, name, Arm("fa-grpo-forward"), 1000, weights, rate, place.size.rate_updates)
    success_on_train(place, name, place.size.rate_updates, DREAM)
    return success_on_train(place, name, place.size.rate_updates)


def success_on_train(place: Place, run: str, update: int, world: str | None = None) -> float:
    """Return the success from `train` initial states that no recording has; logged, and done once."""
    size = place.size
    world = world or size.libero
    known = [success for *key, success in tries(place) if key == [run, update, world]]
    if known:
        return known[0]
    tasks = (size.sft_tasks or size.tasks) if run == SFT else size.tasks
    cells = train_cells(size, world, tasks)
    found = episodes_of(place, place.snapshot(run, update), world, "train", cells, seed=7)
    add_line(place.logs / TRIES, {"run": run, "update": update, "world": world} | columns(found))
    rate = float(np.mean([each["success"] for each in found]))
    print(f"{run}, {update}: {rate:.0%} of {len(cells)} train initial states in {world}", flush=True)
    return rate


def tries(place: Place) -> list[tuple[str, int, str, float]]:
    """Return run, update, world and success of everything that was tried on `train` initial states."""
    return [
        (row["run"], row["update"], row["world"], float(np.mean(row["success"])))
        for row in read_lines(place.logs / TRIES)
    ]


def learn(
    place: Place,
    name: str,
    arm: Arm,
    seed: int,
    weights: Path,
    rate: float,
    updates: int | None = None,
    *,
    mixed: bool = False,
) -> None:
    """Run reinforcement learning once; nothing is evaluated here, so no other env is stepped.

    With `mixed`, groups that always or hardly ever succeed are replaced.
    """
    size, total = place.size, updates or place.size.updates
    if place.snapshot(name, total).is_file():
        return
    config = TrainerConfig(
        updates=total,
        groups=size.groups,
        group_size=size.group_size,
        epochs=size.epochs,
        minibatches=size.minibatches,
        beta=arm.beta,
        noise_level=arm.noise_level,
        clip_low=arm.clip[0],
        clip_high=arm.clip[1],
        seed=seed,
    )
    args = TrainArgs(
        policy=size.policy,
        policy_weights=weights,
        env=arm.env,
        world_model=place.dream if arm.env == DREAM else "",
        algo=arm.algo,
        config=config,
        flowscale=FlowScale(alpha=arm.alpha),
        learning_rate=rate,
        discount=size.discount,
        tasks=size.tasks,
        resample=mixed,
        device=place.device,
    )
    trainer = make_trainer(args, partial(degrade_reward, arm=arm, seed=seed))
    assert isinstance(trainer.policy, nn.Module)
    keep = Snapshots(
        trainer.policy,
        lambda update: place.snapshot(name, update),
        lambda update: update % size.point_every == 0 or update == total,
    )
    lines = JsonLines(learning_log(place.logs, name))
    run_trainer(trainer, place.out / name, loggers=[lines, keep])
    trainer.env.close()


def degrade_reward(env: VectorEnv, arm: Arm, seed: int) -> VectorEnv:
    """Wrap the env so that it gives the reward of the arm."""
    if (arm.recall, arm.false_positive_rate) == (1.0, 0.0):
        return env
    return DegradedOracle(env, recall=arm.recall, false_positive_rate=arm.false_positive_rate, seed=seed)


def evaluate_run(place: Place, name: str) -> None:
    """Evaluate all snapshots of a run, in LIBERO and in the dream, on official states."""
    for update, world in left_to_evaluate(place, name):
        weights = place.initial_weights() if name == SFT else place.snapshot(name, update)
        if name != SFT and not weights.is_file():
            print(f"{name}, update {update}: {weights} is missing, so it is not evaluated", flush=True)
            continue
        began, cells = time.perf_counter(), cells_of(place.size, name, update, world)
        found = official_episodes(place, weights, world, cells, seed=evaluation_seed(place.size, name, update))
        line = {"run": name, "update": update, "world": world, "seconds": round(time.perf_counter() - began, 1)}
        add_line(place.logs / EVALUATIONS, line | columns(found))
        done = sum(each["success"] for each in found)
        low, high = wilson(done, len(found)).interval
        print(f"{name}, update {update}, {world}: {done}/{len(found)} [{low:.0%}, {high:.0%}]", flush=True)


def left_to_evaluate(place: Place, name: str) -> list[tuple[int, str]]:
    """Return update and world of the points that the logs lack."""
    known = {(row["run"], row["update"], row["world"]) for row in read_lines(place.logs / EVALUATIONS)}
    worlds = (place.size.libero, DREAM)
    points = [(update, world) for update in points_of(place.size, name) for world in worlds]
    return [(update, world) for update, world in points if (name, update, world) not in known]


def run_stages(place: Place, stage: Stage = "all", only: Sequence[str] = ()) -> None:
    """Do what is left of the stages, of all runs or of some.

    Raises:
        ValueError: A run has an unknown name.
    """
    runs = runs_of(place.size)
    unknown = sorted(set(only) - {*runs, SFT})
    if unknown:
        raise ValueError(f"no runs named {', '.join(unknown)}; there are {', '.join([SFT, *runs])}")
    chosen = list(only) or [SFT, *runs]
    claim(place)
    if stage in ("all", "sft"):
        clone(place)
    if stage == "sft":
        return
    weights = place.initial_weights()
    claim_cloned(place, weights)
    choice = choose(place)
    for name in chosen:
        if not left_to_evaluate(place, name):
            continue
        if name != SFT and stage in ("all", "learn"):
            learn(place, name, *runs[name], weights, float(choice["rate"]))
        if stage in ("all", "evaluate"):
            evaluate_run(place, name)


def main(args: Args) -> None:
    """Run the command."""
    logs = args.logs or args.out / "logs"
    size = SIZES[args.size]
    run_stages(Place(size, args.data, args.out, logs, args.device, args.workers, args.dream), args.stage, args.runs)


if __name__ == "__main__":
    main(tyro.cli(Args))
