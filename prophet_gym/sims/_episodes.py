"""Episodes of a simulator, one per sub-environment: in this process, or spread over worker processes."""

import multiprocessing
import os
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from prophet_gym.errors import SimulatorLostError
from prophet_gym.sims._workers import describe_end, end_workers, start_workers
from prophet_gym.sims.simulator import HasWristCamera, Simulator, SimulatorClass, simulator_of

# Simulations of tasks that are not in use are kept for the next change: building one takes seconds and 0.3 GB.
_IDLE_SIMS = 3
ANSWER_TIMEOUT = 600.0
"""Seconds that a worker may take for one call: far more than loading a task takes on a busy machine."""


@dataclass(frozen=True)
class Scene:
    """Say where an episode starts: a task and its official state, or the seed of a random placement."""

    task: int
    official: int | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Hand:
    """Hold what the camera at the hand sees at one moment, and the robot's state, see `specs.STATE_NAMES`."""

    image: UInt8[np.ndarray, "h w 3"]
    state: Float[np.ndarray, " 8"]


@dataclass(frozen=True)
class Opening:
    """Hold the first moment of an episode; the gripper's position in metres."""

    image: UInt8[np.ndarray, "h w 3"]
    instruction: str
    gripper: Float[np.ndarray, " 3"]
    hand: Hand | None = None


@dataclass(frozen=True)
class Advance:
    """Hold one chunk: the frames after each action (or the last one alone), and where the gripper ends, metres.

    After a success in the middle the remaining actions are not executed, and the last frame is repeated.
    """

    frames: UInt8[np.ndarray, "t h w 3"]
    executed: int
    success: bool
    gripper: Float[np.ndarray, " 3"]
    hand: Hand | None = None


class LocalStages:
    """Run sub-environments of one suite in this process: one simulation per task, in which they take turns.

    `wrist` also draws what the camera at the hand sees, once a chunk, and reads the robot's state.
    """

    def __init__(
        self, suite: str, look: str, size: int, simulator: SimulatorClass | None = None, *, wrist: bool = False
    ) -> None:
        # A worker is given the class: its process has none of the registrations of the one that started it.
        self._simulator = simulator or simulator_of(suite)
        self._suite, self._look, self._size, self._wrist = suite, look, size, wrist
        self._sims: dict[int, Simulator] = {}
        self._tasks: dict[int, int] = {}
        self._turns: dict[int, int] = {}
        self._waiting: dict[int, np.ndarray] = {}

    def begin(self, scenes: Mapping[int, Scene]) -> dict[int, Opening]:
        """Start episodes in some of them."""
        openings = {}
        for row, scene in scenes.items():
            left = self._tasks.pop(row, None)
            if left is not None and self._turns.get(left) == row:
                del self._turns[left]
            self._waiting.pop(row, None)
            self._tasks[row] = scene.task
            sim = self._simulation(row)
            sim.reset(seed=scene.seed, official=scene.official)
            openings[row] = Opening(sim.render(), sim.instruction, sim.gripper_position(), self._hand(sim))
        return openings

    def advance(
        self, actions: Mapping[int, np.ndarray], *, every_frame: bool, to_the_end: bool = False
    ) -> dict[int, Advance]:
        """Run a chunk in some of them, until the task succeeds or, `to_the_end`, all of it."""
        how = {"every_frame": every_frame, "to_the_end": to_the_end}
        return {row: self._advance(row, chunk, **how) for row, chunk in actions.items()}

    def close(self) -> None:
        """Free all simulations."""
        for sim in self._sims.values():
            sim.close()
        self._sims, self._tasks, self._turns, self._waiting = {}, {}, {}, {}

    def _advance(self, row: int, actions: Float[np.ndarray, "k a"], *, every_frame: bool, to_the_end: bool) -> Advance:
        sim, frames, success, executed = self._simulation(row), [], False, 0
        for action in actions:
            sim.step(action)
            executed += 1
            success = sim.success()
            if every_frame:
                frames.append(sim.render())
            if success and not to_the_end:
                break
        if every_frame:
            frames += frames[-1:] * (len(actions) - executed)
        else:
            frames = [sim.render()]
        return Advance(np.stack(frames), executed, success, sim.gripper_position(), self._hand(sim))

    def _hand(self, sim: Simulator) -> Hand | None:
        if not self._wrist:
            return None
        assert isinstance(sim, HasWristCamera)
        return Hand(sim.render_wrist(), sim.robot_state())

    def _simulation(self, row: int) -> Simulator:
        """Return the simulation of a sub-environment's episode as it left it; the one that had its turn waits."""
        task = self._tasks[row]
        if task not in self._sims:
            unused = [each for each in self._sims if each not in self._tasks.values()]
            for each in unused[:-_IDLE_SIMS]:
                self._sims.pop(each).close()
            self._sims[task] = self._simulator(self._suite, task, look=self._look, size=self._size)
        sim = self._sims[task]
        before = self._turns.get(task, row)
        if before != row:
            self._waiting[before] = sim.get_state()
        self._turns[task] = row
        if row in self._waiting:
            sim.set_state(self._waiting.pop(row))
        return sim


def _work(connection: Connection, suite: str, look: str, size: int, simulator: SimulatorClass, *, wrist: bool) -> None:
    """Answer calls of `LocalStages` until the other end closes."""
    stage = LocalStages(suite, look, size, simulator, wrist=wrist)
    while True:
        try:
            number, name, row, given, options = connection.recv()
        except EOFError:
            break
        try:
            connection.send((number, getattr(stage, name)({row: given}, **options)[row], None))
        except Exception as error:
            error.add_note(traceback.format_exc())
            connection.send((number, None, error))
    stage.close()


class WorkerStages:
    """Run sub-environments in spawned processes: number i lives in process i modulo `workers`.

    Once one is lost, so are the others: every later call says so.
    """

    def __init__(
        self, suite: str, look: str, size: int, workers: int, timeout: float = ANSWER_TIMEOUT, *, wrist: bool = False
    ) -> None:
        """Start the processes; `timeout` is for one call of one sub-environment, loading its task included."""
        self._timeout, self._pid, self._number, self._lost = timeout, os.getpid(), 0, ""
        self._answered = [False] * workers
        pipes = [multiprocessing.Pipe() for _ in range(workers)]
        self._connections = [here for here, _ in pipes]
        work = partial(_work, wrist=wrist)
        self._processes = start_workers(work, [(there, suite, look, size, simulator_of(suite)) for _, there in pipes])
        for _, there in pipes:
            there.close()

    def begin(self, scenes: Mapping[int, Scene]) -> dict[int, Opening]:
        """Start episodes in some sub-environments."""
        return self._call("begin", scenes, {})

    def advance(
        self, actions: Mapping[int, np.ndarray], *, every_frame: bool, to_the_end: bool = False
    ) -> dict[int, Advance]:
        """Run a chunk in some sub-environments."""
        return self._call("advance", actions, {"every_frame": every_frame, "to_the_end": to_the_end})

    def close(self) -> None:
        """End the processes; in a fork of the process that started them, let them be."""
        for connection in self._connections:
            connection.close()
        if os.getpid() == self._pid:
            end_workers(self._processes, grace=0.0 if self._lost else 10.0)
        self._connections, self._processes = [], []

    def _call(self, name: str, given: Mapping[int, Any], options: Mapping[str, Any]) -> dict[int, Any]:
        if os.getpid() != self._pid:
            raise SimulatorLostError(
                f"the simulator's processes answer to process {self._pid}, which started them, and this one is a fork "
                'of it: make the env here, or start this process with context="spawn"'
            )
        if self._lost:
            raise SimulatorLostError(self._lost)
        # Answers that a Ctrl-C left unread have other numbers.
        self._number += 1
        answers, row = {}, -1
        # All are asked before any answer is waited for: the workers compute at the same time.
        try:
            for row, value in given.items():
                self._connections[row % len(self._processes)].send((self._number, name, row, value, options))
            for row in given:
                answers[row] = self._receive(row % len(self._processes))
        except (EOFError, ConnectionError, TimeoutError) as error:
            what = given[row] if isinstance(given[row], Scene) else f"{len(given[row])} actions"
            self._lost = self._explain(row, f"{name} of sub-environment {row}: {what}", error)
            raise SimulatorLostError(self._lost) from None
        for _, error in answers.values():
            if error is not None:
                raise error
        return {row: value for row, (value, _) in answers.items()}

    def _receive(self, worker: int) -> tuple[Any, Exception | None]:
        deadline = time.monotonic() + self._timeout
        while self._connections[worker].poll(max(0.0, deadline - time.monotonic())):
            number, value, error = self._connections[worker].recv()
            self._answered[worker] = True
            if number == self._number:
                return value, error
        raise TimeoutError

    def _explain(self, row: int, request: str, error: Exception) -> str:
        worker = row % len(self._processes)
        process = self._processes[worker]
        if isinstance(error, TimeoutError):
            return (
                f"worker {worker} (process {process.pid}), which simulates sub-environment {row}, has not answered for "
                f"{self._timeout:g} s; the last request was {request}. Close this env and make a new one"
            )
        return (
            f"the process that simulates sub-environment {row} {describe_end(process, answered=self._answered[worker])}"
            f"; it is worker {worker} and the last request was {request}. Close this env and make a new one"
        )
