"""What a real simulator must do to be recorded, rendered and stepped, and where one registers.

A simulator is one class, in one file. `register_simulator` makes its suites known to `prophet collect`, to the initial
states of a checkpoint and to `SimulatorVectorEnv`; an installed package registers them by itself with an entry point of
the group `prophet_gym.simulators` for each suite, e.g. `my_suite = "my_package.sim:MySimulator"`.
"""

from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import entry_points
from pkgutil import resolve_name
from typing import Any, ClassVar, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8

from prophet_gym._checks import require_known, unknown_option
from prophet_gym._registration import PERTURBED, SUITES
from prophet_gym.errors import UnknownOptionError

_GROUP = "prophet_gym.simulators"
_LIBERO = "prophet_gym.sims.libero.simulator:LiberoSimulator"
_PERTURBED = "prophet_gym.sims.libero._perturbed:PerturbedLiberoSimulator"
_REGISTERED: dict[str, str] = dict.fromkeys(SUITES, _LIBERO) | {
    f"{suite}_{end}": _PERTURBED for suite in SUITES for end in PERTURBED.values()
}


@runtime_checkable
class Arm(Protocol):
    """Declare what a script reads from a simulator."""

    @property
    def target_name(self) -> str:
        """Return the object or fixture that the task is about."""
        ...

    def gripper_position(self) -> Float[np.ndarray, " 3"]:
        """Return where the grip is, world metres."""
        ...

    def gripper_quaternion(self) -> Float[np.ndarray, " 4"]:
        """Return the world orientation of the hand, xyzw; its z axis points from the palm to the fingers."""
        ...

    def object_positions(self) -> dict[str, Float[np.ndarray, " 3"]]:
        """Return the world positions of the movable objects, metres, by name."""
        ...


@runtime_checkable
class Simulator(Arm, Protocol):
    """Simulate one task of one suite, one action at a time; render on request and tell whether the task is done.

    Attributes:
        robot: Name of the embodiment, whose `action_spec` bounds the actions and whose `control_hz` is the rate.
        looks: Names of the ways in which it can draw; the first is the default.
        splits: Where its episodes can start: `train` (random placements), `official` (for evaluation only), or both.
        tasks: Number of tasks of a suite.
        modes: Names of the scripts that can act in it; a `mixture` is of some of them.
        official_states: Number of initial states of a task that are for evaluation; 0 if there are none.
        size: Height and width of a frame in pixels.
    """

    robot: ClassVar[str]
    looks: ClassVar[tuple[str, ...]]
    splits: ClassVar[tuple[str, ...]]
    tasks: ClassVar[int]
    official_states: ClassVar[int]
    modes: ClassVar[tuple[str, ...]]
    suite: str
    task: int
    look: str
    size: int
    instruction: str

    def __init__(self, suite: str, task: int, *, look: str, size: int) -> None: ...

    @classmethod
    def require(cls, look: str) -> None:
        """Prepare to run in this process; MissingAssetsError says what to install if that is impossible."""
        ...

    @classmethod
    def provenance(cls, suite: str, look: str) -> dict[str, Any]:
        """Return what a recording's meta.json stores of its origin: versions of packages, scripts and looks."""
        ...

    @classmethod
    def mixture(cls, suite: str) -> Mapping[str, float]:
        """Return the scripts that act in a recording of the suite, and how often each does."""
        ...

    def script(self, rng: np.random.Generator, mode: str) -> tuple[Iterator[np.ndarray], Iterator[np.ndarray]]:
        """Return the actions of a script, and those that follow after its end.

        The simulator has been reset, and each action is run before the next is drawn.
        """
        ...

    def reset(self, *, seed: int | None = None, official: int | None = None) -> None:
        """Start an episode: a random placement drawn from `seed`, or the official initial state of that index."""
        ...

    def starts_officially(self) -> bool:
        """Tell whether the current state is an official one, which must not be trained from."""
        ...

    def step(self, action: np.ndarray) -> None:
        """Run one action, clipped to the robot's bounds; InvalidActionError, and no motion, unless it is all finite."""
        ...

    def render(self) -> UInt8[np.ndarray, "h w 3"]:
        """Render the current state as a new array, upright, RGB."""
        ...

    def success(self) -> bool:
        """Tell whether the task's goal holds now."""
        ...

    def gripper_opening(self) -> float:
        """Return the distance between the fingers, metres."""
        ...

    def camera_matrix(self) -> Float[np.ndarray, "3 4"]:
        """Return the matrix of the camera, see `CameraSpec`."""
        ...

    def get_state(self) -> Float[np.ndarray, " s"]:
        """Return everything that the next step depends on, as one float64 vector."""
        ...

    def set_state(self, state: Float[np.ndarray, " s"]) -> None:
        """Continue from a state of `get_state`, exactly; ValueError for that of another task."""
        ...

    def close(self) -> None:
        """Free everything; calling it twice is fine."""
        ...


@runtime_checkable
class HasWristCamera(Protocol):
    """Declare that a simulator also shows what a camera at the hand sees, and the robot's state as policies read it."""

    def render_wrist(self) -> UInt8[np.ndarray, "h w 3"]:
        """Draw what the camera at the hand sees at this moment, as `render` does."""
        ...

    def robot_state(self) -> Float[np.ndarray, " 8"]:
        """Return the numbers of `specs.STATE_NAMES` at this moment."""
        ...


SimulatorClass = type[Any]
"""A class whose instances are simulators; Python checks no class against a protocol with data members."""


def register_simulator(suites: Sequence[str], entry_point: str) -> None:
    """Make the suites of a simulator known in this process; ValueError for one that another simulator has.

    `entry_point` is the `module:Class` of a `Simulator`, imported when one of its suites is asked for.
    """
    for suite in suites:
        if _REGISTERED.get(suite, entry_point) != entry_point:
            raise ValueError(f"the suite {suite!r} is already simulated by {_REGISTERED[suite]}; give it another name")
        _REGISTERED[suite] = entry_point


def simulator_of(suite: str) -> SimulatorClass:
    """Import the simulator of a suite."""
    known = {point.name: point.value for point in entry_points(group=_GROUP)} | _REGISTERED
    require_known("suite", suite, known)
    return resolve_name(known[suite])


def check_task(suite: str, task: int | None = None, look: str | None = None) -> SimulatorClass:
    """Return the simulator of a suite, UnknownOptionError unless it has this task and look; load nothing heavy."""
    simulator = simulator_of(suite)
    if task is not None and not 0 <= task < simulator.tasks:
        raise unknown_option("task", task, map(str, range(simulator.tasks)))
    if look is not None and look not in simulator.looks:
        # Old checkpoints, recordings and results may name it.
        if look == "plain" and "light" in simulator.looks:
            raise UnknownOptionError("the look 'plain' is no more: use 'light'")
        raise unknown_option("look", look, simulator.looks)
    return simulator
