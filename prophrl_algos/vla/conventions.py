"""Say what each benchmark shows and takes, and what each family of policies was trained on, with the sources.

An env of this library shows upright images and takes the robot's own actions. Published policies saw mirrored images,
or say another sign of the gripper, another kind of rotation, other scales: all this is outside the log-probability.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from prophet_gym._checks import unknown_option

ImageLayout = Literal["as is", "mirrored", "rotated"]
RotationKind = Literal["rotation vector", "euler xyz"]
Scaling = Literal["quantile", "mean std", "min max", "identity"]


@dataclass(frozen=True)
class Gripper:
    """Hold the numbers that mean open and closed."""

    open: float
    closed: float


@dataclass(frozen=True)
class Convention:
    """Describe how policies of a family meet a benchmark.

    Attributes:
        benchmark: `libero`, `bridge` (BridgeData actions, as in the dream) or `simpler-widowx` (SimplerEnv).
        family: `openpi` (pi0 and pi0.5 of openpi, RLinf and lerobot), `smolvla` or `prismatic` (VLA-Adapter and
            OpenVLA-OFT).
        views: Names of the images that the policy was trained on, in its order; the first is always present.
        image: How an upright image becomes what the policy was trained on.
        gripper: What the policy's un-normalised numbers mean; `env_gripper` the env's, and so for the rotation.
        binary: Whether the gripper is sent as open or closed with nothing in between.
        scaling: How the policy's actions are scaled, where the checkpoint does not say; `eps` as in `affine`.
    """

    benchmark: str
    family: str
    views: tuple[str, ...]
    image: ImageLayout
    gripper: Gripper
    env_gripper: Gripper
    binary: bool
    rotation: RotationKind
    env_rotation: RotationKind
    exec_steps: int
    scaling: Scaling
    eps: float
    sources: Mapping[str, str] = field(default_factory=dict)


_RLDS_GRIPPER = Gripper(open=1.0, closed=0.0)
_SIGN_CLOSES = Gripper(open=-1.0, closed=1.0)
_SIGN_OPENS = Gripper(open=1.0, closed=-1.0)
_BRIDGE_GRIPPER = "BridgeData V2 and RLDS bridge_orig: 1 is open, 0 closed"
_SIMPLER_GRIPPER = "SimplerEnv policies/openvla/openvla_model.py, widowx_bridge: 2 * (g > 0.5) - 1, 1 opens"
_LIBERO_GRIPPER = "robosuite 1.4 grippers/panda_gripper.py: -1 opens, 1 closes, and only the sign counts"
_QUANTILE = "openpi transforms.py, Normalize(use_quantiles=True): eps 1e-6, not clipped"
_BOUNDS = "prismatic data_utils.py, BOUNDS_Q99: eps 1e-8, clipped in training; the gripper is masked out"

_LIBERO = Convention(
    benchmark="libero",
    family="openpi",
    views=("image", "wrist_image"),
    # robosuite renders upside down (opengl) and all policies turn its images by 180 degrees: an upright one, mirrored.
    image="mirrored",
    gripper=_SIGN_CLOSES,
    env_gripper=_SIGN_CLOSES,
    binary=True,
    rotation="rotation vector",
    env_rotation="rotation vector",
    exec_steps=5,
    scaling="quantile",
    eps=1e-6,
    sources={
        "image": "openpi examples/libero/main.py, `[::-1, ::-1]` of an image that is upside down",
        "gripper": "openpi policies/libero_policy.py: actions are returned as they are",
        "env_gripper": _LIBERO_GRIPPER,
        "binary": _LIBERO_GRIPPER,
        "exec_steps": "openpi examples/libero/main.py: replan_steps=5 of a horizon of 10",
        "scaling": f"{_QUANTILE}; lerobot checkpoints say theirs in policy_preprocessor.json",
    },
)
_BRIDGE = Convention(
    benchmark="bridge",
    family="",
    views=("image",),
    image="as is",
    gripper=_RLDS_GRIPPER,
    env_gripper=_RLDS_GRIPPER,
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
    env_gripper=_SIGN_OPENS,
    env_rotation="rotation vector",
    sources={
        **_BRIDGE.sources,
        "env_gripper": _SIMPLER_GRIPPER,
        "env_rotation": "SimplerEnv policies/openvla/openvla_model.py: euler2axangle of the policy's rpy",
    },
)

CONVENTIONS: tuple[Convention, ...] = (
    _LIBERO,
    replace(
        _LIBERO,
        family="smolvla",
        exec_steps=10,
        scaling="mean std",
        eps=1e-8,
        sources={
            **_LIBERO.sources,
            "image": "lerobot envs/libero.py and processor/env_processor.py: both axes flipped",
            "gripper": "lerobot's LIBERO data sets hold robosuite's actions",
            "exec_steps": "our choice; lerobot's n_action_steps is in the checkpoint's config",
            "scaling": "lerobot policies/smolvla/configuration_smolvla.py, normalization_mapping",
        },
    ),
    replace(
        _LIBERO,
        family="prismatic",
        gripper=_RLDS_GRIPPER,
        exec_steps=8,
        eps=1e-8,
        sources={
            **_LIBERO.sources,
            "image": "OpenVLA-OFT experiments/robot/libero/libero_utils.py, get_libero_image: `[::-1, ::-1]`",
            "gripper": "RLDS of LIBERO: 1 open, 0 closed; OpenVLA's invert_gripper_action",
            "binary": "OpenVLA's normalize_gripper_action(binarize=True)",
            "exec_steps": "OpenVLA-OFT constants.py: NUM_ACTIONS_CHUNK, all executed",
            "scaling": _BOUNDS,
        },
    ),
    *(
        replace(row, family=family, eps=eps, sources={**row.sources, "scaling": scaling})
        for row in (_BRIDGE, _SIMPLER)
        for family, eps, scaling in (("openpi", 1e-6, _QUANTILE), ("prismatic", 1e-8, _BOUNDS))
    ),
)


def convention(benchmark: str, family: str) -> Convention:
    """Return the row of the table; UnknownOptionError for a pair that has none."""
    found = {f"{row.benchmark} with {row.family}": row for row in CONVENTIONS}
    if (name := f"{benchmark} with {family}") not in found:
        raise unknown_option("convention", name, found)
    return found[name]
