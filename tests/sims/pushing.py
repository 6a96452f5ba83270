"""A whole simulator in one file: a hand that pushes a puck about a table, registered as the suite `pushing`."""

from collections.abc import Iterator
from itertools import repeat

import numpy as np

from prophet_gym.errors import InvalidActionError

METRES = 0.05
GOAL = np.array([0.2, 0.0])


class Pushing:
    """The hand carries the puck along; done when the puck is at the goal."""

    robot = "libero"
    looks = ("flat",)
    splits = ("train", "official")
    tasks = 2
    official_states = 3
    modes = ("straight", "still")
    target_name = "puck"

    def __init__(self, suite: str, task: int, *, look: str = "flat", size: int = 32) -> None:
        self.suite, self.task, self.look, self.size = suite, task, look, size
        self.instruction = f"push the puck to the {'right' if task else 'goal'}"
        self._hand = np.zeros(3)

    @classmethod
    def require(cls, look: str) -> None:
        del look

    @classmethod
    def provenance(cls, suite: str, look: str) -> dict:
        return {"look_version": len(look), "script_version": 1}

    @classmethod
    def mixture(cls, suite: str) -> dict[str, float]:
        del suite
        return {"straight": 0.5, "still": 0.5}

    def script(self, rng: np.random.Generator, mode: str) -> tuple[Iterator, Iterator]:
        rest = np.array([0, 0, 0, 0, 0, 0, -1.0])
        acting = self._straight(rng) if mode == "straight" else iter(())
        return acting, repeat(rest)

    def _straight(self, rng: np.random.Generator) -> Iterator[np.ndarray]:
        while not self.success():
            move = (GOAL - self._hand[:2]) / METRES
            yield np.concatenate([move + 0.1 * rng.standard_normal(2), np.zeros(4), [-1]])

    def reset(self, *, seed: int | None = None, official: int | None = None) -> None:
        start = [-0.2, 0.1 * official] if official is not None else np.random.default_rng(seed).uniform(-0.3, 0.0, 2)
        self._hand = np.array([*start, 0.1])

    def starts_officially(self) -> bool:
        return self._hand[0] == -0.2

    def step(self, action: np.ndarray) -> None:
        action = np.asarray(action, np.float64)
        if action.shape != (7,) or not np.isfinite(action).all():
            raise InvalidActionError(f"an action must be 7 finite numbers, got {action}")
        self._hand = self._hand + METRES * np.clip(action[:3], -1, 1) * [1, 1, 0]

    def render(self) -> np.ndarray:
        image = np.full((self.size, self.size, 3), 120, np.uint8)
        y, x = (np.clip((self._hand[1::-1] + 0.5) * self.size, 2, self.size - 3)).astype(int)
        image[y - 2 : y + 3, x - 2 : x + 3] = (220, 40, 40)
        return image

    def success(self) -> bool:
        return bool(np.linalg.norm(self._hand[:2] - GOAL) < 0.04)

    def gripper_position(self) -> np.ndarray:
        return self._hand.copy()

    def gripper_quaternion(self) -> np.ndarray:
        return np.array([1.0, 0, 0, 0])

    def gripper_opening(self) -> float:
        return 0.08

    def object_positions(self) -> dict[str, np.ndarray]:
        return {"puck": self._hand * [1, 1, 0]}

    def camera_matrix(self) -> np.ndarray:
        return np.array([[1, 0, 0, 0.5], [0, 1, 0, 0.5], [0, 0, 0, 1.0]])

    def get_state(self) -> np.ndarray:
        return self._hand.copy()

    def set_state(self, state: np.ndarray) -> None:
        self._hand = np.array(state)

    def close(self) -> None:
        pass
