"""Videos with every frame of a chunk."""

import os
from typing import Any

import gymnasium as gym
from gymnasium.wrappers import RecordVideo

from prophet_gym.envs.wrappers._common import PlainArguments


class RecordEveryFrame(RecordVideo, PlainArguments):
    """Record videos of all frames, with Gymnasium's `RecordVideo`; needs `render_mode="rgb_array_list"`.

    `RecordVideo` alone keeps one image per step, the last one. Arguments are the same; `video_length` counts frames,
    and a video ends with the chunk that reaches it.

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
            given = f"{env.render_mode!r}; Gymnasium's RecordVideo takes 'rgb_array'"
            raise ValueError(f"RecordEveryFrame needs render_mode='rgb_array_list', got {given}")
        PlainArguments.__init__(self, video_folder=video_folder, **arguments)
        super().__init__(env, os.fspath(video_folder), **arguments)

    def _capture_frame(self) -> None:
        # RecordVideo calls this after each reset and step. It keeps frames for `render` too, and so does this.
        frames: Any = self.env.render()
        self.render_history += frames
        self.recorded_frames += frames
