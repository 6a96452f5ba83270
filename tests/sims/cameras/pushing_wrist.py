"""The toy of `pushing.py` with a camera at the hand."""

import numpy as np
from pushing import GOAL, Pushing


class PushingWithWrist(Pushing):
    """Its camera shows, in red, how far the goal is."""

    def render_wrist(self) -> np.ndarray:
        image = np.full((self.size, self.size, 3), 60, np.uint8)
        image[..., 0] = np.uint8(255 * np.clip(np.linalg.norm(self._hand[:2] - GOAL), 0, 1))
        return image

    def robot_state(self) -> np.ndarray:
        return np.array([*self._hand, np.pi, 0, 0, 0.04, -0.04])
