"""Run PPO of `examples/03_reach_with_sb3.py` over seeds: learning curves in the dream, then scores in both worlds.

    python -m experiments.reach_with_ppo.run --json experiments/reach_with_ppo/results/reach.json
    python -m experiments.reach_with_ppo.plot

Everything is kept in `--out`; the same command after a kill resumes from the newest update of the seed that was
running. The policies, random actions and no action at all are scored from the same official states with the same marks,
in the dream and in LIBERO (left out where it is not installed), by the same reward model, which sees frames alone, and
by the gripper's position, which is the true one in the simulator and the world model's own in the dream.
"""

import importlib.util
import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
import tyro
from gymnasium.vector import VectorEnv
from scipy.stats import t as student
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecMonitor

from prophet_gym.checkpoint import Checkpoint
from prophet_gym.envs import InitialStates, OneActionPerChunkVector, ProphetVectorEnv
from prophet_gym.estimates import bootstrap
from prophet_gym.evaluation._report import as_json, machine, write_json
from prophet_gym.prophet import SmallProphet
from prophet_gym.rewards import ReachReward, mark_of
from prophet_gym.specs import InitialState

Act = Callable[[dict[str, np.ndarray], range], np.ndarray]
"""Turns what each sub-environment shows, and the numbers of their episodes, into actions."""
Scores = dict[str, list[float]]
MARK_SEED = 1_000_000
"""Seed of the marks of the scored episodes; those of training are drawn by the seed of a run."""
METRICS = ("return", "scored_px", "gripper_cm")


@dataclass(frozen=True)
class Args:
    """Train and score.

    Attributes:
        checkpoint: `bundled`, or a folder.
        chunk_steps: of every seed.
        num_envs: dreams at once.
        update: chunk-steps between two updates.
        seeds: runs.
        episodes: scored, per world and policy; a multiple of ten tasks.
        look: of the simulator.
        out: checkpoints, curves, scores.
        json: the report.
    """

    checkpoint: str = "bundled"
    chunk_steps: int = 30_000
    num_envs: int = 16
    update: int = 512
    seeds: int = 3
    episodes: int = 40
    look: str = "light"
    out: Path = Path("outputs/reach")
    json: Path | None = None


def load_example() -> ModuleType:
    """Load the example as a module."""
    path = Path(__file__).parents[2] / "examples" / "03_reach_with_sb3.py"
    spec = importlib.util.spec_from_file_location("reach_with_sb3", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["reach_with_sb3"] = module
    spec.loader.exec_module(module)
    return module


EXAMPLE = load_example()


class Keeper(BaseCallback):
    """Write the policy and the learning curve after every update, whole or not at all."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.curve: list[dict[str, float]] = read_json(folder / "curve.json") or []
        self.returns: list[float] = []
        self.began = time.perf_counter()

    def forget_after(self, chunk_steps: int) -> None:
        """Drop the points of updates that were not kept."""
        self.curve = [point for point in self.curve if point["chunk_steps"] <= chunk_steps]

    def _on_rollout_start(self) -> None:
        if self.curve and self.curve[-1]["chunk_steps"] == self.num_timesteps:
            self.keep()
        self.returns = []

    def _on_step(self) -> bool:
        self.returns += [float(info["episode"]["r"]) for info in self.locals["infos"] if "episode" in info]
        return True

    def _on_rollout_end(self) -> None:
        now = time.perf_counter()
        done = self.num_timesteps - (self.curve[-1]["chunk_steps"] if self.curve else 0)
        point = {
            "chunk_steps": self.num_timesteps,
            "return": float(np.mean(self.returns)),
            "episodes": len(self.returns),
            "seconds": round(now - self.began, 2),
        }
        self.curve.append(point)
        print(
            f"{self.folder.name}: {self.num_timesteps} chunk-steps, mean return {point['return']:.3f}, "
            f"{done / (now - self.began):.1f} chunk-steps/s",
            flush=True,
        )
        self.began = now

    def keep(self) -> None:
        """Replace what is there."""
        temporary = self.folder / "draft.zip"
        self.model.save(temporary)
        temporary.replace(self.folder / "policy.zip")
        replace_json(self.folder / "curve.json", self.curve)


def read_json(path: Path) -> Any:
    """Return what a file holds, None without one."""
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def replace_json(path: Path, value: Any) -> None:
    """Write a file, whole or not at all."""
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(value, indent=1) + "\n", encoding="utf-8")
    temporary.replace(path)


def claim(args: Args) -> None:
    """Take a folder for these settings.

    Raises:
        ValueError: Something else was trained there.
    """
    asked = {name: str(value) for name, value in asdict(args).items() if name not in ("out", "json")}
    found = read_json(args.out / "args.json") or asked
    other = [f"{name}={found.get(name)}" for name, value in asked.items() if found.get(name) != value]
    if other:
        raise ValueError(f"{args.out} holds a run with {', '.join(other)}; ask for the same or choose another --out")
    args.out.mkdir(parents=True, exist_ok=True)
    replace_json(args.out / "args.json", asked)


def train(venv: VecMonitor, folder: Path, seed: int, chunk_steps: int, update: int) -> PPO:
    """Learn, or resume learning, until `chunk_steps` are done."""
    folder.mkdir(parents=True, exist_ok=True)
    keeper, kept = Keeper(folder), folder / "policy.zip"
    if kept.is_file():
        model = PPO.load(kept, env=venv, device="cpu")
        keeper.forget_after(model.num_timesteps)
        model.set_random_seed(seed + 1000 * model.num_timesteps)
    else:
        model = EXAMPLE.learner(venv, seed, update)
    left = chunk_steps - model.num_timesteps
    if left > 0:
        model.learn(left, keeper, reset_num_timesteps=not model.num_timesteps)
        keeper.keep()
    return model


def scored_starts(checkpoint: str, episodes: int) -> list[InitialState]:
    """Return official initial states with marks, equally many of every task, by task.

    Raises:
        ValueError: The episodes cannot be divided among the tasks.
    """
    starts = Checkpoint.named(checkpoint).initial_states("official")
    each, rest = divmod(episodes, len(starts.tasks))
    if rest or not each:
        raise ValueError(f"episodes={episodes} must be a multiple of {len(starts.tasks)} tasks")
    return EXAMPLE.with_marks([start for task in starts.tasks for start in starts.of_task(task)[:each]], MARK_SEED)


def on_plane(mark: Sequence[float], height: float, camera: np.ndarray) -> np.ndarray:
    """Return the point of a horizontal plane (metres) that appears at a place of the image."""
    rows = camera[:2] - np.outer(mark, camera[2])
    return np.append(np.linalg.solve(rows[:, :2], -(rows[:, 2] * height + rows[:, 3])), height)


def play(
    envs: VectorEnv,
    act: Act,
    starts: list[InitialState],
    options: Callable[[list[InitialState]], dict[str, Any]],
    reward_model: ReachReward,
    camera: np.ndarray,
) -> Scores:
    """Run an episode from every initial state, in the dream or in the simulator, and return its `METRICS`.

    Args:
        envs: Take chunks of actions, with autoreset DISABLED and proprioception, which the policy does not see.
        act: Chooses the dimensions of `OneActionPerChunk`.
        starts: A multiple of the sub-environments; their instructions name the marks.
        options: Makes the options of the reset that starts there.
        reward_model: Scores the last frame of every chunk.
        camera: Projects the world to the image.
    """
    held = OneActionPerChunkVector(envs, EXAMPLE.DIMS, EXAMPLE.REST)
    found: Scores = {name: [] for name in METRICS}
    for first in range(0, len(starts), envs.num_envs):
        batch = starts[first : first + envs.num_envs]
        texts = [start.instruction for start in batch]
        views = [EXAMPLE.Marked(reward_model.find_gripper) for _ in batch]
        observation, _ = held.reset(seed=first, options=options(batch))
        seen = [
            view.begin({"image": image}, {"instruction": text})
            for view, image, text in zip(views, observation["image"], texts, strict=True)
        ]
        rewards = []
        for _ in range(EXAMPLE.CHUNKS):
            rows = {name: np.stack([row[name] for row in seen]) for name in seen[0]}
            observation, *_ = held.step(act(rows, range(first, first + len(batch))))
            frames = torch.from_numpy(observation["image"])
            rewards.append(reward_model.score(list(frames[:, None]), texts).reward.numpy())
            seen = [view.extend({"image": image}, {}) for view, image in zip(views, observation["image"], strict=True)]
        found["return"] += np.sum(rewards, axis=0).tolist()
        found["scored_px"] += (frames.shape[2] * reward_model.width * (1 - rewards[-1])).tolist()
        for text, gripper in zip(texts, observation["gripper_position"], strict=True):
            wanted = on_plane(mark_of(text), gripper[2], camera)
            found["gripper_cm"].append(100 * float(np.linalg.norm(gripper - wanted)))
    return found


def acts(models: Sequence[PPO]) -> dict[str, Act]:
    """Return who is scored: random actions (the same in both worlds), no action, and the policies without noise."""
    numbers = len(EXAMPLE.DIMS)
    drawn: dict[int, np.random.Generator] = {}

    def random(seen: dict[str, np.ndarray], episodes: range) -> np.ndarray:
        del seen
        generators = [drawn.setdefault(episode, np.random.default_rng(episode)) for episode in episodes]
        return np.stack([generator.uniform(-1, 1, numbers) for generator in generators]).astype(np.float32)

    def still(seen: dict[str, np.ndarray], episodes: range) -> np.ndarray:
        del seen
        return np.zeros((len(episodes), numbers), np.float32)

    def follow(model: PPO) -> Act:
        return lambda seen, _: model.predict(seen, deterministic=True)[0]  # pyright: ignore[reportArgumentType]

    return {"random": random, "still": still} | {f"seed_{seed}": follow(model) for seed, model in enumerate(models)}


def dream(world: SmallProphet, starts: list[InitialState]) -> tuple[VectorEnv, Callable[..., dict[str, Any]]]:
    """Build the dream and what makes its reset options."""
    envs = ProphetVectorEnv(
        world,
        InitialStates(starts),
        next(rows for rows in (10, 5, 2, 1) if len(starts) % rows == 0),
        max_episode_steps=EXAMPLE.CHUNKS,
        autoreset_mode="Disabled",
        proprioception=True,
    )
    return envs, lambda batch: {"starts": batch}


def simulator(look: str, suite: str) -> tuple[VectorEnv, Callable[..., dict[str, Any]]] | None:
    """Build the simulator, one episode at a time; None where it is not installed."""
    from prophet_gym.sims.env import SimulatorVectorEnv
    from prophet_gym.sims.libero import _install as install

    if install.missing() is not None:
        return None
    envs = SimulatorVectorEnv(
        suite,
        look=look,
        starts="official",
        render="chunk",
        max_episode_steps=EXAMPLE.CHUNKS,
        autoreset_mode="Disabled",
        proprioception=True,
    )
    return envs, lambda batch: {"task": [s.task for s in batch], "start": [s.index for s in batch]}


def seed_interval(values: np.ndarray) -> dict[str, float]:
    """Return the mean over seeds with a 95% interval of Student's t."""
    mean, count = float(values.mean()), len(values)
    if count < 2:
        return {"mean": mean, "low": mean, "high": mean}
    half = float(student.ppf(0.975, count - 1) * values.std(ddof=1) / np.sqrt(count))
    return {"mean": mean, "low": mean - half, "high": mean + half}


def summarise(scores: dict[str, Scores]) -> dict[str, Any]:
    """Return a mean over episodes per arm and metric; `ppo` averages its seeds in every episode, margins are paired."""
    tables = {arm: {name: np.array(values) for name, values in found.items()} for arm, found in scores.items()}
    seeds = [arm for arm in tables if arm.startswith("seed_")]
    tables["ppo"] = {name: np.mean([tables[arm][name] for arm in seeds], axis=0) for name in METRICS}
    found: dict[str, Any] = {
        arm: {name: as_json(bootstrap(values)) for name, values in table.items()} for arm, table in tables.items()
    }
    found["over_seeds"] = {
        name: seed_interval(np.array([tables[arm][name].mean() for arm in seeds])) for name in METRICS
    }
    found["return_over_random"] = as_json(
        bootstrap(tables["ppo"]["return"], tables["random"]["return"], statistic=lambda a, b: a - b)
    )
    found["return_over_still"] = as_json(
        bootstrap(tables["ppo"]["return"], tables["still"]["return"], statistic=lambda a, b: a - b)
    )
    return found


def curves(folders: Sequence[Path]) -> dict[str, Any]:
    """Return the learning curves over seeds."""
    points = [read_json(folder / "curve.json") for folder in folders]
    returns = np.array([[point["return"] for point in run] for run in points])
    seconds = sum(point["seconds"] for run in points for point in run)
    return {
        "chunk_steps": [point["chunk_steps"] for point in points[0]],
        "over_seeds": [seed_interval(column) for column in returns.T],
        "seeds": returns.round(4).tolist(),
        "chunk_steps_per_second": round(sum(run[-1]["chunk_steps"] for run in points) / seconds, 2),
    }


def score(
    name: str,
    build: Callable[[], Any],
    world: SmallProphet,
    models: Sequence[PPO],
    starts: list[InitialState],
    out: Path,
) -> dict[str, Any] | None:
    """Score everyone in one world, those that were not before; None where there is no such world."""
    reward_model, camera = ReachReward(EXAMPLE.finder(world)), np.array(world.config.camera)
    found = {arm: read_json(out / f"{name}_{arm}.json") for arm in acts(models)}
    built = build() if any(value is None for value in found.values()) else None
    for arm, act in acts(models).items():
        if found[arm] is None and built is not None:
            found[arm] = play(built[0], act, starts, built[1], reward_model, camera)
            replace_json(out / f"{name}_{arm}.json", found[arm])
            print(
                f"{name}, {arm}: " + ", ".join(f"{key} {np.mean(found[arm][key]):.3f}" for key in METRICS), flush=True
            )
    if built is not None:
        built[0].close()
    return None if any(value is None for value in found.values()) else summarise(found)


def main(args: Args) -> None:
    """Train, score and report."""
    claim(args)
    checkpoint = Checkpoint.named(args.checkpoint)
    world = checkpoint.world_model()
    assert isinstance(world, SmallProphet)
    train_starts, test_starts = checkpoint.initial_states("train"), scored_starts(args.checkpoint, args.episodes)
    folders = [args.out / f"seed_{seed}" for seed in range(args.seeds)]
    models = []
    for seed, folder in enumerate(folders):
        venv = EXAMPLE.make(world, EXAMPLE.with_marks(train_starts, seed, 4), args.num_envs)
        models.append(train(venv, folder, seed, args.chunk_steps, args.update))
    worlds = {
        "dream": lambda: dream(world, test_starts),
        "libero": lambda: simulator(args.look, world.config.suite),
    }
    scores = {name: score(name, build, world, models, test_starts, args.out) for name, build in worlds.items()}
    settings = {"chunk_steps": args.chunk_steps, "rows": args.num_envs, "update": args.update, "seeds": args.seeds,
                "episodes": args.episodes, "chunks": EXAMPLE.CHUNKS, "look": args.look}  # fmt: skip
    write_json(args.json, {"settings": settings, "curves": curves(folders), "scores": scores, "machine": machine()})


if __name__ == "__main__":
    main(tyro.cli(Args))
