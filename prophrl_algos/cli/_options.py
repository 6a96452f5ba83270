"""Options that several commands share, each declared once; a command's `Args` inherits those that it takes."""

import shlex
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from prophet_gym._arguments import Arguments, Cameras, DeviceOrAuto, Items, resolved_device
from prophet_gym.specs import FIRST_CAMERA

if TYPE_CHECKING:
    from gymnasium.vector import VectorEnv

    from prophrl_algos.vla._options import LoadOptions


@dataclass(frozen=True)
class Load(Arguments):
    """Choose how a published policy acts; other policies ignore it."""

    num_steps: Items | None = None
    """Number of denoising steps; the checkpoint's by default."""
    exec_steps: Items | None = None
    """Number of actions of each chunk to execute; the usual number of the benchmark by default."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Precision of the weights that are not trained."""
    unnorm_key: str | None = None
    """Data set whose normalisation statistics are used, if the checkpoint has several."""
    statistics: Path | None = None
    """File of normalisation statistics that replaces the checkpoint's."""
    tokenizer: str | None = None
    """Folder or Hub name of a tokenizer that replaces the checkpoint's."""
    without_state: Literal["refuse", "mean"] = "refuse"
    """Choose what a policy that reads the robot's state does in an env without it, such as a dream: `refuse` it, or
    read the `mean` of its training data."""

    def options(self, env: str) -> "LoadOptions":
        """Return the options of `load_policy` for a policy that acts in an environment of this id."""
        import torch

        from prophrl_algos.vla._options import LoadOptions

        given = asdict(self) | {"dtype": getattr(torch, self.dtype)}
        return LoadOptions(benchmark="bridge" if "BRIDGE" in env else "libero", **given)


@dataclass(frozen=True)
class TrainLoad(Load):
    """Choose how a published policy acts and which of its weights are trained; other policies ignore it."""

    train: Literal["expert", "lora", "full", "none"] = "expert"
    """Weights to train: those of the action expert or flow head, LoRA adapters, all, or none."""
    language: bool = False
    """Also put LoRA adapters into the language model, in policy families that leave this open."""


@dataclass(frozen=True, kw_only=True)
class PolicyOptions(Arguments):
    """Choose a policy."""

    policy: str
    """Policy: `small` (10 denoising steps), `small-k4` (4), a folder or Hub repository of a published policy, or
    `package.module:function`, which is called with the environment and returns a FlowPolicy."""
    load: Load = field(default_factory=Load)
    """Options of published policies; other policies ignore them."""


@dataclass(frozen=True, kw_only=True)
class WeightsOptions(PolicyOptions):
    """Choose a policy and its weights."""

    policy_weights: Path | None = None
    """Weights of the policy: a folder or file that `prophrl sft` or `prophrl train` wrote, or a bundled name."""


@dataclass(frozen=True, kw_only=True)
class EnvOptions(Arguments):
    """Choose the env that a policy acts in, and the device of the networks."""

    env: str = "Prophet-LIBERO-v0"
    """Id of a registered environment; for one of your own with the module that registers it, as in `my_envs:Mine-v0`;
    `LIBERO-Object-v0` is the simulator."""
    world_model: str = ""
    """Checkpoint of the world model in a Prophet environment: a folder or Hub repository; the bundled one if empty."""
    device: DeviceOrAuto = "auto"
    """Device to compute on, for example `cpu` or `cuda:1`; `auto` is the GPU if there is one."""
    cameras: Cameras = (FIRST_CAMERA,)
    """Cameras that the policy sees: `agentview`, or `agentview wrist`, which also gives it the robot's state, in an
    environment that has both, such as `LIBERO-Object-v0`."""

    def make_env(
        self,
        rows: int,
        *,
        starts: str = "train",
        tasks: Sequence[int] = (),
        engine: str = "eager",
        reward: str = "",
        look: str = "",
        render: str = "",
    ) -> "VectorEnv":
        """Make the environment, see `prophrl_algos._named.make_env`."""
        from prophrl_algos._named import make_env

        asked = {"device": resolved_device(self.device), "world_model": self.world_model, "engine": engine}
        # Environments of other packages need not know the option.
        options: dict[str, Any] = {} if self.cameras == (FIRST_CAMERA,) else {"cameras": self.cameras}
        options |= ({"look": look} if look else {}) | ({"render": render} if render else {})
        if self.env == "Prophet-LIBERO-v0" and self.world_model:
            from prophet_gym.checkpoint import Checkpoint

            # By itself the id takes LIBERO's robot, and would refuse weights of another one.
            options["embodiment"] = Checkpoint.named(self.world_model).robot
        return make_env(self.env, rows, starts=starts, tasks=tasks, reward=reward, options=options, **asked)


@dataclass(frozen=True, kw_only=True)
class DreamOptions(EnvOptions):
    """Choose the env that a policy acts in, what runs its world model, and what scores its dreams."""

    engine: Literal["auto", "eager", "compiled", "openvino"] = "auto"
    """Library that runs the world model in a Prophet environment: PyTorch (`eager`), compiled by it, OpenVINO, or the
    fastest on this machine."""
    reward: str = ""
    """Reward model in a Prophet environment, as `gym.make(..., reward=)` takes it, for example
    `my_rewards:done`; that of the world model's checkpoint if empty."""


def command(name: str, args: Any, **given: Any) -> str:
    """Return a `prophrl` command that uses what another has made, for the same policy in the same environment.

    `given` are its own options; those of the environment and of the world model are left out where they are the usual.
    """
    shared = {each.name: each.default for each in fields(DreamOptions) if each.name not in ("load", "device")}
    chosen = {key: getattr(args, key) for key, usual in shared.items() if getattr(args, key, usual) != usual}
    words = ["prophrl", name]
    for key, value in {"policy": args.policy, **given, **chosen}.items():
        words += [f"--{key.replace('_', '-')}", *map(str, value if isinstance(value, tuple) else (value,))]
    return "  " + shlex.join(words)
