"""Build the envs that `gym.make` and `gym.make_vec` return: plain data in, live objects out."""

from dataclasses import dataclass, fields
from typing import Any, SupportsFloat, SupportsIndex

import numpy as np
import torch
from gymnasium.vector import AutoresetMode

from prophet_gym._checks import require_known
from prophet_gym.checkpoint import Checkpoint
from prophet_gym.embodiments import named_robot
from prophet_gym.envs._episodes import FPS
from prophet_gym.envs._plain import Cameras, PathOrName, Tasks, plain, require_cameras, require_flag, require_text
from prophet_gym.envs.shortened_chunk import ShortenedChunk
from prophet_gym.envs.single_env import ProphetEnv
from prophet_gym.envs.torch_env import ProphetTorchVectorEnv
from prophet_gym.envs.vector_env import ProphetVectorEnv
from prophet_gym.errors import UnknownOptionError
from prophet_gym.specs import FIRST_CAMERA


@dataclass(frozen=True, kw_only=True)
class EnvOptions:
    """Hold the keyword arguments of `gym.make("Prophet-LIBERO-v0", ...)`; `gym.make_vec` takes two more.

    All are turned into plain data, which the env's spec records and JSON can hold: a path may be a `Path`, a number may
    be NumPy's, a device or dtype may be torch's, and a list may be a tuple or an array.

    Attributes:
        suite: Suite of the initial states; all suites by default.
        embodiment: Robot whose actions the env takes, a name or `module:NAME`; the weights must be for this robot. None
            is the robot of the weights, whatever it is.
        weights: Name of the checkpoint, see `Checkpoint.named`.
        reward: Reward model: `auto` (the checkpoint's success head or, with a warning, None if it has no head), None
            (no reward), or a name that `prophet_gym.rewards.make_reward_model` takes, such as `success` or `vlm:MODEL`.
        device: Device of the world model, e.g. `cpu` or `cuda`.
        dtype: Precision of the world model: `float32`, `bfloat16` or `float16`.
        offload_autoencoder: Whether to keep the full Prophet's VAE on the CPU while it is idle.
        starts: `train`, `official` (evaluation and demo only), or a path: a folder of initial states, or a `.jsonl`
            file in the format of `Fleurrr/Bridge-RL-Data`.
        tasks: Numbers of the tasks of the initial states; all tasks by default.
        chunk: Number of actions per step, if fewer than the world model's: the rest of the chunk is filled with no-ops,
            dreamt and cut off, and `info["approximate"]` is True, see `ShortenedChunk`.
        max_episode_steps: Number of chunks until truncation; by default the id's. For the arguments that are not listed
            here see `ProphetVectorEnv`.
        engine: Library that runs the world model's networks: `eager` (PyTorch), `compiled`, `openvino`, or `auto`, the
            fastest on this machine. Dreams of two engines differ by rounding.
    """

    suite: str | None = None
    embodiment: str | None = "libero"
    weights: PathOrName = "bundled"
    reward: PathOrName | None = "auto"
    device: str | torch.device = "cpu"
    dtype: str | torch.dtype = "float32"
    offload_autoencoder: bool | np.bool_ = False
    starts: PathOrName = "train"
    tasks: Tasks | None = None
    chunk: SupportsIndex | None = None
    max_episode_steps: SupportsIndex | None = None
    render_mode: str | None = None
    proprioception: bool | np.bool_ = False
    max_uncertainty: SupportsFloat | None = None
    render: str = "step"
    cameras: Cameras = (FIRST_CAMERA,)
    engine: str = "eager"

    def parts(self) -> dict[str, Any]:
        """Load what an env is made of: the arguments of `ProphetEnv` and `ProphetVectorEnv`.

        Errors are those of `Checkpoint` and of the constructors: a name, file or ability that is missing.
        """
        cameras = require_cameras(self.cameras)
        name = None if self.embodiment is None else require_text("embodiment", self.embodiment)
        try:
            asked = None if name is None else named_robot(name)
            checkpoint = Checkpoint.named(self.weights, asked and asked.name)
        except UnknownOptionError:
            checkpoint, asked = Checkpoint.named(self.weights), None
            if checkpoint.robot != name:
                raise
        # A config's own description goes first: robots of one name may be driven in other ways.
        robot = checkpoint.embodiment if asked is None or "action_names" in checkpoint.config else asked
        # Initial states are read before weights: what is missing there is said at once, not after a slow load.
        starts = checkpoint.initial_states(self.starts, plain(self.suite), self.tasks)
        world_model = checkpoint.world_model(
            self.device, self.dtype, offload=self.offload_autoencoder, engine=require_text("engine", self.engine)
        )
        chunk = plain(self.chunk)
        if chunk is not None and chunk != world_model.chunk:
            world_model = ShortenedChunk(world_model, chunk, no_op=robot.no_op)
        return {
            "world_model": world_model,
            "starts": starts,
            "reward_model": checkpoint.reward_model(self.reward, self.device, chunk=world_model.chunk),
            "action_spec": robot.action_spec,
            "fps": robot.control_hz or FPS,
            "max_episode_steps": plain(self.max_episode_steps),
            "render_mode": plain(self.render_mode),
            "proprioception": require_flag("proprioception", self.proprioception),
            "max_uncertainty": plain(self.max_uncertainty),
            "render": require_text("render", self.render),
            "cameras": cameras,
        }


def make_env(**options: Any) -> ProphetEnv:
    """Build a single env; the arguments and errors are those of `EnvOptions`."""
    return ProphetEnv(**_options(options).parts())


def make_vector_env(
    num_envs: SupportsIndex = 1,
    *,
    max_episode_steps: SupportsIndex | None = 30,
    autoreset_mode: AutoresetMode | str = AutoresetMode.NEXT_STEP,
    tensors: bool | np.bool_ = False,
    **options: Any,
) -> ProphetVectorEnv:
    """Build a vector env of `num_envs` sub-environments; the other arguments and errors are those of `EnvOptions`.

    The autoreset mode is any of Gymnasium's three; without a horizon `max_episode_steps` is None. With `tensors` it
    gives torch tensors on `device`, see `ProphetTorchVectorEnv`.
    """
    kind = ProphetTorchVectorEnv if require_flag("tensors", tensors) else ProphetVectorEnv
    parts = _options({"max_episode_steps": max_episode_steps, **options}).parts()
    return kind(num_envs=plain(num_envs), autoreset_mode=autoreset_mode, **parts)


def _options(given: dict[str, Any]) -> EnvOptions:
    """Return the options, with the closest name in the error for one that does not exist."""
    names = [field.name for field in fields(EnvOptions)]
    for name in given:
        require_known("argument of gym.make", name, names)
    return EnvOptions(**given)
