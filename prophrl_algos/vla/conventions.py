"""Say what each benchmark shows and takes, and what each family of policies was trained on, with the sources.

An env of this library shows upright images and takes the robot's own actions. Published policies saw mirrored images,
or say another sign of the gripper, other scales: all this is outside the log-probability.
"""

from dataclasses import dataclass, replace

from prophet_gym._checks import unknown_option


@dataclass(frozen=True)
class Gripper:
    """Hold the numbers that mean open and closed."""

    open: float
    closed: float


@dataclass(frozen=True)
class Convention:
    """Describe how policies of a family meet a benchmark.

    Attributes:
        benchmark: `libero`, or `bridge` (BridgeData actions, as in the dream).
        family: `openpi` (pi0.5 of openpi, RLinf and lerobot), `pi0`, `smolvla` or `prismatic` (VLA-Adapter and
            OpenVLA-OFT).
        views: Names of the images that the policy was trained on, in its order; the first is always present.
        mirrored: Whether the policy was trained on images whose left is the right of an upright one.
        gripper: What the policy's un-normalised numbers mean; `env_gripper` what the env's do. Actions are sent as open
            or closed with nothing in between.
        exec_steps: Number of actions of a chunk that are executed.
        scaling: How the policy's actions are scaled, in lerobot's words, where the checkpoint does not say; `eps` as in
            `affine`.
    """

    benchmark: str
    family: str
    views: tuple[str, ...]
    mirrored: bool
    gripper: Gripper
    env_gripper: Gripper
    exec_steps: int
    scaling: str
    eps: float


_RLDS_GRIPPER = Gripper(open=1.0, closed=0.0)
_ROBOSUITE_GRIPPER = Gripper(open=-1.0, closed=1.0)

_LIBERO = Convention(
    benchmark="libero",
    family="openpi",
    views=("image", "wrist_image"),
    # robosuite renders upside down (opengl) and all policies turn its images by 180 degrees: an upright one, mirrored.
    # openpi examples/libero/main.py, `[::-1, ::-1]`.
    mirrored=True,
    # openpi policies/libero_policy.py: actions are returned as they are.
    gripper=_ROBOSUITE_GRIPPER,
    # robosuite 1.4 grippers/panda_gripper.py: -1 opens, 1 closes, and only the sign counts.
    env_gripper=_ROBOSUITE_GRIPPER,
    # openpi examples/libero/main.py: replan_steps=5 of a horizon of 10.
    exec_steps=5,
    # openpi transforms.py, Normalize(use_quantiles=True): not clipped. lerobot's checkpoints say theirs.
    scaling="QUANTILES",
    eps=1e-6,
)
_BRIDGE = replace(
    _LIBERO,
    benchmark="bridge",
    views=("image",),
    # BridgeData V2 image_0 and SimplerEnv's 3rd_view_camera are upright.
    mirrored=False,
    # BridgeData V2 and RLDS bridge_orig: 1 is open, 0 closed. SimplerEnv's openvla_model.py takes g > 0.5 for open.
    gripper=_RLDS_GRIPPER,
    env_gripper=_RLDS_GRIPPER,
    # arXiv 2511.20633: chunks of 5 on BRIDGE.
    exec_steps=5,
)

CONVENTIONS: tuple[Convention, ...] = (
    _LIBERO,
    # openpi training/config.py: every model but pi0 is scaled by quantiles.
    replace(_LIBERO, family="pi0", scaling="MEAN_STD"),
    # lerobot envs/libero.py and processor/env_processor.py: both axes flipped; its LIBERO data sets hold robosuite's
    # actions. The scaling is that of configuration_smolvla.py, exec_steps our choice where the config has none.
    replace(_LIBERO, family="smolvla", exec_steps=10, scaling="MEAN_STD", eps=1e-8),
    # OpenVLA-OFT libero_utils.py, get_libero_image: `[::-1, ::-1]`. RLDS of LIBERO: 1 open, 0 closed, so OpenVLA has
    # normalize_gripper_action(binarize=True) and invert_gripper_action. OpenVLA-OFT constants.py: NUM_ACTIONS_CHUNK,
    # all executed. prismatic data_utils.py, BOUNDS_Q99: clipped in training, the gripper is masked out.
    replace(_LIBERO, family="prismatic", gripper=_RLDS_GRIPPER, exec_steps=8, eps=1e-8),
    _BRIDGE,
    replace(_BRIDGE, family="pi0", scaling="MEAN_STD"),
    replace(_BRIDGE, family="prismatic", eps=1e-8),
)


def convention(benchmark: str, family: str) -> Convention:
    """Return the row of the table; UnknownOptionError for a pair that has none."""
    found = {f"{row.benchmark} with {row.family}": row for row in CONVENTIONS}
    if (name := f"{benchmark} with {family}") not in found:
        raise unknown_option("convention", name, found)
    return found[name]
