"""A run's folder: one run at a time, what it was begun with, and training states from which it resumes bit for bit.

The same command resumes a run, and another one is refused. States are folders on a disk, each whole or not there.
"""

import json
import os
import shlex
import shutil
import socket
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, cast
from zlib import crc32

import torch
from filelock import FileLock, Timeout
from safetensors import SafetensorError
from torch import Tensor
from torch.optim import Optimizer

from prophet_gym._checks import shown, warn
from prophet_gym._io.atomic import atomic_directory, atomic_write
from prophet_gym._io.files import read_json, read_json_lines
from prophet_gym._io.processes import by_main, gathered
from prophet_gym._io.processes._sharding import as_stored_in, is_sharded, nested, read_shards, room_like, write_shards
from prophet_gym._io.processor import machine
from prophet_gym._io.tensor_files import read_tensors, read_torch, write_tensors, write_torch
from prophet_gym.data._recording import list_episodes
from prophet_gym.errors import CheckpointError, RunInUseError

ARGUMENTS, HISTORY = "arguments.json", "history.jsonl"
LOCK, LOCK_OWNER = ".run.lock", ".run.json"
_PROGRESS = "progress.json"
_WEIGHTS, _AVERAGE = "model.safetensors", "average.safetensors"
_OTHERS, _REST = "processes.pt", "rest.pt"
"""What each process has of its own, and what is no tensor in a state in shards."""
_EARLIER = ("autoencoder.pt", "decoder.pt", "tracker.pt", "transformer.pt", "states/step-*.pt")
"""Name where prophet-gym 0.1 kept training states before accelerate wrote them."""


@contextmanager
def run_lock(folder: Path, *, main: bool = True) -> Iterator[None]:
    """Keep a run's folder for this process and refuse a second run in it, until the process ends, however it does.

    `main` says whether this process writes there: of several that train together only one holds the folder.
    """
    if not main:
        yield
        return
    if folder.exists() and not folder.is_dir():
        raise ValueError(f"{folder} is a file; give a folder for the run")
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise RunInUseError(
            f"{folder} is in use by another run ({_lock_owner(folder)}): wait for it, end it, or give another folder"
        ) from error
    except NotImplementedError:  # a file system without locks
        told = f"the disk of {folder} knows no locks: see to it that no second run writes there"
        warn(told, RuntimeWarning)
        yield
        return
    refused = True
    try:
        atomic_write(folder / LOCK_OWNER, json.dumps({"process": os.getpid(), "host": socket.gethostname()}) + "\n")
        yield
        refused = False
    finally:
        (folder / LOCK_OWNER).unlink(missing_ok=True)
        if refused and made and set(os.listdir(folder)) <= {LOCK, ARGUMENTS, HISTORY}:
            # nothing was made yet: leave things as if the run had not been begun
            for name in (ARGUMENTS, HISTORY, LOCK):
                (folder / name).unlink(missing_ok=True)
        lock.release()
        if refused:
            with suppress(OSError):  # what is not empty stays
                for path in made:
                    path.rmdir()


def begin_run(folder: Path, args: Any, *, begun: bool, free: Collection[str] = (), stage: str | None = None) -> None:
    """Write down what a run, or a stage of it, begins with, or check that it resumes with the same.

    Until there is anything to resume (`begun`), `args` (a dataclass, or names -> values) take the place of earlier
    ones; those named in `free` may change at any time.
    """
    asked = {name: value for name, value in _plain(args).items() if name not in free}
    for pattern in _EARLIER:
        for path in folder.glob(pattern):
            raise CheckpointError(
                f"{path} is of a run that an earlier version began, and it cannot be resumed: begin again in another "
                "folder (checkpoints that it finished still load)"
            )
    path = folder / ARGUMENTS
    stored = read_json(path, CheckpointError) if path.is_file() else {}
    earlier = stored if stage is None else stored.get(stage, {})
    if begun and earlier:
        if not isinstance(earlier, Mapping):
            raise CheckpointError(f"{path} must hold the arguments of {stage}, got {shown(repr(earlier))}")
        changed = [name for name in asked if name in earlier and earlier[name] != asked[name]]
        if changed:
            which = "" if stage is None else f" ({stage})"
            told = ", ".join(f"{name} was {earlier[name]}, is {asked[name]}" for name in changed)
            raise ValueError(f"{folder} is of another run{which}: {told}; use another folder")
        return
    entries = asked if stage is None else {**stored, stage: asked}
    atomic_write(path, json.dumps(entries, indent=2) + "\n")


def record_start(folder: Path, command: str, args: Any) -> None:
    """Append to `history.jsonl` that a command (`prophet train`) begins or continues here, with what, and on what."""
    path = folder / HISTORY
    entry = {
        "time": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": shlex.join([*command.split(), *given_options(args)]),
        "arguments": _plain(args),
        "machine": machine() | {"gpus": [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]},
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
    }
    earlier = read_json_lines(path, CheckpointError) if path.is_file() else []
    atomic_write(path, "".join(json.dumps(each) + "\n" for each in [*earlier, entry]))


def results_of(folder: Path) -> dict[str, Any]:
    """Return where a training has put its checkpoint and its adapters, None for what is not there (yet), and its end.

    `trained` has each model's steps and its loss there, the running mean of the last hundred steps or so.
    """
    made = {name: folder / name if (folder / name).is_dir() else None for name in ("checkpoint", "lora")}
    ends: dict[str, Any] = {}
    for states in sorted((folder / "states").glob("*/")):
        if found := _list_states(folder, states.name):
            progress = read_json(found[-1] / _PROGRESS, CheckpointError)
            ends[states.name] = {"steps": progress["step"], "loss": progress.get("loss")}
    return {"folder": folder, **made, "trained": ends}


def given_options(args: Any, usual: Any = None, prefix: str = "--") -> list[str]:
    """Return the options of a command line that make a dataclass of arguments, without those at their defaults."""
    words: list[str] = []
    for field in fields(args):
        value, name = getattr(args, field.name), prefix + field.name.replace("_", "-")
        made = field.default if field.default_factory is MISSING else field.default_factory()
        default = made if usual is None else getattr(usual, field.name)
        if is_dataclass(value):
            words += given_options(value, default if is_dataclass(default) else None, f"{name}.")
        elif value == default:
            continue
        elif isinstance(value, bool):
            words.append(name if value else name.replace(prefix, f"{prefix}no-", 1))
        else:
            words += [name, *map(str, value if isinstance(value, tuple) else (value,))]
    return words


def _plain(args: Any) -> dict[str, Any]:
    given = args if isinstance(args, Mapping) else asdict(args)
    # However a path was spelled, and from wherever: it is the same run.
    return json.loads(json.dumps(given, default=lambda it: str(it.resolve() if isinstance(it, Path) else it)))


def counted(folders: Sequence[Path]) -> dict[str, str]:
    """Count the episodes of recordings and sum up names and sizes, to tell whether they have changed."""
    found = {}
    for folder in folders:
        paths = list_episodes(folder)
        lines = [f"{path.parent.name}/{path.name} {path.stat().st_size}" for path in paths]
        found[str(folder.resolve())] = f"{len(paths)} ({crc32(chr(10).join(lines).encode()):08x})"
    return found


def is_running(folder: Path) -> bool:
    """Return whether a run goes on in this folder, as far as this machine can tell of a run on another one."""
    try:
        owner = read_json(folder / LOCK_OWNER)
        if owner["host"] == socket.gethostname():
            os.kill(owner["process"], 0)  # asks whether the process is there, and sends nothing
    except PermissionError:  # it is another user's
        return True
    except (OSError, ValueError, KeyError):
        return False
    return True


def _lock_owner(folder: Path) -> str:
    try:
        found = read_json(folder / LOCK_OWNER)
        return f"process {found['process']} on {found['host']}"
    except (OSError, ValueError, KeyError):  # it has only just begun, or is at its end
        return "its process is not known"


@dataclass
class States:
    """Keep the training states of the model `name` in a run's folder.

    Accelerate writes the optimizer, what else is registered with it (`state`) and, as safetensors, the weights that are
    trained; their average (an `EMAModel`) lies beside them. The other weights are not stored: a run resumes with the
    base that it began with. Of several processes the randomness and the `state` of the others lie beside that. Sharded
    weights, their average and the optimizer are written in shards. Any number of processes resumes from a state.
    """

    run: Path
    name: str
    accelerator: Any
    trained: Mapping[str, Tensor]
    average: Any | None
    state: Sequence[Any]
    optimizer: Optimizer

    def __post_init__(self) -> None:
        self.accelerator.register_for_checkpointing(*self.state)
        self.accelerator.register_save_state_pre_hook(self._choose)
        self.accelerator.register_load_state_pre_hook(self._take)

    def save(self, step: int, seconds: float, *, loss: float, keep: int) -> None:
        """Write the state after `step` steps, which all processes must do; then remove all but the newest `keep`.

        `loss` is what the state is known by to people; nothing resumes from it.
        """
        target = self.run / "states" / self.name / f"step-{step:08d}"
        own = {"random": torch.get_rng_state(), "state": [each.state_dict() for each in self.state]}
        others = gathered(own)
        progress = json.dumps({"step": step, "seconds": seconds, "loss": loss}) + "\n"
        try:
            if self._sharded:
                self._save_shards(target, others, progress)
            elif self.accelerator.is_main_process:
                with atomic_directory(target, last=_PROGRESS) as temporary:
                    self.accelerator.save_state(str(temporary))
                    if self.average is not None:
                        means = dict(zip(self.trained, self.average.shadow_params, strict=True))
                        write_tensors(means, temporary / _AVERAGE)
                    if len(others) > 1:
                        write_torch(others, temporary / _OTHERS)
                    (temporary / _PROGRESS).write_text(progress, encoding="utf-8")
        except (RuntimeError, SafetensorError) as error:  # what torch and safetensors say of a full disk
            raise OSError(f"cannot write {target}: {shown(str(error))}; is the disk full?") from error
        if not self.accelerator.is_main_process:
            return
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
            require_steps(self.run, self.name, steps)
            if self.average is not None:
                self.average.optimization_step = progress["step"]
            if (newest / _WEIGHTS).exists():
                self._load_whole(newest)
            else:
                self._load_shards(newest)
        except CheckpointError as error:
            raise CheckpointError(f"{error}; remove {newest} to resume from the state before it") from error
        # Accelerate counts batches; a run may resume with another number of them per step.
        self.accelerator.step = 0
        return progress["step"], progress["seconds"]

    @property
    def _sharded(self) -> bool:
        return any(map(is_sharded, self.trained.values()))

    def _save_shards(self, target: Path, others: Sequence[Any], progress: str) -> None:
        rest = write_shards(target, {"optimizer": self.optimizer.state_dict(), **self._tensors()})
        by_main(lambda: write_torch(rest, target / _REST))
        by_main(lambda: write_torch(others, target / _OTHERS))
        by_main(lambda: atomic_write(target / _PROGRESS, progress))

    def _tensors(self) -> dict[str, dict[str, Tensor]]:
        means = [] if self.average is None else self.average.shadow_params
        return {"trained": dict(self.trained), "average": dict(zip(self.trained, means, strict=False))}

    @torch.no_grad()
    def _load_shards(self, state: Path) -> None:
        own = self._tensors()
        ordered = [each for group in self.optimizer.param_groups for each in group["params"]]

        def place(name: str, shape: torch.Size, dtype: torch.dtype) -> Tensor:
            part, key = name.split("/", 1)
            like = ordered[int(key.split("/")[1])] if part == "optimizer" else own[part].get(key)
            return room_like(like, shape, dtype)

        found = nested({**cast(dict, read_torch(state / _REST)), **read_shards(state, place)})
        for part, mine in own.items():
            self._require_own(found.get(part, {}), state)
            for key, value in mine.items():
                value.copy_(found[part][key])
        self.optimizer.load_state_dict(found["optimizer"])
        known: Any = read_torch(state / _OTHERS)
        self._load_own(known[self.accelerator.process_index % len(known)])

    def _load_whole(self, state: Path) -> None:
        # Accelerate reads these with `weights_only=True`, but neither compares checksums nor limits what unpacks.
        for path in sorted({*state.glob("*.bin"), *state.glob("custom_*.pkl")}):
            read_torch(path)
        if self.average is not None:
            average = read_tensors(state / _AVERAGE)
            self._require_own(average, state)
            for mean, key in zip(self.average.shadow_params, self.trained, strict=True):
                mean.copy_(as_stored_in(mean, average[key]))
        if self._sharded:  # accelerate wants a state as FSDP writes it
            self._take([], str(state))
            moments: Any = read_torch(state / "optimizer.bin")
            weights = [each for group in self.optimizer.param_groups for each in group["params"]]
            for index, each in moments["state"].items():
                each.update({name: as_stored_in(weights[index], value) for name, value in each.items()})
            self.optimizer.load_state_dict(moments)
            for index, each in enumerate(self.state):
                each.load_state_dict(read_torch(state / f"custom_checkpoint_{index}.pkl"))
        else:
            self.accelerator.load_state(str(state))
        known: Any = read_torch(state / _OTHERS) if (state / _OTHERS).exists() else []
        if self.accelerator.process_index < len(known):
            self._load_own(known[self.accelerator.process_index])

    def _load_own(self, own: Mapping[str, Any]) -> None:
        torch.set_rng_state(own["random"])
        for each, found in zip(self.state, own["state"], strict=True):
            each.load_state_dict(found)

    def _choose(self, _models: object, weights: list[dict[str, Tensor]], _folder: str) -> None:
        # Names without the prefix of a data-parallel wrapper, so that a state is the same for any number of processes.
        weights[:] = [{key: value.detach().contiguous() for key, value in self.trained.items()}]

    @torch.no_grad()
    def _take(self, models: list[Any], folder: str) -> None:
        models.clear()  # so that accelerate, which wants every weight of a model, loads none
        found = read_tensors(Path(folder) / _WEIGHTS)
        self._require_own(found, Path(folder))
        for key, value in self.trained.items():
            value.copy_(as_stored_in(value, found[key]))

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


def require_steps(folder: Path, name: str, steps: int) -> None:
    """Raise ValueError if a run has taken more steps of a model than are asked for."""
    if (done := steps_done(folder, name)) > steps:
        raise ValueError(
            f"{folder}: {name} has {done} steps already, and {steps} are asked for: ask for as many or more, or use "
            "another folder"
        )


def read_average(folder: Path, name: str) -> dict[str, Tensor]:
    """Return the averaged weights in the newest state of a run's model."""
    states = _list_states(folder, name)
    if not states:
        raise CheckpointError(f"{folder} has no training state of the {name}: train it first")
    return read_tensors(states[-1] / _AVERAGE)


def _list_states(folder: Path, name: str) -> list[Path]:
    """Return the whole states of a model, oldest first; one that a kill cut short has no progress yet."""
    return sorted(path.parent for path in folder.glob(f"states/{name}/step-*/{_PROGRESS}"))
