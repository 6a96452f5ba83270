"""What changes from robot to robot: actions, cameras, kinematics. A robot is one file that defines `EMBODIMENT`."""

from importlib import import_module
from pkgutil import iter_modules

from prophet_gym._checks import unknown_option
from prophet_gym.embodiments._cameras import camera_matrix
from prophet_gym.embodiments._embodiment import Embodiment, Gripper
from prophet_gym.embodiments._kinematics import ToolPose
from prophet_gym.embodiments._start_poses import pose_extra

__all__ = ["EMBODIMENTS", "Embodiment", "Gripper", "ToolPose", "camera_matrix", "get_embodiment", "pose_extra"]


def _robots() -> dict[str, Embodiment]:
    modules = (import_module(f"{__name__}.{module.name}") for module in iter_modules(__path__))
    found = [module.EMBODIMENT for module in modules if hasattr(module, "EMBODIMENT")]
    return {robot.name: robot for robot in found}


EMBODIMENTS = _robots()


def get_embodiment(name: str) -> Embodiment:
    """Return the robot of that name.

    Raises:
        UnknownOptionError: No robot has this name; the message lists all names and the closest.

    Example:
        >>> get_embodiment("droid").control_hz
        15.0
        >>> get_embodiment("droid").action_spec.units[0]
        '7.5 cm'
    """
    if name not in EMBODIMENTS:
        raise unknown_option("embodiment", name, EMBODIMENTS)
    return EMBODIMENTS[name]
