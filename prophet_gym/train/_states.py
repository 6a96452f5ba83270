"""Training states: folders on a disk, each whole or not there, from which a run resumes to the same bits."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import InitVar, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from prophet_gym._checks import shown
from prophet_gym._io.atomic import atomic_directory
from prophet_gym._io.files import read_json
from prophet_gym._io.tensor_files import read_tensors, read_torch, write_tensors
from prophet_gym.errors import CheckpointError

_PROGRESS = "progress.json"
_WEIGHTS, _AVERAGE = "model.safetensors", "average.safetensors"
_EARLIER = ("autoencoder.pt", "decoder.pt", "tracker.pt", "transformer.pt", "states/step-*.pt")
"""Where prophet-gym 0.1 kept training states before accelerate wrote them."""


@dataclass
class States:
    """The training states of the model `name` in a run's folder.

    Accelerate writes the optimiser, what else is registered with it (`state`) and, as safetensors, the weights that are
    trained; their average (an `EMAModel`) lies beside them. The other weights are not stored: a run resumes with the
    base that it began with.
    """

    run: Path
    name: str
    accelerator: Any
    trained: Mapping[str, Tensor]
    average: Any | None
    state: InitVar[Sequence[Any]] = ()

    def __post_init__(self, state: Sequence[Any]) -> None:
        self.accelerator.register_for_checkpointing(*state)
        self.accelerator.register_save_state_pre_hook(self._choose)
        self.accelerator.register_load_state_pre_hook(self._take)

    def save(self, step: int, seconds: float, *, keep: int) -> None:
        """Write the state after `step` steps, on the main process, then remove all but the newest `keep`."""
        if not self.accelerator.is_main_process:
            return
        target = self.run / "states" / self.name / f"step-{step:08d}"
        try:
            with atomic_directory(target, last=_PROGRESS) as temporary:
                self.accelerator.save_state(str(temporary))
                if self.average is not None:
                    means = dict(zip(self.trained, self.average.shadow_params, strict=True))
                    write_tensors(means, temporary / _AVERAGE)
                progress = json.dumps({"step": step, "seconds": seconds}) + "\n"
                (temporary / _PROGRESS).write_text(progress, encoding="utf-8")
        except (RuntimeError, SafetensorError) as error:  # what torch and safetensors say of a full disk
            raise OSError(f"cannot write {target}: {shown(str(error))}; is the disk full?") from error
        kept = _list_states(self.run, self.name)[-keep:]
        for path in target.parent.glob("step-*"):
            if path not in kept:
                # Without it the folder is no state, wherever the process is killed while the rest is removed.
                (path / _PROGRESS).unlink(missing_ok=True)
                shutil.rmtree(path)

    def resume(self, steps: int) -> tuple[int, float]:
        """Return to the newest state, if there is one; the result is the steps done and the seconds they took."""
        states = _list_states(self.run, self.name)
        if not states:
            return 0, 0.0
        newest = states[-1]
        try:
            progress = read_json(newest / _PROGRESS, CheckpointError)
            if progress["step"] > steps:
                raise ValueError(
                    f"{self.run}: {self.name} has {progress['step']} steps already, and {steps} are asked for: ask for "
                    "as many or more, or use another folder"
                )
            # Accelerate reads these with `weights_only=True`, but neither compares checksums nor limits what unpacks.
            for path in sorted({*newest.glob("*.bin"), *newest.glob("custom_*.pkl")}):
                read_torch(path)
            if self.average is not None:
                average = read_tensors(newest / _AVERAGE)
                self._require_own(average, newest)
                for mean, key in zip(self.average.shadow_params, self.trained, strict=True):
                    mean.copy_(average[key])
                self.average.optimization_step = progress["step"]
            self.accelerator.load_state(str(newest))
        except CheckpointError as error:
            raise CheckpointError(f"{error}; remove {newest} to resume from the state before it") from error
        # Accelerate counts batches; a run may resume with another number of them per step.
        self.accelerator.step = 0
        return progress["step"], progress["seconds"]

    def _choose(self, _models: object, weights: list[dict[str, Tensor]], _folder: str) -> None:
        # Names without the prefix of a data-parallel wrapper, so that a state is the same for any number of processes.
        weights[:] = [{key: value.detach().contiguous() for key, value in self.trained.items()}]

    @torch.no_grad()
    def _take(self, models: list[Any], folder: str) -> None:
        models.clear()  # so that accelerate, which wants every weight of a model, loads none
        found = read_tensors(Path(folder) / _WEIGHTS)
        self._require_own(found, Path(folder))
        for key, value in self.trained.items():
            value.copy_(found[key])

    def _require_own(self, found: Mapping[str, Tensor], state: Path) -> None:
        shapes, own = ({key: value.shape for key, value in part.items()} for part in (found, self.trained))
        if shapes != own:
            odd = sorted(key for key in shapes.keys() | own.keys() if shapes.get(key) != own.get(key))
            raise CheckpointError(
                f"{state} is of a run that trains other weights ({len(odd)} differ, e.g. {odd[0]}); resume with the "
                "same base and --lora-rank, or give another --out"
            )


def steps_done(folder: Path, name: str) -> int:
    """Return how many steps of a model the newest state of a run has; 0 without a state."""
    states = _list_states(folder, name)
    return int(read_json(states[-1] / _PROGRESS, CheckpointError)["step"]) if states else 0


def read_average(folder: Path, name: str) -> dict[str, Tensor]:
    """Return the averaged weights in the newest state of a run's model."""
    states = _list_states(folder, name)
    if not states:
        raise CheckpointError(f"{folder} has no training state of the {name}: train it first")
    return read_tensors(states[-1] / _AVERAGE)


def refuse_earlier(folder: Path) -> None:
    """Raise CheckpointError if a run in this folder was begun by a version that kept its states otherwise."""
    for pattern in _EARLIER:
        for path in folder.glob(pattern):
            raise CheckpointError(
                f"{path} is of a run that an earlier version began, and it cannot be resumed: begin again in another "
                "folder (checkpoints that it finished still load)"
            )


def _list_states(folder: Path, name: str) -> list[Path]:
    """Return the whole states of a model, oldest first; one that a kill cut short has no progress yet."""
    return sorted(path.parent for path in folder.glob(f"states/{name}/step-*/{_PROGRESS}"))
