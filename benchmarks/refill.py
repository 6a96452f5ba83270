"""Measure how full the batch is with and without a queue of episodes, and what the env costs beside the model.

    python benchmarks/refill.py --json benchmarks/results/refill.json
    python benchmarks/refill.py --tiny     # an untrained tiny model, in seconds

The same episodes (their lengths drawn from a seed) are dreamt twice: in lockstep (the sub-environments begin together
and wait for the slowest) and with a queue that restarts each as soon as its episode ends. The useful fraction is live
chunks by sub-environments times steps. An ended episode generates nothing, so the seconds differ by less than these
fractions.
The env's own part of a step is time outside `encode`, `rollout` and `score`, measured with the checkpoint's own reward
model, while sub-environments restart at times.
"""

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import tyro

from prophet_gym.envs import InitialStates, ProphetVectorEnv
from prophet_gym.rewards import FunctionReward
from prophet_gym.world_model import Chunk, RewardModel, RewardOutput, State, WorldModel


@dataclass(frozen=True)
class Args:
    checkpoint: str = "bundled"
    device: str = "cpu"
    rows: int = 8
    episodes: int = 160
    longest: int = 12
    """Lengths are uniform in 1 .. longest chunks."""
    steps: int = 30
    """Steps in which the env's own share is measured."""
    seed: int = 0
    tiny: bool = False
    json: Path | None = None


class Stopwatch:
    """Count the seconds that a world model or a reward model works; frames and outputs stay its own."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.seconds = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def _timed(self, call: Any, *arguments: Any, **named: Any) -> Any:
        began = time.perf_counter()
        result = call(*arguments, **named)
        if isinstance(result, Chunk) and result.frames.is_cuda:
            torch.cuda.synchronize(result.frames.device)
        self.seconds += time.perf_counter() - began
        return result

    def encode(self, frames: torch.Tensor) -> State:
        return self._timed(self.inner.encode, frames)

    def rollout(self, state: State, actions: torch.Tensor, *, generators: Sequence[torch.Generator]) -> Chunk:
        return self._timed(self.inner.rollout, state, actions, generators=generators)

    def score(self, videos: Sequence[torch.Tensor], instructions: Sequence[str]) -> RewardOutput:
        return self._timed(self.inner.score, videos, instructions)


def of_length(model: WorldModel) -> RewardModel:
    """Return success after as many chunks as the instruction says."""
    return FunctionReward(lambda video, text: float(len(video) - 1 >= int(text)), stride=model.chunk, max_frames=10_000)


def lockstep(model: WorldModel, starts: InitialStates, rows: int, seed: int) -> tuple[int, int]:
    """Return how many chunks were useful, and how many the batch had room for."""
    live = slots = 0
    for first in range(0, len(starts), rows):
        batch = starts[first : first + rows]
        envs = ProphetVectorEnv(
            model, batch, len(batch), reward_model=of_length(model), max_episode_steps=None, autoreset_mode="Disabled"
        )
        envs.reset(seed=seed + first, options={"starts": list(batch)})
        drive(envs, seed)
        live, slots = live + envs.usage.live, slots + envs.usage.slots
    return live, slots


def refilled(model: WorldModel, starts: InitialStates, rows: int, seed: int) -> tuple[int, int]:
    """Return how many chunks were useful, and how many the batch had room for."""
    envs = ProphetVectorEnv(
        model, starts, rows, reward_model=of_length(model), max_episode_steps=None, autoreset_mode="SameStep"
    )
    envs.reset(seed=seed, options={"queue": starts})
    drive(envs, seed)
    return envs.usage.live, envs.usage.slots


def drive(envs: ProphetVectorEnv, seed: int) -> None:
    """Take random actions until every episode has ended."""
    rng = np.random.default_rng(seed)
    while not envs.finished:
        envs.step(rng.uniform(-0.3, 0.3, envs.action_space.shape).astype(np.float32))


def useful(run: Any, model: WorldModel, starts: InitialStates, args: Args) -> dict[str, float]:
    began = time.perf_counter()
    live, slots = run(model, starts, args.rows, args.seed)
    seconds = time.perf_counter() - began
    frames = live * model.chunk
    return {
        "useful_fraction": round(live / slots, 4),
        "live_chunks": live,
        "slots": slots,
        "useful_frames_per_second": round(frames / seconds, 1),
        "seconds": round(seconds, 2),
    }


def own_share(
    model: WorldModel, reward_model: RewardModel | None, starts: InitialStates, args: Args
) -> dict[str, float]:
    """Return the env's own time by all time, over steps with staggered restarts; the first step is not counted."""
    timed, timed_reward = Stopwatch(model), None if reward_model is None else Stopwatch(reward_model)
    envs = ProphetVectorEnv(
        timed, starts, args.rows, reward_model=timed_reward, max_episode_steps=6, autoreset_mode="SameStep"
    )
    rng = np.random.default_rng(args.seed)
    envs.reset(seed=args.seed)
    shares, steps = [], []
    for step in range(args.steps + 1):
        actions = rng.uniform(-0.3, 0.3, envs.action_space.shape).astype(np.float32)
        before = timed.seconds + (timed_reward.seconds if timed_reward else 0.0)
        began = time.perf_counter()
        envs.step(actions)
        total = time.perf_counter() - began
        inside = timed.seconds + (timed_reward.seconds if timed_reward else 0.0) - before
        if step:
            shares.append((total - inside) / total)
            steps.append(total)
        if step < args.rows:
            envs.reset(options={"reset_mask": np.arange(args.rows) == step})
    return {
        "env_share_median": round(float(np.median(shares)), 4),
        "env_ms_median": round(1000 * float(np.median(np.array(shares) * np.array(steps))), 2),
        "step_ms_median": round(1000 * float(np.median(steps)), 1),
        "steps": args.steps,
    }


def load(args: Args) -> tuple[WorldModel, RewardModel | None, InitialStates]:
    if args.tiny:
        from prophet_gym.prophet import tiny_prophet
        from prophet_gym.specs import InitialState

        return tiny_prophet(), None, InitialStates([InitialState(np.full((1, 64, 64, 3), 100, np.uint8), "nothing")])
    from prophet_gym.checkpoint import Checkpoint

    checkpoint = Checkpoint.named(args.checkpoint)
    reward = "success" if (checkpoint.folder / "success_head").is_dir() else None
    return checkpoint.world_model(args.device), checkpoint.reward_model(reward), checkpoint.initial_states("train")


def measure(args: Args) -> dict[str, Any]:
    model, reward_model, starts = load(args)
    rng = np.random.default_rng(args.seed)
    lengths = rng.integers(1, args.longest + 1, args.episodes).tolist()
    queue = InitialStates(
        replace(starts[index % len(starts)], instruction=str(length)) for index, length in enumerate(lengths)
    )
    found = {
        "checkpoint": "tiny" if args.tiny else args.checkpoint,
        "device": args.device,
        "threads": torch.get_num_threads(),
        "rows": args.rows,
        "episodes": args.episodes,
        "longest": args.longest,
        "refill": useful(refilled, model, queue, args),
        "lockstep": useful(lockstep, model, queue, args),
        "step": own_share(model, reward_model, starts, args),
    }
    assert found["refill"]["live_chunks"] == found["lockstep"]["live_chunks"] == sum(lengths)
    return found


def main(args: Args) -> None:
    found = measure(args)
    print(json.dumps(found, indent=2))
    if args.json is not None:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(found | {"args": asdict(args) | {"json": str(args.json)}}, indent=2) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Args))
