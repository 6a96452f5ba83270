"""The proof: a policy that is improved in the dream alone, and what that is worth in LIBERO.

    python benchmarks/proof.py --size short --out outputs/proof_short
    python benchmarks/proof.py --size cpu --out outputs/proof_cpu

docs/proof.md is the protocol. Stages: clone experts, choose a learning rate on `train` starts, learn in the dream, then
evaluate every snapshot in LIBERO and in the dream on official states. A stage or run that is there already
is not repeated, one that was killed goes on, and a run whose points are all logged needs its weights no more; `--runs`
and `--stage` split the work over machines. Weights lie in `--out`; what was logged, an object a line, in `--logs`.
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from hashlib import sha256
from math import ceil
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from gymnasium.vector import VectorEnv
from proof_episodes import episodes_of, official_episodes, train_cells
from proof_files import (
    CHOICE,
    CLONED_FROM,
    EVALUATIONS,
    PROTOCOL,
    TRIES,
    Place,
    add_line,
    columns,
    read_lines,
    spaces,
    write_weights,
)
from proof_sizes import DREAM, SFT, SIZES, Arm, Size
from torch import nn

from prophet_gym import factory
from prophet_gym.cli.report import machine, write_json
from prophet_gym.rewards import DegradedOracle
from prophrl_algos.cli.common import make_policy
from prophrl_algos.cli.demonstrations import FitsActions, drawer, read_demonstrations
from prophrl_algos.cli.train import Args as TrainArgs
from prophrl_algos.cli.train import make_trainer
from prophrl_algos.evaluate import wilson
from prophrl_algos.flowscale import FlowScale
from prophrl_algos.loggers import JsonLinesLogger, TerminalLogger
from prophrl_algos.metrics import Metrics
from prophrl_algos.run import run as run_trainer
from prophrl_algos.sft import SftConfig, sft
from prophrl_algos.trainer import TrainerConfig
from prophrl_algos.vla._load import BUNDLED

Stage = Literal["all", "sft", "choose", "learn", "evaluate"]


@dataclass(frozen=True)
class Args:
    """Run the proof, or what is left of it."""

    size: Literal["short", "cpu", "full", "reward"] = "short"
    data: tuple[Path, ...] = (Path("outputs/demonstrations_cpu"), Path("outputs/slips_cpu"))
    """Recordings of `prophet collect` from random placements, where a policy is cloned: experts, and what else is."""
    dream: str = ""
    """The checkpoint that dreams; the bundled one if not given."""
    out: Path = Path("outputs/proof")
    logs: Path | None = None
    """`OUT/logs` if not given; those of the repository are in `benchmarks/results/proof_SIZE`."""
    stage: Stage = "all"
    runs: tuple[str, ...] = ()
    """Only these, e.g. `fa-grpo-s0`; all if not given."""
    workers: int = 2
    """Processes of the simulator in evaluation; an arm that learns in it steps it in its own."""
    device: str = "cpu"


class Snapshots:
    """A logger that keeps the weights of chosen updates; it reads nothing of the run."""

    def __init__(self, policy: nn.Module, path_of: Callable[[int], Path], chosen: Callable[[int], bool]) -> None:
        self.policy, self.path_of, self.chosen = policy, path_of, chosen

    def log(self, metrics: Metrics, update: int) -> None:
        del metrics
        if self.chosen(update + 1):
            write_weights(self.policy, self.path_of(update + 1))

    def close(self) -> None:
        """Every file is whole already."""


def runs_of(size: Size) -> dict[str, tuple[Arm, int]]:
    """Name -> arm and seed."""
    return {f"{name}-s{seed}": (arm, seed) for name, arm in size.arms.items() for seed in range(arm.seeds)}


def cells_of(size: Size, run: str, update: int, world: str) -> list[dict[str, int]]:
    """The official starts of a point: of all at the end, in LIBERO as often as the runs of an arm have to share; of a
    part of the first states, which they share, on the way."""
    seeds = 1 if run == SFT else runs_of(size)[run][0].seeds
    last = run == SFT or update == size.updates
    states = size.final_states if last else ceil(size.point_states / seeds)
    repeats = max(1, size.repeats // seeds) if last and world != DREAM else 1
    return [{"task": task, "start": start} for _ in range(repeats) for task in size.tasks for start in range(states)]


def evaluation_seed(size: Size, run: str, update: int) -> int:
    """The runs of an arm act under noise of their own."""
    return update + 1000 * (0 if run == SFT else runs_of(size)[run][1])


def points_of(size: Size, run: str) -> list[int]:
    """The updates after which a run is evaluated."""
    return [0] if run == SFT else sorted({*range(size.point_every, size.updates, size.point_every), size.updates})


def clone(place: Place) -> None:
    """Fit the policy to demonstrations, and see what it can do."""
    size, path = place.size, place.snapshot(SFT, place.size.sft_steps)
    if size.cloned:
        return
    if not path.is_file():
        if (place.logs / CLONED_FROM).is_file():
            raise ValueError(
                f"{place.logs} is of a cloned policy that is not in {path}: bring it there (for the "
                "repository's logs docs/proof.md says how), or give other --logs"
            )
        policy = make_policy(size.policy, spaces(), None, place.device)
        assert isinstance(policy, nn.Module)
        shown = read_demonstrations(policy, place.data, tasks=size.sft_tasks, failing=size.sft_failing)
        if isinstance(policy, FitsActions):
            policy.fit_actions(shown.all_actions())
        sft(
            policy,
            drawer(policy, shown),
            SftConfig(steps=size.sft_steps, rows=size.sft_rows, learning_rate=size.sft_rate),
            place.out / SFT,
            logger=JsonLinesLogger(place.logs / "sft.jsonl"),
        )
        write_weights(policy, path, half=True)
    for world in (size.reality, DREAM):
        success_on_train(place, SFT, size.sft_steps, world)


def choose(place: Place) -> dict[str, Any]:
    """The learning rate, by success on `train` starts of LIBERO."""
    path, size = place.logs / CHOICE, place.size
    if path.is_file():
        return json.loads(path.read_text())
    choice: dict[str, Any] = {"rate": size.rates[0]}
    if len(size.rates) > 1:
        weights = begins_from(place)
        found = {rate: try_rate(place, weights, rate) for rate in size.rates}
        choice = {"rate": max(size.rates, key=lambda rate: found[rate]), "success_of_rates": found}
    write_json(path, choice)
    return choice


def begins_from(place: Place) -> Path:
    """The weights that learning starts from: a path, or a name of bundled ones.

    Raises:
        FileNotFoundError: nothing is cloned yet.
    """
    if place.size.cloned:
        return Path(place.size.cloned)
    path = place.snapshot(SFT, place.size.sft_steps)
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing: clone a policy with --stage sft")
    return path


def try_rate(place: Place, weights: Path, rate: float) -> float:
    """Success on `train` starts of LIBERO after a few updates at this learning rate, with a seed of its own."""
    name = f"rate-{rate:g}"
    learn(place, name, Arm("fa-grpo-forward"), 1000, weights, rate, place.size.rate_updates)
    success_on_train(place, name, place.size.rate_updates, DREAM)
    return success_on_train(place, name, place.size.rate_updates)


def success_on_train(place: Place, run: str, update: int, world: str | None = None) -> float:
    """In LIBERO or the dream, from `train` starts that the recording has not; logged, and done once."""
    size = place.size
    world = world or size.reality
    known = [success for *key, success in tries(place) if key == [run, update, world]]
    if known:
        return known[0]
    tasks = (size.sft_tasks or size.tasks) if run == SFT else size.tasks
    cells = train_cells(size, world, tasks)
    found = episodes_of(place, place.snapshot(run, update), world, "train", cells, seed=7)
    add_line(place.logs / TRIES, {"run": run, "update": update, "world": world} | columns(found))
    rate = float(np.mean([each["success"] for each in found]))
    print(f"{run}, {update}: {rate:.0%} of {len(cells)} train starts in {world}", flush=True)
    return rate


def tries(place: Place) -> list[tuple[str, int, str, float]]:
    """Run, update, world and success of all that was tried on `train` starts."""
    return [
        (row["run"], row["update"], row["world"], float(np.mean(row["success"])))
        for row in read_lines(place.logs / TRIES)
    ]


def learn(place: Place, name: str, arm: Arm, seed: int, weights: Path, rate: float, updates: int | None = None) -> None:
    """One run of reinforcement learning; nothing is evaluated here, so no other env is stepped."""
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
        weights=weights,
        env=arm.env,
        dream=place.dream if arm.env == DREAM else "",
        algo=arm.algo,
        config=config,
        flowscale=FlowScale(alpha=arm.alpha),
        learning_rate=rate,
        discount=size.discount,
        tasks=size.tasks,
        device=place.device,
    )
    trainer = make_trainer(args, partial(judged_worse, arm=arm, seed=seed))
    assert isinstance(trainer.policy, nn.Module)
    keep = Snapshots(
        trainer.policy,
        lambda update: place.snapshot(name, update),
        lambda update: update % size.point_every == 0 or update == total,
    )
    lines = JsonLinesLogger(place.logs / f"learning_{name}.jsonl")
    run_trainer(trainer, place.out / name, loggers=[lines, keep, TerminalLogger(total)])
    trainer.env.close()


def judged_worse(env: VectorEnv, arm: Arm, seed: int) -> VectorEnv:
    """The env with the reward of the arm."""
    if (arm.recall, arm.alarms) == (1.0, 0.0):
        return env
    return DegradedOracle(env, recall=arm.recall, false_positive_rate=arm.alarms, seed=seed)


def evaluate_run(place: Place, name: str) -> None:
    """All snapshots of a run, in LIBERO and in the dream, on official states."""
    for update, world in left_to_evaluate(place, name):
        weights = begins_from(place) if name == SFT else place.snapshot(name, update)
        if name != SFT and not weights.is_file():
            print(f"{name}, update {update}: {weights} is missing, so it is not evaluated", flush=True)
            continue
        began, cells = time.perf_counter(), cells_of(place.size, name, update, world)
        found = official_episodes(place, weights, world, cells, seed=evaluation_seed(place.size, name, update))
        line = {"run": name, "update": update, "world": world, "seconds": round(time.perf_counter() - began, 1)}
        add_line(place.logs / EVALUATIONS, line | columns(found))
        done = sum(each["success"] for each in found)
        low, high = wilson(done, len(found))
        print(f"{name}, update {update}, {world}: {done}/{len(found)} [{low:.0%}, {high:.0%}]", flush=True)


def left_to_evaluate(place: Place, name: str) -> list[tuple[int, str]]:
    """Update and world of the points that the logs do not have."""
    known = {(row["run"], row["update"], row["world"]) for row in read_lines(place.logs / EVALUATIONS)}
    worlds = (place.size.reality, DREAM)
    points = [(update, world) for update in points_of(place.size, name) for world in worlds]
    return [(update, world) for update, world in points if (name, update, world) not in known]


def claim(place: Place) -> None:
    """Write what this proof is before its first run, or check that logs and weights are of the same one.

    Raises:
        ValueError: they are of a proof of another size, of another dream or of another bundled policy.
    """
    asked = json.loads(json.dumps({**asdict(place.size), "files": files_of(place.size, place.dream)}))
    for folder in sorted({place.logs, place.out}):
        path = folder / PROTOCOL
        if not path.is_file():
            write_json(path, {"size": asked, "machine": machine()})
            continue
        found = json.loads(path.read_text())["size"]
        changed = [key for key in asked if found.get(key) != asked[key]]
        if changed:
            raise ValueError(
                f"{path} is of a proof with other {', '.join(changed)}: give other --logs and --out, or delete both"
            )


def files_of(size: Size, dream: str = "") -> dict[str, str]:
    """The files that a proof begins with, by a short SHA-256: bundled ones are replaced by better ones at times."""
    folders = [
        factory.checkpoint_folder(dream or "bundled"),
        *(BUNDLED[name] for name in [size.cloned] if name in BUNDLED),
    ]
    files = [path for folder in folders for path in folder.rglob("*.safetensors")]
    return {f"{path.parent.name}/{path.name}": short_sha(path) for path in sorted(files)}


def short_sha(path: Path) -> str:
    return sha256(path.read_bytes()).hexdigest()[:12]


def claim_cloned(place: Place, weights: Path) -> None:
    """Log which cloned policy this proof is of, or check it; bundled ones are in the protocol.

    Raises:
        ValueError: the logs are of another one.
    """
    if place.size.cloned:
        return
    asked, path = {"weights": short_sha(weights)}, place.logs / CLONED_FROM
    if not path.is_file():
        write_json(path, asked)
    elif json.loads(path.read_text()) != asked:
        raise ValueError(f"{path} is of another cloned policy than {weights}: give other --logs, or delete them")


def prove(place: Place, stage: Stage = "all", only: Sequence[str] = ()) -> None:
    """Do what is left of the stages, of all runs or of some."""
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
    weights = begins_from(place)
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
    logs = args.logs or args.out / "logs"
    size = SIZES[args.size]
    prove(Place(size, args.data, args.out, logs, args.device, args.workers, args.dream), args.stage, args.runs)


if __name__ == "__main__":
    main(tyro.cli(Args))
