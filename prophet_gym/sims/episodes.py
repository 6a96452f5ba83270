"""Episodes of the real simulator, one per row: in this process, or spread over worker processes."""

import faulthandler
import multiprocessing
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8

from prophet_gym.errors import SimulatorLostError
from prophet_gym.sims.simulator import LiberoSim

# Simulations of tasks that no row has now are kept for the next change: building one takes seconds and 0.3 GB.
_IDLE_SIMS = 3


@dataclass(frozen=True)
class Scene:
    """Where an episode starts: a task and its official state, or the seed of a random placement."""

    task: int
    official: int | None = None
    seed: int | None = None


@dataclass(frozen=True)
class Opening:
    """The first moment of an episode; the gripper's position in metres."""

    image: UInt8[np.ndarray, "h w 3"]
    instruction: str
    gripper: Float[np.ndarray, " 3"]


@dataclass(frozen=True)
class Advance:
    """One chunk: the frames after each action (only the last one if the others were not asked for).

    After a success in the middle the remaining actions are not executed, and the last frame is repeated. `gripper` is
    its position at the end, metres.
    """

    frames: UInt8[np.ndarray, "t h w 3"]
    executed: int
    success: bool
    gripper: Float[np.ndarray, " 3"]


class Stage:
    """The rows of one suite in one process: one simulation per task, in which that task's rows take turns."""

    def __init__(self, suite: str, look: str, size: int) -> None:
        self._suite, self._look, self._size = suite, look, size
        self._sims: dict[int, LiberoSim] = {}
        self._tasks: dict[int, int] = {}
        self._turns: dict[int, int] = {}
        self._waiting: dict[int, np.ndarray] = {}

    def begin(self, row: int, scene: Scene) -> Opening:
        """Start an episode in a row."""
        left = self._tasks.pop(row, None)
        if left is not None and self._turns.get(left) == row:
            del self._turns[left]
        self._waiting.pop(row, None)
        self._tasks[row] = scene.task
        sim = self.simulation(row)
        sim.reset(seed=scene.seed, official=scene.official)
        return Opening(sim.render(), sim.instruction, sim.gripper_position())

    def advance(
        self, row: int, actions: Float[np.ndarray, "k 7"], *, every_frame: bool, to_the_end: bool = False
    ) -> Advance:
        """Run the actions until the task succeeds, or all of them."""
        sim, frames, success, executed = self.simulation(row), [], False, 0
        for action in actions:
            sim.step(action)
            executed += 1
            success = sim.success()
            if every_frame:
                frames.append(sim.render())
            if success and not to_the_end:
                break
        if not every_frame:
            return Advance(sim.render()[None], executed, success, sim.gripper_position())
        frames.extend(frames[-1:] * (len(actions) - executed))
        return Advance(np.stack(frames), executed, success, sim.gripper_position())

    def close(self) -> None:
        """Free all simulations."""
        for sim in self._sims.values():
            sim.close()
        self._sims, self._tasks, self._turns, self._waiting = {}, {}, {}, {}

    def simulation(self, row: int) -> LiberoSim:
        """The simulation in which the row's episode is, where it left it; the row that had its turn waits."""
        task = self._tasks[row]
        if task not in self._sims:
            unused = [each for each in self._sims if each not in self._tasks.values()]
            for each in unused[:-_IDLE_SIMS]:
                self._sims.pop(each).close()
            self._sims[task] = LiberoSim(self._suite, task, look=self._look, size=self._size)
        sim = self._sims[task]
        before = self._turns.get(task, row)
        if before != row:
            self._waiting[before] = sim.get_state()
        self._turns[task] = row
        if row in self._waiting:
            sim.set_state(self._waiting.pop(row))
        return sim


@runtime_checkable
class Stages(Protocol):
    """All rows of a vector env."""

    def begin(self, scenes: Mapping[int, Scene]) -> dict[int, Opening]:
        """Start episodes in some rows."""
        ...

    def advance(
        self, actions: Mapping[int, np.ndarray], *, every_frame: bool, to_the_end: bool = False
    ) -> dict[int, Advance]:
        """Run a chunk in some rows."""
        ...

    def close(self) -> None:
        """Free everything."""
        ...


class LocalStages:
    """All rows in this process, one after the other."""

    def __init__(self, suite: str, look: str, size: int) -> None:
        self._stage = Stage(suite, look, size)

    def begin(self, scenes: Mapping[int, Scene]) -> dict[int, Opening]:
        """Start episodes in some rows."""
        return {row: self._stage.begin(row, scene) for row, scene in scenes.items()}

    def advance(
        self, actions: Mapping[int, np.ndarray], *, every_frame: bool, to_the_end: bool = False
    ) -> dict[int, Advance]:
        """Run a chunk in some rows."""
        options = {"every_frame": every_frame, "to_the_end": to_the_end}
        return {row: self._stage.advance(row, chunk, **options) for row, chunk in actions.items()}

    def close(self) -> None:
        """Free all simulations."""
        self._stage.close()


def _work(connection: Connection, suite: str, look: str, size: int) -> None:
    """Answer calls of a `Stage` until the other end closes; where native code crashes, say where on stderr."""
    faulthandler.enable()
    stage = Stage(suite, look, size)
    while True:
        try:
            name, arguments, options = connection.recv()
        except EOFError:
            break
        try:
            connection.send((getattr(stage, name)(*arguments, **options), None))
        except Exception as error:
            error.add_note(traceback.format_exc())
            connection.send((None, error))
    stage.close()


class WorkerStages:
    """Rows spread over processes: row i lives in process i modulo `workers`.

    The processes are spawned, so a script that uses them guards its entry with `if __name__ == "__main__"`.
    """

    def __init__(self, suite: str, look: str, size: int, workers: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._connections: list[Connection] = []
        self._processes = []
        for _ in range(workers):
            here, there = context.Pipe()
            process = context.Process(target=_work, args=(there, suite, look, size), daemon=True)
            process.start()
            there.close()
            self._connections.append(here)
            self._processes.append(process)

    def begin(self, scenes: Mapping[int, Scene]) -> dict[int, Opening]:
        """Start episodes in some rows."""
        return self._call("begin", {row: (row, scene) for row, scene in scenes.items()}, {})

    def advance(
        self, actions: Mapping[int, np.ndarray], *, every_frame: bool, to_the_end: bool = False
    ) -> dict[int, Advance]:
        """Run a chunk in some rows."""
        options = {"every_frame": every_frame, "to_the_end": to_the_end}
        return self._call("advance", {row: (row, chunk) for row, chunk in actions.items()}, options)

    def close(self) -> None:
        """End the processes."""
        for connection in self._connections:
            connection.close()
        for process in self._processes:
            process.join(timeout=10)
            if process.is_alive():
                process.terminate()
        self._connections, self._processes = [], []

    def _call(self, name: str, arguments: Mapping[int, tuple], options: Mapping[str, Any]) -> dict[int, Any]:
        for row, values in arguments.items():
            self._connection(row).send((name, values, options))
        answers = {row: self._receive(row) for row in arguments}
        for _, error in answers.values():
            if error is not None:
                raise error
        return {row: value for row, (value, _) in answers.items()}

    def _receive(self, row: int) -> tuple[Any, Exception | None]:
        try:
            return self._connection(row).recv()
        except (EOFError, ConnectionError):
            process = self._processes[row % len(self._processes)]
            process.join(timeout=10)
            return None, SimulatorLostError(
                f"the process that simulates row {row} ended with exit code {process.exitcode} "
                "(below 0: by that signal); close this env and make a new one"
            )

    def _connection(self, row: int) -> Connection:
        return self._connections[row % len(self._connections)]


def open_stages(suite: str, look: str, size: int, workers: int) -> Stages:
    """Rows in this process (`workers=0`) or in worker processes."""
    return WorkerStages(suite, look, size, workers) if workers else LocalStages(suite, look, size)
