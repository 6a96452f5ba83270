"""Record episodes of a simulator: one at a time, or a folder of them on several processes."""

import os
import time
import traceback
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from multiprocessing import get_context
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from pathlib import Path
from queue import Empty
from typing import Any, Literal

import numpy as np
from jaxtyping import UInt8

from prophet_gym._checks import require_count, unknown_option
from prophet_gym._io.progress import doing, progress
from prophet_gym.data._episode import Episode, Simulation
from prophet_gym.data._recording import begin_recording, episode_path, recorded_facts, simulated_episode, write_episode
from prophet_gym.embodiments import get_embodiment
from prophet_gym.errors import InvalidActionError, SimulatorLostError
from prophet_gym.sims._require import check_cameras, check_split
from prophet_gym.sims._workers import describe_end, end_workers, require_main_guard, start_workers
from prophet_gym.sims.simulator import HasWristCamera, Simulator, SimulatorClass, check_task
from prophet_gym.specs import FIRST_CAMERA, WRIST_CAMERA

Starts = Literal["random", "official"]
MAX_STEPS = 240
_LONGER = {"libero_goal": 400, "libero_10": 600}
"""The most steps of suites whose tasks take longer; LIBERO itself stops a policy after 600."""
_SILENCE = 1800.0
"""Seconds without a finished episode after which the recording processes count as lost."""
_POLICY = "policy"
"""The mode of episodes that no script acted in."""
Actor = Callable[[Simulator, np.random.Generator], Iterator[np.ndarray]]
"""Acts in place of a script: actions without end, of the simulator after its reset and the episode's own generator."""


@dataclass(frozen=True)
class Plan:
    """Describe what a recording holds; two plans that agree in all but `episodes` and `tasks` may share a folder.

    The episodes are spread evenly over the tasks. `mode` is the script of all, the suite's mixture if not given;
    `actor`, which `about` describes in words, acts in place of scripts, and worker processes get it pickled.
    """

    suite: str
    tasks: tuple[int, ...]
    episodes: int
    seed: int
    look: str
    size: int = 128
    starts: Starts = "random"
    mode: str | None = None
    actor: Actor | None = None
    about: str = _POLICY
    cameras: tuple[str, ...] = (FIRST_CAMERA,)

    def jobs(self) -> list[tuple[int, int]]:
        """Return (task, index) of every episode; all tasks' first episodes come first."""
        count = len(self.tasks)
        return [(self.tasks[number % count], number // count) for number in range(self.episodes)]

    def meta(self) -> dict[str, Any]:
        """Return what meta.json says of the recording."""
        simulator = check_task(self.suite, look=self.look)
        # Who acts, and how often.
        mixture = {self.about: 1.0} if self.actor else {self.mode: 1.0} if self.mode else simulator.mixture(self.suite)
        names = ("suite", "look", "size", "seed", "starts", "episodes")
        said = {name: getattr(self, name) for name in names} | simulator.provenance(self.suite, self.look)
        return said | {"mixture": dict(mixture), "tasks": list(self.tasks), "cameras": list(self.cameras)}


def _episode_seeds(suite: str, task: int, index: int, seed: int) -> tuple[int, np.random.Generator]:
    """Return the simulator's seed and the script's generator; the look has no part in them."""
    placement, motion = np.random.SeedSequence([zlib.crc32(suite.encode()), task, index, seed]).spawn(2)
    return int(placement.generate_state(1)[0]), np.random.default_rng(motion)


def record_views(
    sim: Simulator,
    index: int,
    seed: int,
    mode: str | None = None,
    *,
    starts: Starts = "random",
    cameras: Sequence[str] = (FIRST_CAMERA,),
    actor: Actor | None = None,
) -> tuple[Episode, dict[str, UInt8[np.ndarray, "t h w 3"]]]:
    """Reset the simulator, play episode `index` of its task and return it with the t + 1 frames of each camera.

    Two cameras also record the robot's state; what is drawn has no part in what happens. A `random` start is drawn from
    `index` and `seed`, as is the mode if not given. An `official` start is the initial state `index`, for evaluation
    alone: the episode lasts as long as any of its suite and its `seed` is `index`.
    """
    placement, rng = _episode_seeds(sim.suite, sim.task, index, seed)
    if starts == "official":
        placement = index
        sim.reset(official=index)
    else:
        sim.reset(seed=placement)
        assert not sim.starts_officially(), "a random placement coincides with an official initial state"
    log = _Log(sim, cameras)
    if actor is None:
        mode = mode or _draw_mode(rng, sim.mixture(sim.suite))
        actions = _paced(sim, rng, mode, log, to_the_end=starts == "official")
    else:
        after = most_steps(sim.suite) if starts == "official" else int(rng.integers(16, 33))
        actions = _until_success(actor(sim, rng), after, log)
    for action in actions:
        try:
            log.step(action)
        except InvalidActionError as error:
            where = f"episode {index} of task {sim.task}, step {len(log.actions)}"
            raise InvalidActionError(f"{where}: {error}") from None
    return log.episode(mode or _POLICY, placement), {name: np.stack(frames) for name, frames in log.frames.items()}


def most_steps(suite: str) -> int:
    """Return how many steps an episode of a suite has at most."""
    return _LONGER.get(suite, MAX_STEPS)


def _draw_mode(rng: np.random.Generator, mixture: Mapping[str, float]) -> str:
    return list(mixture)[rng.choice(len(mixture), p=list(mixture.values()))]


def _paced(
    sim: Simulator, rng: np.random.Generator, mode: str, log: "_Log", *, to_the_end: bool
) -> Iterator[np.ndarray]:
    """Yield the script, then what follows: 16 to 32 steps after success, else until step 120 to 200; or all steps.

    Where episodes may take longer than usual, those without success do so in proportion.
    """
    most = most_steps(sim.suite)
    after, length = int(rng.integers(16, 33)), int(rng.integers(120, 201)) * most // MAX_STEPS
    acting, lingering = sim.script(rng, mode)
    yield from islice(acting, most)
    for action in islice(lingering, most - len(log.actions)):
        enough = int(np.argmax(log.success)) + after if log.success[-1] else length
        if len(log.actions) >= enough and not to_the_end:
            return
        yield action


def _until_success(actions: Iterator[np.ndarray], after: int, log: "_Log") -> Iterator[np.ndarray]:
    """Yield all that the steps allow, but only so many after success."""
    for action in islice(actions, most_steps(log.sim.suite)):
        if log.success[-1] and len(log.actions) >= int(np.argmax(log.success)) + after:
            return
        yield action


class _Log:
    """Hold what is written down before every action and after the last."""

    def __init__(self, sim: Simulator, cameras: Sequence[str]):
        self.sim, self.spec = sim, get_embodiment(sim.robot).action_spec
        self.names = tuple(sorted(sim.object_positions()))
        self.init_state = sim.get_state()
        self.actions: list[np.ndarray] = []
        self.frames: dict[str, list[np.ndarray]] = {name: [] for name in cameras}
        self.states: list[np.ndarray] = []
        self.poses: list[tuple[np.ndarray, np.ndarray, float, np.ndarray]] = []
        self.success: list[bool] = []
        self._look()

    def _look(self) -> None:
        sim, places = self.sim, self.sim.object_positions()
        objects = np.stack([places[name] for name in self.names])
        self.poses.append((sim.gripper_position(), sim.gripper_quaternion(), sim.gripper_opening(), objects))
        self.success.append(sim.success())
        if FIRST_CAMERA in self.frames:
            self.frames[FIRST_CAMERA].append(sim.render())
        if WRIST_CAMERA in self.frames:
            assert isinstance(sim, HasWristCamera)
            self.frames[WRIST_CAMERA].append(sim.render_wrist())
            self.states.append(sim.robot_state())

    def step(self, action: np.ndarray) -> None:
        # A recording says what the robot did: rounded as it is stored, within the controller's bounds.
        action = np.asarray(action)
        if action.shape == (self.spec.dim,):
            action = np.clip(action, np.array(self.spec.low), np.array(self.spec.high)).astype(np.float32)
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
            robot_state=np.array(self.states, np.float32) if self.states else None,
        )
        actions = np.stack(self.actions)
        return simulated_episode(actions, sim.instruction, sim.camera_matrix(), simulation, robot=sim.robot)


def collect(plan: Plan, folder: str | os.PathLike, *, workers: int = 2) -> int:
    """Record what of `plan` is not in `folder` yet and return how many episodes that was.

    An episode is a function of (suite, task, index, seed, look), whatever the number of workers and cameras; a run that
    was killed is continued by calling this again.
    """
    simulator = check_task(plan.suite, look=plan.look)
    for task in plan.tasks:
        check_task(plan.suite, task)
    if plan.mode is not None and plan.mode not in simulator.modes:
        raise unknown_option("mode", plan.mode, simulator.modes)
    check_split(plan.suite, "train" if plan.starts == "random" else "official")
    plan = replace(plan, cameras=check_cameras(plan.suite, plan.cameras))
    recorded_facts(simulator.robot)  # before anything is written: what an episode of this robot needs must be known
    require_main_guard()
    workers = require_count("workers", workers)
    folder = Path(folder)
    # What an episode depends on; number of episodes and tasks may grow.
    same = set(plan.meta()) - {"tasks", "episodes", "versions"}
    begin_recording(folder, plan.meta(), sorted(same))
    jobs = [job for job in plan.jobs() if not episode_path(folder, *job).exists()]
    ready, queue = (get_context("spawn").Queue() for _ in range(2))
    calls = [(simulator, plan, folder, part, ready, queue) for part in _divided(jobs, plan.tasks, workers) if part]
    with _one_thread_each():
        processes = start_workers(_work, calls) if calls else []
    about = {"total": plan.episodes, "done": plan.episodes - len(jobs), "unit": "episode"}
    grace = 0.0
    try:
        # Before the clock of episodes: what is built the first time would count as theirs.
        with doing("starting the simulator; LIBERO builds its light meshes the first time, which takes minutes"):
            for _ in processes:
                _next_message(ready, processes, heard=False)
        with progress(None, f"collect {plan.suite}", **about) as bar:
            for number, _ in enumerate(jobs):
                bar.set_postfix_str(_next_message(queue, processes, heard=number > 0))
                bar.update()
        grace = 10.0  # they close their simulators
    finally:
        end_workers(processes, grace=grace)
    return len(jobs)


def _divided(jobs: Sequence[tuple[int, int]], tasks: Sequence[int], workers: int) -> list[list[tuple[int, int]]]:
    """Give whole tasks to a worker where there are enough of them, since loading a task takes seconds."""
    if len(tasks) >= workers:
        return [[job for job in jobs if tasks.index(job[0]) % workers == worker] for worker in range(workers)]
    return [list(jobs[worker::workers]) for worker in range(workers)]


def _next_message(queue: Queue, processes: Sequence[BaseProcess], *, heard: bool) -> str:
    deadline = time.monotonic() + _SILENCE
    while True:
        try:
            kind, text = queue.get(timeout=5.0)
        except Empty:
            if dead := [process for process in processes if process.exitcode]:
                end = describe_end(dead[0], answered=heard)
                raise SimulatorLostError(f"a recording process {end}; run again to continue") from None
            if time.monotonic() > deadline:
                alive = ", ".join(str(process.pid) for process in processes if process.is_alive())
                raise SimulatorLostError(
                    f"no recording process has finished an episode for {_SILENCE:g} s; still there: {alive or 'none'}. "
                    "Run again to continue"
                ) from None
            continue
        if kind == "error":
            raise RuntimeError(f"a recording process failed:\n{text}")
        return text


def _work(
    simulator: SimulatorClass, plan: Plan, folder: Path, jobs: Sequence[tuple[int, int]], ready: Queue, queue: Queue
) -> None:
    sims: dict[int, Simulator] = {}
    try:
        first = jobs[0][0]
        sims[first] = simulator(plan.suite, first, look=plan.look, size=plan.size)
        sims[first].reset(seed=0)
        sims[first].render()
        ready.put(("ready", ""))
        for task, index in jobs:
            if task not in sims:
                sims[task] = simulator(plan.suite, task, look=plan.look, size=plan.size)
            how = {"starts": plan.starts, "cameras": plan.cameras, "actor": plan.actor}
            episode, views = record_views(sims[task], index, plan.seed, plan.mode, **how)
            write_episode(episode_path(folder, task, index), episode, views[FIRST_CAMERA], views.get(WRIST_CAMERA))
            outcome = "success" if episode.sim.success[-1] else "no success"
            queue.put(("done", f"task {task} {episode.sim.mode}: {outcome}"))
    except BaseException:
        for each in (ready, queue):
            each.put(("error", traceback.format_exc()))
        raise
    finally:
        for sim in sims.values():
            sim.close()


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Let processes that start now use one thread each: there are as many of them as there are cores."""
    names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "LP_NUM_THREADS")
    before = {name: os.environ.get(name) for name in names}
    os.environ.update(dict.fromkeys(names, "1"))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
