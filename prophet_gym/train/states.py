"""What a run of full training is between two steps: on disk whole, the newest few, and back to the same bits."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prophet_gym._io.tensor_files import read_torch, require_finite
from prophet_gym.data.windows import WindowLoader
from prophet_gym.errors import CheckpointError
from prophet_gym.train.loop import atomic_save

KEYS = {"step", "trained", "average", "optimizer", "data"}


@dataclass
class TrainingState:
    """All that changes while a model is trained. Random numbers and learning rate are functions of the place in it.

    Weights that are not trained are not stored: a run goes on with the base that it began with.

    Attributes:
        folder: of the states, one file each, named by its step.
        trained: weights by name.
        average: their moving average, in the same order.
        optimizer: of the weights.
        loader: of the clips.
    """

    folder: Path
    trained: dict[str, nn.Parameter]
    average: list[Tensor]
    optimizer: Any
    loader: WindowLoader

    def save(self, step: int, *, keep: int) -> None:
        """Write the state after `step` steps, then remove all but the newest `keep`."""
        state = {
            "step": step,
            "trained": {name: parameter.detach() for name, parameter in self.trained.items()},
            "average": dict(zip(self.trained, self.average, strict=True)),
            "optimizer": self.optimizer.state_dict(),
            "data": self.loader.state_dict(),
        }
        atomic_save(state, self.folder / f"step-{step:08d}.pt")
        for path in list_states(self.folder)[:-keep]:
            path.unlink(missing_ok=True)

    def resume(self) -> int:
        """Go back to the newest state, if there is one; returns the steps done.

        Raises:
            CheckpointError: it is damaged, or of a run that trains other weights.
            ValueError: it is of a run on other data.
        """
        states = list_states(self.folder)
        if not states:
            return 0
        state = read_state(states[-1])
        found = {name: value.shape for name, value in state["trained"].items()}
        own = {name: parameter.shape for name, parameter in self.trained.items()}
        if found != own:
            odd = sorted(name for name in found.keys() | own.keys() if found.get(name) != own.get(name))
            raise CheckpointError(
                f"{states[-1]} is of a run that trains other weights ({len(odd)} differ, e.g. {odd[0]}); go on with "
                "the same base and --lora-rank, or give another --out"
            )
        self.loader.load_state_dict(state["data"])
        with torch.no_grad():
            for name, mean in zip(self.trained, self.average, strict=True):
                self.trained[name].copy_(state["trained"][name])
                mean.copy_(state["average"][name])
        self.optimizer.load_state_dict(state["optimizer"])
        return state["step"]


def list_states(folder: Path) -> list[Path]:
    """Whole states, oldest first."""
    return sorted(folder.glob("step-*.pt"))


def read_state(path: Path) -> dict[str, Any]:
    """Read a state.

    Raises:
        CheckpointError: it is damaged.
    """
    try:
        state = read_torch(path)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; remove it to go on from the one before") from error
    if not isinstance(state, dict) or state.keys() != KEYS:
        raise CheckpointError(f"{path} is no training state: it must have {', '.join(sorted(KEYS))}")
    require_finite(state["trained"], path)
    return state
