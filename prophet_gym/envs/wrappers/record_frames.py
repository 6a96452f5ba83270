"""Films with every frame of a chunk."""

import os
from typing import Any

import gymnasium as gym
from gymnasium.wrappers import RecordVideo

from prophet_gym.envs.wrappers._common import PlainArguments


class RecordEveryFrame(RecordVideo, PlainArguments):
    """Gymnasium's `RecordVideo` for `render_mode="rgb_array_list"`: the film has all frames since the last step.

    `RecordVideo` keeps one picture per step, the last one, so it suits `rgb_array`. Arguments are the same;
    `video_length` counts frames, and the film ends with the chunk that passes it.

    Example:
        >>> import tempfile
        >>> from prophet_gym.envs import ProphetEnv
        >>> from prophet_gym.testing import CountingWorldModel, counting_starts
        >>> env = ProphetEnv(CountingWorldModel(chunk=4), counting_starts(), render_mode="rgb_array_list")
        >>> env = RecordEveryFrame(env, tempfile.mkdtemp() + "/videos", video_length=9)  # doctest: +SKIP
    """

    def __init__(self, env: gym.Env, video_folder: str | os.PathLike[str], **arguments: Any) -> None:
        """Wrap an env; ValueError for another render mode."""
        if env.render_mode != "rgb_array_list":
            raise ValueError(
                f"RecordEveryFrame needs render_mode='rgb_array_list', got {env.render_mode!r}; "
                "Gymnasium's RecordVideo films 'rgb_array'"
            )
        PlainArguments.__init__(self, video_folder=video_folder, **arguments)
        super().__init__(env, os.fspath(video_folder), **arguments)

    def _capture_frame(self) -> None:
        """What `RecordVideo` calls after each reset and step; frames are also kept for `render`, as it does."""
        frames: Any = self.env.render()
        self.render_history += frames
        self.recorded_frames += frames
