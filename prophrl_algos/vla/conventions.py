"""What each benchmark shows and wants, and what families of policies were trained on: one table, each with its source.

An env of this library shows upright pictures and takes the robot's own commands. What a published policy saw and what
its numbers mean differs: signs of the gripper, turned pictures, the kind of rotation, scales. `convention` gives the
row of the table for a benchmark and a family, and the functions apply it; all of it is outside the log-prob.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, UInt8
from torch import Tensor

from prophet_gym.errors import unknown_option

ImageLayout = Literal["as is", "mirrored", "rotated"]
Rotation = Literal["rotation vector", "euler xyz"]
Scaling = Literal["quantile", "mean std", "min max", "identity"]


@dataclass(frozen=True)
class Gripper:
    """The numbers that mean open and closed."""

    open: float
    closed: float


RLDS_GRIPPER = Gripper(open=1.0, closed=0.0)
SIGN_CLOSES = Gripper(open=-1.0, closed=1.0)
SIGN_OPENS = Gripper(open=1.0, closed=-1.0)


@dataclass(frozen=True)
class Convention:
    """How policies of a family meet a benchmark.

    Attributes:
        benchmark: `libero`, `bridge` (BridgeData commands, as in the dream) or `simpler-widowx` (SimplerEnv).
        family: `openpi` (pi0 and pi0.5 of openpi, RLinf and lerobot), `smolvla` or `prismatic` (VLA-Adapter and
            OpenVLA-OFT).
        views: names of the pictures that it was trained on, in its order; the first is never missing.
        image: what is done to an upright picture to get what it was trained on.
        gripper: what its (un-normalised) numbers mean.
        env_gripper: what the env's mean.
        binary: whether the gripper's number is sent as open or closed and nothing between.
        rotation: what its rotation numbers are.
        env_rotation: what the env's are.
        exec_steps: actions of a chunk that are executed before it looks again.
        scaling: of its actions, where the checkpoint does not say.
        eps: added to the span (or deviation) that is divided by.
        wait_steps: no-op steps before its first decision; the envs of this library have run them when they reset.
        wait_action: the no-op.
        max_steps: of an episode, per suite, in actions.
        sources: where each of these is from.
    """

    benchmark: str
    family: str
    views: tuple[str, ...]
    image: ImageLayout
    gripper: Gripper
    env_gripper: Gripper
    binary: bool
    rotation: Rotation
    env_rotation: Rotation
    exec_steps: int
    scaling: Scaling
    eps: float
    wait_steps: int = 0
    wait_action: tuple[float, ...] = ()
    max_steps: Mapping[str, int] = field(default_factory=dict)
    sources: Mapping[str, str] = field(default_factory=dict)


_LIBERO_STEPS = {"libero_spatial": 220, "libero_object": 280, "libero_goal": 300, "libero_10": 520, "libero_90": 400}
_NO_OP = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0)
# robosuite renders upside down (opengl), and all of them turn its pictures by 180 degrees: an upright one, mirrored.
_LIBERO_PICTURE = "openpi examples/libero/main.py, `[::-1, ::-1]` of a picture that is upside down"
_LIBERO_GRIPPER = "robosuite 1.4 grippers/panda_gripper.py: -1 opens, 1 closes, and only the sign counts"
_LIBERO_WAIT = "openpi examples/libero/main.py and OpenVLA's run_libero_eval.py: num_steps_wait=10, [0]*6 + [-1]"
_LIBERO_MAX = "OpenVLA's run_libero_eval.py (longest demonstrations)"
_SIMPLER_GRIPPER = "SimplerEnv policies/openvla/openvla_model.py, widowx_bridge: 2 * (g > 0.5) - 1, 1 opens"
_SIMPLER_ROTATION = "SimplerEnv policies/openvla/openvla_model.py: euler2axangle of the policy's rpy"
_BRIDGE_GRIPPER = "BridgeData V2 and RLDS bridge_orig: 1 is open, 0 closed"
_QUANTILE = "openpi transforms.py, Normalize(use_quantiles=True): eps 1e-6, not clipped"
_BOUNDS = "prismatic data_utils.py, BOUNDS_Q99: eps 1e-8, clipped in training; the gripper is masked out"
_EXEC_OPENPI = "openpi examples/libero/main.py: replan_steps=5 of a horizon of 10"
_EXEC_PRISMATIC = "OpenVLA-OFT constants.py: NUM_ACTIONS_CHUNK, all executed"

_BRIDGE = Convention(
    benchmark="bridge",
    family="",
    views=("image",),
    image="as is",
    gripper=RLDS_GRIPPER,
    env_gripper=RLDS_GRIPPER,
    binary=True,
    rotation="euler xyz",
    env_rotation="euler xyz",
    exec_steps=5,
    scaling="quantile",
    eps=0.0,
    sources={
        "image": "BridgeData V2 image_0 and SimplerEnv's 3rd_view_camera are upright",
        "gripper": _BRIDGE_GRIPPER,
        "env_gripper": _BRIDGE_GRIPPER,
        "binary": _SIMPLER_GRIPPER,
        "env_rotation": "BridgeData V2: differences of Euler angles",
        "exec_steps": "arXiv 2511.20633: chunks of 5 on BRIDGE",
    },
)
_SIMPLER = replace(
    _BRIDGE,
    benchmark="simpler-widowx",
    env_gripper=SIGN_OPENS,
    env_rotation="rotation vector",
    sources={**_BRIDGE.sources, "env_gripper": _SIMPLER_GRIPPER, "env_rotation": _SIMPLER_ROTATION},
)

CONVENTIONS: tuple[Convention, ...] = (
    Convention(
        benchmark="libero",
        family="openpi",
        views=("image", "wrist_image"),
        image="mirrored",
        gripper=SIGN_CLOSES,
        env_gripper=SIGN_CLOSES,
        binary=True,
        rotation="rotation vector",
        env_rotation="rotation vector",
        exec_steps=5,
        scaling="quantile",
        eps=1e-6,
        wait_steps=10,
        wait_action=_NO_OP,
        max_steps=_LIBERO_STEPS,
        sources={
            "image": _LIBERO_PICTURE,
            "gripper": "openpi policies/libero_policy.py: actions are returned as they are",
            "env_gripper": _LIBERO_GRIPPER,
            "binary": _LIBERO_GRIPPER,
            "exec_steps": _EXEC_OPENPI,
            "scaling": f"{_QUANTILE}; lerobot checkpoints say theirs in policy_preprocessor.json",
            "wait_steps": _LIBERO_WAIT,
            "max_steps": _LIBERO_MAX,
        },
    ),
    Convention(
        benchmark="libero",
        family="smolvla",
        views=("image", "wrist_image"),
        image="mirrored",
        gripper=SIGN_CLOSES,
        env_gripper=SIGN_CLOSES,
        binary=True,
        rotation="rotation vector",
        env_rotation="rotation vector",
        exec_steps=10,
        scaling="mean std",
        eps=1e-8,
        wait_steps=10,
        wait_action=_NO_OP,
        max_steps=_LIBERO_STEPS,
        sources={
            "image": "lerobot envs/libero.py and processor/env_processor.py: both axes flipped",
            "gripper": "lerobot's LIBERO data sets hold robosuite's commands",
            "env_gripper": _LIBERO_GRIPPER,
            "binary": _LIBERO_GRIPPER,
            "exec_steps": "our choice; lerobot's n_action_steps is in the checkpoint's config",
            "scaling": "lerobot policies/smolvla/configuration_smolvla.py, normalization_mapping",
            "wait_steps": _LIBERO_WAIT,
            "max_steps": _LIBERO_MAX,
        },
    ),
    Convention(
        benchmark="libero",
        family="prismatic",
        views=("image", "wrist_image"),
        image="mirrored",
        gripper=RLDS_GRIPPER,
        env_gripper=SIGN_CLOSES,
        binary=True,
        rotation="rotation vector",
        env_rotation="rotation vector",
        exec_steps=8,
        scaling="quantile",
        eps=1e-8,
        wait_steps=10,
        wait_action=_NO_OP,
        max_steps=_LIBERO_STEPS,
        sources={
            "image": "OpenVLA-OFT experiments/robot/libero/libero_utils.py, get_libero_image: `[::-1, ::-1]`",
            "gripper": "RLDS of LIBERO: 1 open, 0 closed; OpenVLA's invert_gripper_action",
            "env_gripper": _LIBERO_GRIPPER,
            "binary": "OpenVLA's normalize_gripper_action(binarize=True)",
            "exec_steps": _EXEC_PRISMATIC,
            "scaling": _BOUNDS,
            "wait_steps": _LIBERO_WAIT,
            "max_steps": _LIBERO_MAX,
        },
    ),
    *(
        replace(row, family=family, eps=eps, sources={**row.sources, "scaling": scaling})
        for row in (_BRIDGE, _SIMPLER)
        for family, eps, scaling in (("openpi", 1e-6, _QUANTILE), ("prismatic", 1e-8, _BOUNDS))
    ),
)


def convention(benchmark: str, family: str) -> Convention:
    """The row of the table; UnknownOptionError for a pair that has none.

    Example:
        >>> convention("libero", "prismatic").exec_steps
        8
    """
    found = {(row.benchmark, row.family): row for row in CONVENTIONS}
    if (benchmark, family) not in found:
        known = [f"{a} with {b}" for a, b in found]
        raise unknown_option("convention", f"{benchmark} with {family}", known)
    return found[benchmark, family]


def policy_image(frames: UInt8[Tensor, "*b h w 3"], how: ImageLayout) -> UInt8[Tensor, "*b h w 3"]:
    """Upright pictures of an env as the policy was trained on them."""
    turned = {"as is": (), "mirrored": (-2,), "rotated": (-3, -2)}[how]
    return frames.flip(turned) if turned else frames


def policy_to_env(actions: Float[Tensor, "*b 7"], how: Convention) -> Float[Tensor, "*b 7"]:
    """Un-normalised actions of a policy to commands of the env: rotation and gripper."""
    turn = _rotation(actions[..., 3:6], how.rotation, how.env_rotation)
    grip = _gripper(actions[..., 6:], how.gripper, how.env_gripper, binary=how.binary)
    return torch.cat([actions[..., :3], turn, grip], -1)


def env_to_policy(actions: Float[Tensor, "*b 7"], how: Convention) -> Float[Tensor, "*b 7"]:
    """Demonstrated commands of an env to what the policy should say, un-normalised."""
    turn = _rotation(actions[..., 3:6], how.env_rotation, how.rotation)
    grip = _gripper(actions[..., 6:], how.env_gripper, how.gripper, binary=False)
    return torch.cat([actions[..., :3], turn, grip], -1)


class Affine(NamedTuple):
    """`normalised = (value - offset) / scale`."""

    offset: Float[Tensor, " a"]
    scale: Float[Tensor, " a"]


STATISTICS: Mapping[Scaling, tuple[str, ...]] = {
    "quantile": ("q01", "q99"),
    "mean std": ("mean", "std"),
    "min max": ("min", "max"),
    "identity": (),
}
"""What each way of scaling is made of."""


def affine(
    scaling: Scaling, statistics: Mapping[str, Tensor], *, eps: float, mask: Bool[Tensor, " a"] | None = None
) -> Affine:
    """The scale of numbers from the statistics of a data set.

    Args:
        scaling: quantile maps q01..q99 to -1..1 and min max the extremes; mean std takes both out.
        statistics: `q01` and `q99`, `min` and `max`, or `mean` and `std`; for the identity any one of them.
        eps: added to the span or deviation.
        mask: numbers to be scaled; the others stay as they are.

    Raises:
        ValueError: statistics that the scaling needs are not there.
    """
    names = STATISTICS[scaling]
    missing = [name for name in names if name not in statistics]
    if missing:
        raise ValueError(f"{scaling!r} scaling needs {' and '.join(names)}, the statistics have {sorted(statistics)}")
    if scaling == "identity":
        like = next(iter(statistics.values())).float()
        return Affine(torch.zeros_like(like), torch.ones_like(like))
    first, second = (statistics[name].float() for name in names)
    if scaling == "mean std":
        offset, scale = first, second + eps
    else:
        scale = (second - first + eps) / 2
        offset = first + scale
    if mask is not None:
        offset, scale = torch.where(mask, offset, 0.0), torch.where(mask, scale, 1.0)
    return Affine(offset, scale)


def normalise(values: Float[Tensor, "*b a"], by: Affine) -> Float[Tensor, "*b a"]:
    """Numbers in units to what a policy reads or says."""
    return (values - by.offset.to(values)) / by.scale.to(values)


def unnormalise(values: Float[Tensor, "*b a"], by: Affine) -> Float[Tensor, "*b a"]:
    """The inverse."""
    return values * by.scale.to(values) + by.offset.to(values)


def _gripper(values: Tensor, given: Gripper, wanted: Gripper, *, binary: bool) -> Tensor:
    openness = (values - given.closed) / (given.open - given.closed)
    if binary:
        openness = (openness > 0.5).to(values.dtype)
    return wanted.closed + openness * (wanted.open - wanted.closed)


def _rotation(angles: Tensor, given: Rotation, wanted: Rotation) -> Tensor:
    if given == wanted:
        return angles
    return euler_to_rotation_vector(angles) if given == "euler xyz" else rotation_vector_to_euler(angles)


def euler_to_rotation_vector(angles: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 3"]:
    """Roll, pitch, yaw about fixed axes (R = Rz Ry Rx) to axis times angle, at most half a turn."""
    (cr, cp, cy), (sr, sp, sy) = ((f(angles / 2)).unbind(-1) for f in (torch.cos, torch.sin))
    w = cr * cp * cy + sr * sp * sy
    axis = torch.stack([sr * cp * cy - cr * sp * sy, cr * sp * cy + sr * cp * sy, cr * cp * sy - sr * sp * cy], -1)
    sign = torch.where(w < 0, -1.0, 1.0).to(w)
    length = axis.norm(dim=-1)
    angle = 2 * torch.atan2(length, w * sign)
    # sin(angle / 2) / angle -> 1 / 2 for a small angle
    factor = torch.where(length > 1e-8, angle / length.clamp(min=1e-8), 2.0)
    return axis * (sign * factor)[..., None]


def rotation_vector_to_euler(vector: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 3"]:
    """The inverse, with pitch within a quarter turn."""
    angle = vector.norm(dim=-1, keepdim=True)
    x, y, z = (vector * torch.where(angle > 1e-8, torch.sin(angle / 2) / angle.clamp(min=1e-8), 0.5)).unbind(-1)
    w = torch.cos(angle[..., 0] / 2)
    roll = torch.atan2(2 * (w * x + y * z), 1 - 2 * (x * x + y * y))
    pitch = torch.asin((2 * (w * y - z * x)).clamp(-1, 1))
    yaw = torch.atan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z))
    return torch.stack([roll, pitch, yaw], -1)
