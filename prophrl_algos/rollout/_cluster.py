"""The Ray cluster that workers run on: started on this machine or joined, with an error that says what is missing."""

import logging
import os
import platform
import secrets
import shutil
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from prophet_gym._checks import first_line, require_count, require_number
from prophrl_algos.rollout._collector import LocalRollouts

SHARED_MEMORY = Path("/dev/shm")
LEAST_STORE = 128 * 2**20
"""Bytes of the object store beside those for weights; rollouts that exceed it go to the disk. Ray needs 75 MB."""
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RayOptions:
    """Configure rollouts by Ray workers, `--rollouts ray`; local ones ignore it."""

    workers: int = 1
    """Number of workers; those that find no room yet wait for a node that joins."""
    gpus_per_worker: float | int = 0
    """GPUs of a worker; 0.5 puts two on one. A worker without sees no GPU."""
    cpus_per_worker: int = 1
    """CPU cores of a worker, and its threads."""
    ray_address: str = ""
    """Address of a running cluster, as `ray start --head` prints it; `RAY_ADDRESS` if empty, else one on this machine
    that ends with the run."""
    max_staleness: int = 0
    """Updates that the policy of a rollout may lag behind the one that learns; 0 collects and learns in turn."""
    offload: bool = False
    """Keep on the CPU what does not work: the learner's policy and optimizer while workers collect, and theirs while it
    learns. For one GPU that does both; needs `--max-staleness 0`."""

    def check(self) -> None:
        """Raise ValueError where a value is out of its range."""
        require_count("workers", self.workers)
        require_count("cpus_per_worker", self.cpus_per_worker)
        require_count("max_staleness", self.max_staleness, 0)
        require_number("gpus_per_worker", self.gpus_per_worker, least=0)
        if self.offload and self.max_staleness:
            raise ValueError(
                f"offload needs max_staleness=0, got {self.max_staleness}: with stale rollouts learner and workers "
                "never rest; give one of the two"
            )


def import_ray() -> Any:
    """Return the module; ImportError that says how to install it."""
    try:
        import ray
    except ImportError as error:
        raise ImportError("--rollouts ray needs Ray: pip install 'prophet-gym[ray]', or --rollouts local") from error
    return ray


def require_shared_memory(need: int, folder: Path = SHARED_MEMORY) -> None:
    """Raise OSError unless the folder of the object store, where there is one, has room for it."""
    free = shutil.disk_usage(folder).free if folder.is_dir() else need
    if free < need:
        raise OSError(
            f"the object store needs {need / 2**20:.0f} MB in {folder}, which has {free / 2**20:.0f} MB free: give it "
            "more (docker run --shm-size 4g, or mount -o remount,size=4g), or join a cluster by --ray-address"
        )


def require_gpus(need: float | int, have: int) -> None:
    """Raise ValueError unless this machine has as many GPUs as a worker needs."""
    if need > have:
        raise ValueError(
            f"a worker needs {need:g} GPUs, this machine has {have}: give --gpus-per-worker {min(have, 1)}, or join a "
            "cluster by --ray-address"
        )


def learner_last(own: int, count: int, visible: str = "") -> str:
    """Return what CUDA_VISIBLE_DEVICES must be for Ray to give workers the learner's GPU after all others.

    `own` is the learner's among the `count` that `visible`, or no variable, shows to this process.
    """
    names = visible.split(",") if visible else [str(number) for number in range(count)]
    return ",".join([*names[:own], *names[own + 1 :], names[own]])


@contextmanager
def others_first(device: torch.device | None) -> Iterator[None]:
    """Let a cluster that is started inside give out the other GPUs before the learner's."""
    name, count = "CUDA_VISIBLE_DEVICES", torch.cuda.device_count()
    if device is None or device.type != "cuda" or count < 2:
        yield
        return
    before = os.environ.get(name)
    os.environ[name] = learner_last(device.index or 0, count, before or "")
    try:
        yield
    finally:
        del os.environ[name]
        if before is not None:
            os.environ[name] = before


class Cluster:
    """A cluster of Ray that this process started, or joined by an address; `close` leaves nothing of it.

    One that the caller has joined already by `ray.init` is used as it is, and left to the caller.

    `store` is the size of the object store in bytes, where it is started here, and `device` the learner's.
    """

    def __init__(self, options: RayOptions, store: int, device: torch.device | None = None) -> None:
        self.ray = ray = import_ray()
        self.address = options.ray_address or os.environ.get("RAY_ADDRESS", "")
        self.folder: Path | None = None
        self.borrowed = ray.is_initialized()
        if self.borrowed:
            return
        # Ray's own messages go to the files of its session: what a caller must know is raised or logged here.
        quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
        if self.address and self.address != "local":
            try:
                ray.init(address=self.address, **quiet)
            except (ConnectionError, RuntimeError) as error:  # RuntimeError: another version of Ray or Python
                raise ConnectionError(
                    f"no cluster of Ray can be joined at {self.address!r}: {first_line(error)}. Start one by `ray "
                    "start --head`, with the same Ray and Python on every node, or leave out --ray-address; one that "
                    "asks for tokens also needs RAY_AUTH_MODE=token here"
                ) from error
            return
        require_gpus(options.gpus_per_worker, torch.cuda.device_count())
        require_shared_memory(store)
        # A socket's path has at most 107 characters, so it cannot lie in the folder of a run, and TMPDIR may be long.
        self.folder = Path("/tmp") / f"prophrl-{os.getpid()}"
        sweep(self.folder.parent)
        # Ray asks for a token who connects; without one here it would make a file in the home folder.
        if not (Path.home() / ".ray" / "auth_token").exists():
            os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
        room = {"num_cpus": options.workers * options.cpus_per_worker, "object_store_memory": store}
        with others_first(device):
            self._start(room | quiet | {"_temp_dir": str(self.folder), "include_dashboard": False})

    def _start(self, how: Mapping[str, Any]) -> None:
        # Ray gives its processes 30 seconds, which a machine that is busy with something else may exceed once.
        for attempt in range(3):
            try:
                self.ray.init(address="local", **how)
                return
            except Exception as error:
                self.ray.shutdown()
                if attempt == 2 or "timed out" not in str(error):
                    self.close()
                    raise
                _log.warning("Ray did not start in time, trying again: %s", first_line(error))

    def close(self) -> None:
        """Leave the cluster, and end it if it was started here."""
        if not self.borrowed:
            self.ray.shutdown()
        if self.folder is not None:
            shutil.rmtree(self.folder, ignore_errors=True)
            # What a killed run left may have been written to for some seconds after this one began.
            sweep(self.folder.parent)


def sweep(folder: Path) -> None:
    """Remove what clusters of killed processes left in a folder."""
    for each in folder.glob("prophrl-*"):
        number = each.name.removeprefix("prophrl-")
        if number.isdecimal() and not (Path("/proc") / number).exists() and Path("/proc").is_dir():
            shutil.rmtree(each, ignore_errors=True)


def fingerprint(local: LocalRollouts) -> dict[str, str]:
    """Return what must be the same in learner and workers: versions, and the weights that do not learn."""
    # Without the build: one node may have a GPU and another none.
    found = {name: version(name).partition("+")[0] for name in ("prophet-gym", "torch", "numpy", "diffusers", "ray")}
    check = 0
    for name, weight in sorted(local.weights(learnt=False).items()):
        check = zlib.crc32(packed(weight), zlib.crc32(name.encode(), check))
    return found | {"python": platform.python_version(), "frozen weights": f"{check:08x}"}


def require_same(mine: Mapping[str, str], theirs: Mapping[str, str], node: str) -> None:
    """Raise ValueError unless the fingerprint of a worker is that of the learner."""
    wrong = [f"{name} {theirs.get(name)}, not {mine[name]}" for name in mine if theirs.get(name) != mine[name]]
    if wrong:
        raise ValueError(
            f"the worker on node {node} has {'; '.join(wrong)}: install the same releases on every node and give each "
            "the same files, or rollouts are of another policy than the one that learns"
        )


def packed(weight: Tensor) -> Any:
    """Return the bytes of a tensor as an array of their own, which the object store takes without another copy."""
    # A view would fix the storage, which shards must be able to free.
    return weight.detach().to("cpu", copy=True).contiguous().reshape(-1).view(torch.uint8).numpy()


@torch.no_grad()
def unpack(weights: Mapping[str, Any], into: Mapping[str, Tensor]) -> None:
    """Copy packed weights into tensors; ValueError if they are not the same ones."""
    if wrong := sorted(weights.keys() ^ into.keys()):
        raise ValueError(f"the weights sent are of another policy than the worker's: {', '.join(wrong[:10])} differ")
    for name, weight in into.items():
        # A copy first: what lies in the object store must not be written, and torch warns of such arrays.
        weight.copy_(torch.tensor(weights[name]).view(weight.dtype).view(weight.shape))
