"""What changes from robot to robot: actions, cameras, kinematics. A robot is one file that defines `EMBODIMENT`.

Robots of other packages are entry points of the group `prophet_gym.embodiments`.
"""

from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules

from prophet_gym._checks import imported, unknown_option
from prophet_gym.embodiments._embodiment import Embodiment, Gripper, Robot, pose_extra
from prophet_gym.embodiments._kinematics import ToolPose, camera_matrix

__all__ = [
    "EMBODIMENTS",
    "Embodiment",
    "Gripper",
    "Robot",
    "ToolPose",
    "camera_matrix",
    "get_embodiment",
    "get_robot",
    "named_robot",
    "pose_extra",
]


_MODULES = [import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__)]
EMBODIMENTS: dict[str, Embodiment] = {
    module.EMBODIMENT.name: module.EMBODIMENT for module in _MODULES if hasattr(module, "EMBODIMENT")
}


def get_embodiment(name: str) -> Embodiment:
    """Return the robot of a name; UnknownOptionError lists all names, and the closest, if it is unknown.

    Example:
        >>> get_embodiment("droid").control_hz
        15.0
        >>> get_embodiment("droid").action_spec.units[0]
        '7.5 cm'
    """
    robot = get_robot(name)
    if not isinstance(robot, Embodiment):
        raise ValueError(f"{name} must be an Embodiment, which also says how its actions move the tools, got a Robot")
    return robot


def get_robot(name: str) -> Robot:
    """Return the robot of a name, of this package or of the entry points; errors as `get_embodiment`'s.

    The name may come from a file: nothing is imported that is not installed as a robot.
    """
    # Our own names come first: no installed package can take the place of a robot that it did not write.
    if name in EMBODIMENTS:
        return EMBODIMENTS[name]
    known = {entry.name: entry for entry in entry_points(group="prophet_gym.embodiments")}
    if name not in known:
        raise unknown_option("embodiment", name, {*EMBODIMENTS, *known})
    return _require_robot(known[name].load(), name)


def named_robot(text: str) -> Robot:
    """Return the robot that a user names: as `get_robot`, or `module:NAME`, which is imported."""
    return _require_robot(imported("embodiment", text), text) if ":" in text else get_robot(text)


def _require_robot(found: object, name: str) -> Robot:
    if not isinstance(found, Robot):
        raise ValueError(f"the embodiment {name} must be a Robot or an Embodiment, got {type(found).__name__}")
    return found
