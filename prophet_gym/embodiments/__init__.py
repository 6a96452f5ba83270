"""What changes from robot to robot: actions, cameras, kinematics. A robot is one file that defines `EMBODIMENT`."""

from importlib import import_module
from pkgutil import iter_modules

from prophet_gym._checks import unknown_option
from prophet_gym.embodiments._embodiment import Embodiment, Gripper, pose_extra
from prophet_gym.embodiments._kinematics import ToolPose, camera_matrix

__all__ = ["EMBODIMENTS", "Embodiment", "Gripper", "ToolPose", "camera_matrix", "get_embodiment", "pose_extra"]


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
    if name not in EMBODIMENTS:
        raise unknown_option("embodiment", name, EMBODIMENTS)
    return EMBODIMENTS[name]
