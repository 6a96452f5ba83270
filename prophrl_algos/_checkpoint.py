"""Checkpoints that are whole or not there, and from which a killed run is resumed."""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prophet_gym._io.processes import by_main, is_main
from prophet_gym._io.processes._sharding import Place, flattened, is_sharded, nested, read_shards, write_shards
from prophet_gym._io.tensor_files import read_torch, require_finite, write_torch
from prophet_gym.errors import CheckpointError

_FORMAT = "prophrl-trainer-2"
_OLDER = ("prophrl-trainer-1",)
"""Formats whose weights are still read, but whose runs cannot be resumed: they kept other settings."""
BEST, LAST, SHARDS = "best.pt", "last.pt", "last"
_REST = "rest.pt"
"""Written last, with what is no tensor: shards without it are none."""


def save_checkpoint(path: Path, state: Mapping[str, Any]) -> None:
    """Write tensors and plain data as a file that is never half there: written beside it, flushed, then renamed."""
    write_torch({"format": _FORMAT, **state}, path)


def load_checkpoint(path: Path, device: torch.device | str = "cpu", *, resume: bool = False) -> dict[str, Any]:
    """Read a checkpoint, of this version if a run is to be resumed from it; nothing in it is executed."""
    try:
        state = read_torch(path, device)
    except CheckpointError as error:
        raise CheckpointError(f"{error}; delete it to start again") from error
    if not isinstance(state, dict) or state.get("format") not in (_FORMAT, *_OLDER):
        raise CheckpointError(f"{path} is no checkpoint of the trainer: it must have format {_FORMAT!r}")
    if resume and state["format"] != _FORMAT:
        raise CheckpointError(
            f"{path} was written by an earlier version, and its run cannot be resumed: start in another folder; "
            "its weights can be read as before"
        )
    weights = state.get("trainer", state).get("policy")
    if isinstance(weights, dict):
        require_finite(weights, path)
    return state


def save_run(folder: Path, state: Mapping[str, Any]) -> None:
    """Write the state of a run, `folder/last.pt`, or `folder/last` where it is in shards; all processes must do it."""
    trainer = state["trainer"]
    tree = {name: each for name, each in trainer.items() if isinstance(each, Mapping) and name != "env"}
    if not any(map(is_sharded, flattened(tree).values())):
        by_main(lambda: save_checkpoint(folder / LAST, state))
        by_main(lambda: shutil.rmtree(folder / SHARDS, ignore_errors=True))
        return
    target = folder / SHARDS / f"update-{trainer['done']:08d}"
    rest = write_shards(target, tree)
    plain = {name: each for name, each in trainer.items() if name not in tree}
    by_main(lambda: save_checkpoint(target / _REST, {**state, "trainer": plain, "rest": rest}))
    by_main(lambda: _keep_only(folder, target))


def newest(folder: Path) -> Path | None:
    """Return the newest state of a run: a file, or a folder of shards; None if there is none."""
    shards = sorted(path.parent for path in (folder / SHARDS).glob(f"update-*/{_REST}"))
    found = [path for path in ((folder / LAST), *shards[-1:]) if path.exists()]
    # Two, where a run was killed between writing one and removing the other.
    return max(found, key=updates_done) if len(found) > 1 else next(iter(found), None)


def updates_done(path: Path) -> int:
    """Return the number of updates before the state of a run."""
    return int(load_checkpoint(path / _REST if path.is_dir() else path)["trainer"]["done"])


def load_run(path: Path, device: torch.device, place: Place) -> dict[str, Any]:
    """Read the state of a run, of any number of processes; `place` says where a sharded tensor is read into."""
    if path.is_file():
        return load_checkpoint(path, device, resume=True)
    state = load_checkpoint(path / _REST, resume=True)
    parts = nested({**state.pop("rest"), **read_shards(path, place)})
    return {**state, "trainer": {**parts, **state["trainer"]}}


def read_policy(path: Path) -> dict[str, Tensor]:
    """Return the weights of a policy in a checkpoint or in the state of a run."""
    if path.is_dir():
        found = read_shards(path, lambda _, shape, dtype: torch.empty(shape, dtype=dtype), chosen="policy/")
        weights = {name.removeprefix("policy/"): each for name, each in found.items()}
        require_finite(weights, path)
        return weights
    state = load_checkpoint(path)
    return state.get("trainer", state)["policy"]


def _keep_only(folder: Path, target: Path) -> None:
    assert is_main()
    for path in (folder / SHARDS).glob("update-*"):
        if path != target:
            # Without it the folder is no state, wherever the process is killed while the rest is removed.
            (path / _REST).unlink(missing_ok=True)
            shutil.rmtree(path)
    (folder / LAST).unlink(missing_ok=True)
