"""Records scripted episodes of the simulator: one at a time, or a folder of them on several processes."""

import os
import time
import traceback
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from pathlib import Path
from queue import Empty
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8
from tqdm import tqdm

from prophet_gym.data.episode import Episode, Simulation
from prophet_gym.data.recording import begin_recording, episode_path, simulated_episode, write_episode
from prophet_gym.errors import InvalidActionError, SimulatorLostError, require_count
from prophet_gym.sims.experts import Mode, draw_mode, mixture_of, script
from prophet_gym.sims.install import require_packages
from prophet_gym.sims.looks import check_look, look_version
from prophet_gym.sims.simulator import LiberoSim, as_action, check_task
from prophet_gym.sims.workers import describe_end, end_workers, require_main_guard, start_workers

Starts = Literal["random", "official"]
MAX_STEPS = 240
SILENCE = 1800.0
"""Seconds without a finished episode after which the recording processes count as lost."""
POLICY = "policy"
"""The mode of episodes that no script acted in."""
Actor = Callable[[LiberoSim, np.random.Generator], Iterator[np.ndarray]]
"""Acts in place of a script: commands without end, of the simulator after its reset and the episode's own generator."""
SCRIPT_VERSION = 3
"""Rises when the same seed gives another episode."""


@dataclass(frozen=True)
class Plan:
    """What a recording holds; two plans that agree in all but `episodes` and `tasks` may share a folder.

    `mode` is that of every episode, e.g. `expert` for demonstrations; the suite's mixture if not given. `actor`, of
    which `about` says what it is, acts in place of all scripts; worker processes get it pickled.
    """

    suite: str
    tasks: tuple[int, ...]
    episodes: int
    seed: int
    look: str
    size: int = 128
    starts: Starts = "random"
    mode: Mode | None = None
    actor: Actor | None = None
    about: str = POLICY

    def jobs(self) -> list[tuple[int, int]]:
        """(task, index) of every episode; all tasks' first episodes come first."""
        count = len(self.tasks)
        return [(self.tasks[number % count], number // count) for number in range(self.episodes)]

    def mixture(self) -> dict[str, float]:
        """Who acts, and how often."""
        if self.actor is not None:
            return {self.about: 1.0}
        return {**mixture_of(self.suite)} if self.mode is None else {self.mode: 1.0}

    def meta(self) -> dict[str, Any]:
        """What meta.json says of the recording."""
        packages = ("mujoco", "robosuite", "hf-libero")
        return {
            "suite": self.suite,
            "look": self.look,
            "look_version": look_version(self.look),
            "size": self.size,
            "seed": self.seed,
            "starts": self.starts,
            "script_version": SCRIPT_VERSION,
            "mixture": self.mixture(),
            "tasks": list(self.tasks),
            "episodes": self.episodes,
            "versions": {name: version(name) for name in packages},
        }


def episode_seeds(suite: str, task: int, index: int, seed: int) -> tuple[int, np.random.Generator]:
    """The simulator's seed and the script's generator; the look has no part in them."""
    placement, motion = np.random.SeedSequence([zlib.crc32(suite.encode()), task, index, seed]).spawn(2)
    return int(placement.generate_state(1)[0]), np.random.default_rng(motion)


def record_episode(
    sim: LiberoSim,
    index: int,
    seed: int,
    mode: Mode | None = None,
    *,
    starts: Starts = "random",
    render: bool = True,
    actor: Actor | None = None,
) -> tuple[Episode, UInt8[np.ndarray, "t h w 3"]]:
    """Plays and films episode `index` of the simulator's task.

    Args:
        sim: Is reset first.
        index: The episode's number within its task.
        seed: The recording's seed.
        mode: Drawn from the episode's own generator when absent.
        starts: `random`, a placement drawn from `index` and `seed`; `official`, the official initial state `index`, for
            evaluation alone: the episode lasts all of its 240 steps and its `seed` is `index`.
        render: Without it the frames are an empty array.
        actor: Acts in place of a script.

    Returns:
        The episode and its t + 1 frames.
    """
    placement, rng = episode_seeds(sim.suite, sim.task, index, seed)
    if starts == "official":
        placement = index
        sim.reset(official=index)
    else:
        sim.reset(seed=placement)
        assert not starts_officially(sim), "a random placement coincides with an official initial state"
    log = _Log(sim, render=render)
    if actor is None:
        mode = mode or draw_mode(rng, mixture_of(sim.suite))
        actions = _paced(sim, rng, mode, log, to_the_end=starts == "official")
    else:
        after = MAX_STEPS if starts == "official" else int(rng.integers(16, 33))
        actions = _until_success(actor(sim, rng), after, log)
    for action in actions:
        log.step(_as_executed(action, f"episode {index} of task {sim.task}, step {len(log.actions)}"))
    frames = np.stack(log.frames) if render else np.empty((0, sim.size, sim.size, 3), np.uint8)
    return log.episode(mode or POLICY, placement), frames


def _as_executed(action: np.ndarray, where: str) -> np.ndarray:
    """Return the action as the robot's controller takes it, clipped to [-1, 1]: the recording says what was done."""
    try:
        return as_action(action).astype(np.float32)
    except InvalidActionError as error:
        raise InvalidActionError(f"{where}: {error}") from None


def starts_officially(sim: LiberoSim) -> bool:
    """Whether every object lies within a millimetre (on the floor plane) of one official initial state."""
    free = [address for address, kind in zip(sim.model.jnt_qposadr, sim.model.jnt_type, strict=True) if kind == 0]
    plane = np.array([[address, address + 1] for address in free]).ravel()
    # A LIBERO state is time, qpos, qvel.
    official = sim.official_states()[:, 1:][:, plane]
    return bool((np.abs(official - sim.data.qpos[plane]).max(axis=1) < 1e-3).any())


def _paced(
    sim: LiberoSim, rng: np.random.Generator, mode: Mode, log: "_Log", *, to_the_end: bool
) -> Iterator[np.ndarray]:
    """The script, then lingering: 16 to 32 steps after success, else until step 120 to 200; or all of the steps."""
    after, length = int(rng.integers(16, 33)), int(rng.integers(120, 201))
    acting, lingering = script(sim, rng, mode)
    for action in acting:
        if len(log.actions) >= MAX_STEPS:
            return
        yield action
    for action in lingering:
        steps = len(log.actions)
        first = int(np.argmax(log.success))
        enough = steps >= first + after if log.success[-1] else steps >= length
        if (enough and not to_the_end) or steps >= MAX_STEPS:
            return
        yield action


def _until_success(actions: Iterator[np.ndarray], after: int, log: "_Log") -> Iterator[np.ndarray]:
    """All that the steps allow, but only so many after success."""
    for action in actions:
        steps = len(log.actions)
        if steps >= MAX_STEPS or (log.success[-1] and steps >= int(np.argmax(log.success)) + after):
            return
        yield action


class _Log:
    """What is written down before every action and after the last."""

    def __init__(self, sim: LiberoSim, *, render: bool):
        self.sim, self.render = sim, render
        self.names = tuple(sorted(sim.object_positions()))
        self.init_state = sim.get_state()
        self.actions: list[np.ndarray] = []
        self.frames: list[np.ndarray] = []
        self.poses: list[tuple[np.ndarray, np.ndarray, float, np.ndarray]] = []
        self.success: list[bool] = []
        self._look()

    def _look(self) -> None:
        sim = self.sim
        places = sim.object_positions()
        objects = np.stack([places[name] for name in self.names])
        self.poses.append((sim.gripper_position(), sim.gripper_quaternion(), sim.gripper_opening(), objects))
        self.success.append(sim.success())
        if self.render:
            self.frames.append(sim.render())

    def step(self, action: np.ndarray) -> None:
        self.sim.step(action)
        self.actions.append(action)
        self._look()

    def episode(self, mode: str, placement: int) -> Episode:
        sim = self.sim
        position, quaternion, opening, objects = (np.array(part, np.float32) for part in zip(*self.poses, strict=True))
        simulation = Simulation(
            gripper_position=position,
            gripper_quaternion=quaternion,
            gripper_opening=opening,
            object_positions=objects,
            object_names=self.names,
            target=sim.target_name,
            success=np.array(self.success),
            init_state=np.asarray(self.init_state, np.float64),
            suite=sim.suite,
            task=sim.task,
            mode=mode,
            seed=placement,
            look=sim.look,
        )
        return simulated_episode(np.stack(self.actions), sim.instruction, sim.camera_matrix(), simulation)


def collect(plan: Plan, folder: str | os.PathLike, *, workers: int = 2) -> int:
    """Records what of `plan` is not in `folder` yet and returns how many episodes that was.

    An episode is a function of (suite, task, index, seed, look), whatever the number of workers; a run that was killed
    is continued by calling this again.

    Raises:
        UnknownOptionError: For an unknown suite or look, before anything is written.
        MissingAssetsError: When the simulator is not installed.
        ValueError: When `folder` holds another recording, or without workers.
        RuntimeError: When a worker fails, with the worker's traceback; SimulatorLostError, which is one, when a worker
            is gone, or when none has finished an episode for `SILENCE` seconds.
    """
    for task in plan.tasks:
        check_task(plan.suite, task)
    check_look(plan.look)
    require_packages()
    require_main_guard()
    workers = require_count("workers", workers)
    folder = Path(folder)
    same = ("suite", "look", "look_version", "size", "seed", "starts", "script_version", "mixture")
    begin_recording(folder, plan.meta(), same)
    jobs = [job for job in plan.jobs() if not episode_path(folder, *job).exists()]
    shares = [share for share in _shares(jobs, plan.tasks, workers) if share]
    queue = get_context("spawn").Queue()
    with _SingleThreaded():
        processes = start_workers(_work, [(plan, folder, share, queue) for share in shares]) if shares else []
    try:
        done = plan.episodes - len(jobs)
        with tqdm(
            total=plan.episodes, initial=done, desc=f"collect {plan.suite}", unit="episode", smoothing=0.05
        ) as bar:
            for number, _ in enumerate(jobs):
                bar.set_postfix_str(_next_message(queue, processes, heard=number > 0))
                bar.update()
    finally:
        end_workers(processes)
    return len(jobs)


def _shares(jobs: Sequence[tuple[int, int]], tasks: Sequence[int], workers: int) -> list[list[tuple[int, int]]]:
    """Whole tasks to a worker where there are enough of them, since loading a task takes seconds."""
    if len(tasks) >= workers:
        return [[job for job in jobs if tasks.index(job[0]) % workers == worker] for worker in range(workers)]
    return [list(jobs[worker::workers]) for worker in range(workers)]


def _next_message(queue: Queue, processes: Sequence[BaseProcess], *, heard: bool) -> str:
    deadline = time.monotonic() + SILENCE
    while True:
        try:
            kind, text = queue.get(timeout=5.0)
        except Empty:
            dead = [process for process in processes if process.exitcode]
            if dead:
                raise SimulatorLostError(
                    f"a recording process {describe_end(dead[0], answered=heard)}; run again to continue"
                ) from None
            if time.monotonic() > deadline:
                alive = ", ".join(str(process.pid) for process in processes if process.is_alive())
                raise SimulatorLostError(
                    f"no recording process has finished an episode for {SILENCE:g} s; still there: {alive or 'none'}. "
                    "Run again to continue"
                ) from None
            continue
        if kind == "error":
            raise RuntimeError(f"a recording process failed:\n{text}")
        return text


def _work(plan: Plan, folder: Path, jobs: Sequence[tuple[int, int]], queue: Queue) -> None:
    sims: dict[int, LiberoSim] = {}
    try:
        for task, index in jobs:
            if task not in sims:
                sims[task] = LiberoSim(plan.suite, task, look=plan.look, size=plan.size)
            episode, frames = record_episode(
                sims[task], index, plan.seed, plan.mode, starts=plan.starts, actor=plan.actor
            )
            write_episode(episode_path(folder, task, index), episode, frames)
            queue.put(
                ("done", f"task {task} {episode.sim.mode}: {'success' if episode.sim.success[-1] else 'no success'}")
            )
    except BaseException:
        queue.put(("error", traceback.format_exc()))
        raise
    finally:
        for sim in sims.values():
            sim.close()


class _SingleThreaded:
    """The environment in which processes that start now use one thread each."""

    NAMES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "LP_NUM_THREADS")

    def __enter__(self) -> None:
        self.before = {name: os.environ.get(name) for name in self.NAMES}
        os.environ.update(dict.fromkeys(self.NAMES, "1"))

    def __exit__(self, *_: object) -> None:
        for name, value in self.before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
