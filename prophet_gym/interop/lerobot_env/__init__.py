"""A plug-in of LeRobot: `--env.type=prophet` of `lerobot-eval` is a checkpoint that `prophet push` published.

LeRobot 0.4 has no type of its own for any EnvHub repository, and asks what a policy will see before the env is there.
`lerobot-eval --env.discover_packages_path=prophet_gym.interop.lerobot_env` finds this one.
"""

from dataclasses import dataclass
from typing import Any

import gymnasium as gym
from lerobot.configs.types import FeatureType, PolicyFeature  # pyright: ignore[reportMissingImports]
from lerobot.envs.configs import EnvConfig, HubEnvConfig  # pyright: ignore[reportMissingImports]

from prophet_gym.interop.lerobot import make_env

_PIXELS, _STATE, _ACTION = "pixels", "agent_pos", "action"


@EnvConfig.register_subclass("prophet")
@dataclass
class ProphetEnvConfig(HubEnvConfig):
    """Describe the env of a published checkpoint.

    `hub_path` is `owner/repo`, optionally with `@revision`; `task` is a suite, the first of the checkpoint by default;
    `task_ids` are numbers of its tasks, and `episode_length` is in actions. What a policy sees is asked of the
    checkpoint.
    """

    fps: int = 20
    task_ids: list[int] | None = None
    episode_length: int | None = None

    def __post_init__(self) -> None:
        if not self.hub_path:
            raise ValueError("--env.hub_path must be the repository of a published checkpoint, such as owner/repo")
        weights = self.hub_path.partition(":")[0]  # behind it stands the file that LeRobot runs
        envs = next(iter(make_env(1, cfg=self, weights=weights).values()))
        env = next(iter(envs.values()))
        self.fps = round(env.metadata["render_fps"])
        self.features, self.features_map = _features(env.single_observation_space, env.single_action_space)


def _features(seen: gym.Space, action: gym.Space) -> tuple[dict[str, Any], dict[str, str]]:
    """Return the features of an env, and the names by which policies know them."""
    assert isinstance(seen, gym.spaces.Dict)
    pixels, found = seen.spaces[_PIXELS], {_ACTION: PolicyFeature(FeatureType.ACTION, action.shape)}
    names = {_ACTION: _ACTION}
    assert isinstance(pixels, gym.spaces.Dict)
    for name, space in pixels.spaces.items():
        found[f"{_PIXELS}/{name}"] = PolicyFeature(FeatureType.VISUAL, space.shape)
        names[f"{_PIXELS}/{name}"] = f"observation.images.{name}"
    if _STATE in seen.spaces:
        found[_STATE] = PolicyFeature(FeatureType.STATE, seen.spaces[_STATE].shape)
        names[_STATE] = "observation.state"
    return found, names
