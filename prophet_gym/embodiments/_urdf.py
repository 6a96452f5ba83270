"""Where joint positions take a robot's tool, by its URDF, and where calibrated cameras see it.

What is read becomes plain numbers of a checkpoint's config, so no dream needs the files again. URDF:
wiki.ros.org/urdf/XML/joint. Cameras as OpenCV has them: the middle of the first pixel is 0, x runs to the right, y down
and z away from the camera.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from prophet_gym._arguments import Arguments
from prophet_gym._checks import require_known, unknown_option
from prophet_gym.embodiments._kinematics import euler_to_matrix

Chain = tuple[tuple[float, ...], ...]
"""The joints from a robot's root to its tool: of each the dimension of the action that moves it (-1 if none does),
whether it slides (1) or turns (0), its origin (3x4, row by row), and its axis times radians or metres per unit."""
Matrices = tuple[tuple[tuple[float, ...], ...], ...]
ROW = 17
_MOVING = {"revolute": 0.0, "continuous": 0.0, "prismatic": 1.0}
_BEYOND = 0.2  # radians or metres by which a joint may be asked for more than its URDF allows
_UNITS = {"radians": 1.0, "degrees": math.pi / 180}


@dataclass(frozen=True, kw_only=True)
class UrdfOptions(Arguments):
    """Choose what is known of the robot of a LeRobot data set whose actions are joint positions."""

    urdf: Path | None = None
    """URDF of a robot whose actions are joint positions: the model then also reads where they take `--tool-link`."""
    tool_link: str | None = None  # Link of the URDF that is the tool, for example `gripper_frame_link`.
    joints: tuple[str, ...] = ()
    """Dimensions of the action that move the joints from the URDF's root to the tool, in that order; by default those
    with the joints' names, with or without `.pos`."""
    joint_units: Literal["radians", "degrees"] = "radians"
    """Unit of the action's joint angles."""
    calibration: Path | None = None
    """JSON with `intrinsics` (3x3, pixels), `extrinsics` (4x4, the URDF's root to the camera) and `size` (height and
    width) of each calibrated camera by name: action frames are then drawn where it sees the tool."""

    def known(self) -> dict[str, Any]:
        """Return what of these was chosen; ValueError for options that say nothing without `--urdf`."""
        given = {name: getattr(self, name) for name in UrdfOptions.__dataclass_fields__}
        chosen = {name: str(value) for name, value in given.items() if value not in (None, (), "radians")}
        if chosen and self.urdf is None:
            raise ValueError(f"--urdf says what {', '.join(chosen)} is about: give it too")
        return chosen


def read_chain(options: UrdfOptions, names: Sequence[str], actions: Float[np.ndarray, "n a"]) -> Chain:
    """Read the joints from a URDF's root to the tool; the actions, of these names, must be within their limits.

    Raises:
        FileNotFoundError: There is no such file.
        UnknownOptionError: The URDF has no such link, or the action no such dimension.
        ValueError: The file is no URDF, or its joints are not what the actions move.
    """
    assert options.urdf is not None
    path = options.urdf.expanduser()
    robot = _parsed(path)
    links = [str(link.get("name")) for link in robot.iter("link")]
    if options.tool_link is None:
        raise ValueError(f"--tool-link must say which link of {path} is the tool: {', '.join(links)}")
    require_known(f"link of {path}", options.tool_link, links)
    joints = _joints_to(robot, options.tool_link, path)
    moving = [joint for joint in joints if joint.get("type") in _MOVING]
    numbers = iter(_dimensions(options, [str(joint.get("name")) for joint in moving], names))
    rows = []
    for joint in joints:
        kind, where = str(joint.get("type")), f"joint {joint.get('name')} of {path}"
        if kind not in (*_MOVING, "fixed") or joint.find("mimic") is not None:
            raise ValueError(f"{where} must be revolute, continuous, prismatic or fixed and follow no other, is {kind}")
        number = next(numbers) if kind in _MOVING else -1
        axis, scale = np.zeros(3), 1.0 if kind == "prismatic" else _UNITS[options.joint_units]
        if number >= 0:
            axis = _numbers(joint.find("axis"), "xyz", where, (1.0, 0.0, 0.0))
            if not np.linalg.norm(axis):
                raise ValueError(f"the axis of {where} must have a direction")
            axis = axis / np.linalg.norm(axis) * scale
            _require_within(joint, actions[:, number] * scale, where, options)
        origin = joint.find("origin")
        turn = euler_to_matrix(_numbers(origin, "rpy", where))
        placed = np.column_stack([turn, _numbers(origin, "xyz", where)])
        rows.append((float(number), _MOVING.get(kind, 0.0), *placed.ravel().tolist(), *axis.tolist()))
    return tuple(rows)


def _parsed(path: Path) -> ElementTree.Element:
    if not path.is_file():
        raise FileNotFoundError(f"no URDF at {path}")
    text = path.read_text(encoding="utf-8", errors="replace")
    # Entities can grow without bound, and no URDF needs them.
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError(f"{path} must be a URDF without a document type: remove it")
    try:
        robot = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise ValueError(f"{path} must be a URDF, which is XML ({error}); a xacro file is converted first") from error
    if robot.tag != "robot" or not list(robot.iter("link")):
        raise ValueError(f"{path} must be a URDF, a <robot> of links, is a <{robot.tag}>; a xacro is converted first")
    return robot


def _joints_to(robot: ElementTree.Element, link: str, path: Path) -> list[ElementTree.Element]:
    """List the joints from the root to a link."""
    above: dict[str, ElementTree.Element] = {}
    for joint in robot.findall("joint"):
        ends = [joint.find(name) for name in ("parent", "child")]
        if any(end is None or not end.get("link") for end in ends):
            raise ValueError(f"joint {joint.get('name')} of {path} must name its parent and its child")
        above[str(ends[1].get("link"))] = joint  # pyright: ignore[reportOptionalMemberAccess]
    found: list[ElementTree.Element] = []
    while link in above:
        found.append(above[link])
        link = str(found[-1].find("parent").get("link"))  # pyright: ignore[reportOptionalMemberAccess]
        if len(found) > len(above):
            raise ValueError(f"the joints of {path} must be a tree, and lead round in a circle")
    return found[::-1]


def _dimensions(options: UrdfOptions, moving: Sequence[str], names: Sequence[str]) -> list[int]:
    """Return which dimension of the action moves each joint."""
    told = f"{options.tool_link} of {options.urdf} is moved by {len(moving)} joints ({', '.join(moving)})"
    if not moving:
        raise ValueError(f"{told}: name a --tool-link that actions move")
    if options.joints and len(options.joints) != len(moving):
        raise ValueError(f"{told}, and --joints names {len(options.joints)} dimensions: {', '.join(options.joints)}")
    places = {name: index for index, name in enumerate(names)}
    if options.joints:
        for name in options.joints:
            if name not in places:
                raise unknown_option("dimension of the action", name, names)
        return [places[name] for name in options.joints]
    short = {name.removesuffix(".pos"): index for name, index in places.items()} | places
    if lacking := [name for name in moving if name not in short]:
        raise ValueError(
            f"{told}, and no dimension of the action has the name {', '.join(lacking)}: there are {', '.join(names)}. "
            "Name one for each joint, in this order, with --joints"
        )
    return [short[name] for name in moving]


def _require_within(
    joint: ElementTree.Element, asked: Float[np.ndarray, " n"], where: str, options: UrdfOptions
) -> None:
    """Raise ValueError for actions that a joint cannot reach, or that no angle in radians is."""
    limit, (low, high) = joint.find("limit"), (-2 * math.pi, 2 * math.pi)
    if joint.get("type") != "continuous" and limit is not None:
        low, high = (float(_numbers(limit, name, where, (0.0,))[0]) for name in ("lower", "upper"))
    if asked.min() < low - _BEYOND or asked.max() > high + _BEYOND:
        unit = "metres" if joint.get("type") == "prismatic" else f"radians, --joint-units {options.joint_units}"
        raise ValueError(
            f"actions must be positions that {where} can take, {low:.4g} .. {high:.4g}, and are {asked.min():.4g} .. "
            f"{asked.max():.4g} ({unit}): name the right unit, the right --joints, or leave --urdf away"
        )


def _numbers(
    element: ElementTree.Element | None, name: str, where: str, default: tuple[float, ...] = (0.0,) * 3
) -> np.ndarray:
    text = None if element is None else element.get(name)
    try:
        found = np.array(default if text is None else [float(word) for word in text.split()])
    except ValueError:
        found = np.full(1, np.nan)
    if found.shape != (len(default),) or not np.isfinite(found).all():
        raise ValueError(f"{name} of {where} must be {len(default)} finite numbers, is {text!r}")
    return found


def read_calibration(path: Path, cameras: Mapping[str, tuple[int, int]], size: tuple[int, int]) -> Matrices:
    """Read the matrix of each camera (see `CameraSpec`), of what is seen after `fitted` to `size`.

    Args:
        path: The JSON file that `UrdfOptions` describes.
        cameras: The cameras' names, with or without `observation.images.`, and the height and width of their images.
        size: Height and width to which images are cut about their middle and resized.

    Returns:
        Three rows of four numbers for each camera, or none where the file does not know it.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is no such JSON, knows none of the cameras, or one with images of other proportions.
    """
    path = path.expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"no calibration at {path}")
    try:
        told = json.loads(path.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} must be JSON: {error}") from error
    if not isinstance(told, dict) or not all(isinstance(each, dict) for each in told.values()):
        raise ValueError(f"{path} must map names of cameras to intrinsics, extrinsics and size")
    short = {name.rpartition(".")[2]: name for name in cameras}
    entries = {name: told.get(name, told.get(name.rpartition(".")[2])) for name in cameras}
    if not any(entries.values()):
        raise ValueError(f"{path} must know one of the cameras {', '.join(short)}, knows {', '.join(told) or 'none'}")
    return tuple(
        () if entry is None else _matrix(entry, f"{name} in {path}", cameras[name], size)
        for name, entry in entries.items()
    )


def _matrix(
    entry: Mapping[str, Any], where: str, recorded: tuple[int, int], size: tuple[int, int]
) -> tuple[tuple[float, ...], ...]:
    shapes = {"intrinsics": (3, 3), "extrinsics": (4, 4), "size": (2,)}
    found = {}
    for name, shape in shapes.items():
        try:
            found[name] = np.array(entry.get(name), dtype=np.float64)
        except (TypeError, ValueError):
            found[name] = np.full(1, np.nan)
        if found[name].shape != shape or not np.isfinite(found[name]).all():
            raise ValueError(f"{name} of {where} must be finite numbers of shape {shape}")
    turn = found["extrinsics"][:3, :3]
    if np.abs(turn @ turn.T - np.eye(3)).max() > 1e-3 or np.linalg.det(turn) < 0:
        raise ValueError(f"extrinsics of {where} must be a rotation and a translation, metres, from the URDF's root")
    height, width = found["size"]
    if abs(recorded[0] * width - recorded[1] * height) > max(height, width):
        raise ValueError(f"{where} must be of images of the proportions {recorded}, is of {(int(height), int(width))}")
    # From pixels to parts of the image; half a pixel, since a part begins at an edge and a pixel in its middle.
    parts = np.array([[1 / width, 0, 0.5 / width], [0, 1 / height, 0.5 / height], [0, 0, 1]])
    # As `fitted` cuts them.
    scale = min(side / wanted for side, wanted in zip(recorded, size, strict=True))
    rows, columns = (round(wanted * scale) for wanted in size)
    top, left = (recorded[0] - rows) // 2, (recorded[1] - columns) // 2
    cut = np.array([[recorded[1] / columns, 0, -left / columns], [0, recorded[0] / rows, -top / rows], [0, 0, 1]])
    matrix = cut @ parts @ found["intrinsics"] @ found["extrinsics"][:3]
    return tuple(map(tuple, matrix.tolist()))


def tool_path(chain: Chain, actions: Float[Tensor, "*b a"]) -> Float[Tensor, "*b 3"]:
    """Return where joint positions take the tool, metres from the URDF's root."""
    wide = actions.double()
    place, turn = wide.new_zeros(3, 1), torch.eye(3, dtype=torch.float64, device=wide.device)
    for number, slides, *rest in chain:
        origin, axis = wide.new_tensor(rest[:12]).reshape(3, 4), wide.new_tensor(rest[12:])
        place, turn = place + turn @ origin[:, 3:], turn @ origin[:, :3]
        if number < 0:
            continue
        moved = wide[..., int(number), None] * axis
        if slides:
            place = place + turn @ moved[..., None]
        else:
            turn = turn @ _turned(moved)
    return place[..., 0].expand(*actions.shape[:-1], 3).to(actions)


def _turned(vectors: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 3 3"]:
    """Return the rotations about vectors, by their lengths in radians."""
    x, y, z = vectors.unbind(-1)
    zero = torch.zeros_like(x)
    skew = torch.stack([zero, -z, y, z, zero, -x, -y, x, zero], dim=-1).unflatten(-1, (3, 3))
    return torch.linalg.matrix_exp(skew)
