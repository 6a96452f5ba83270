"""Run on two nodes of Ray whose connection breaks and comes back, and one of which dies and joins again.

    python -m benchmarks.workers.nodes --json benchmarks/results/workers/nodes.json

Both nodes are on this machine, each with a worker. The second reaches the first through a proxy, which is severed for a
moment, and then for longer than Ray waits, so that the node ends; it is started again. The run must end as the same
tasks collected in one process, with every group of every update once.
"""

import os
import secrets
import select
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch
import tyro

from benchmarks.speed.harness import ROOT, recorded
from benchmarks.workers.chaos import marked, problems
from benchmarks.workers.toy import run_to
from prophet_gym.errors import CheckpointError
from prophrl_algos._checkpoint import LAST, load_checkpoint
from prophrl_algos.rollout import RayOptions

RECONNECT = 10
"""Seconds after which a node without connection ends itself (Ray's default is 60)."""


@dataclass(frozen=True)
class Args:
    """Configure the benchmark."""

    updates: int = 300
    """Updates of the run."""
    delay: float = 0.2
    """Seconds of a rollout."""
    json: Path | None = None
    """Write the numbers to this file."""
    child: Path | None = None
    """Be the learner of the run in this folder, at `address`."""
    address: str = ""
    """Address of the cluster for the learner."""


class Proxy:
    """Forward connections to a port, until they are severed."""

    def __init__(self, target: int) -> None:
        self.target, self.port = target, free_port()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self.heal()

    def heal(self) -> None:
        """Accept connections, again."""
        self._server = socket.create_server(("", self.port))
        threading.Thread(target=self._accept, args=(self._server,), daemon=True).start()

    def sever(self) -> None:
        """Cut all connections and refuse new ones."""
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()
        for pair in self._pairs:
            for each in pair:
                with suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)
        self._pairs = []

    def _accept(self, server: socket.socket) -> None:
        with suppress(OSError):
            while True:
                near, _ = server.accept()
                pair = (near, socket.create_connection((own_address(), self.target)))
                self._pairs.append(pair)
                threading.Thread(target=self._forward, args=pair, daemon=True).start()

    @staticmethod
    def _forward(near: socket.socket, far: socket.socket) -> None:
        with near, far, suppress(OSError):
            while True:
                for one in select.select([near, far], [], [])[0]:
                    data = one.recv(2**16)
                    if not data:
                        return
                    (far if one is near else near).sendall(data)


def own_address() -> str:
    """Return the address that nodes know this machine by."""
    return ray.util.get_node_ip_address()


def free_port() -> int:
    with socket.create_server(("", 0)) as server:
        return server.getsockname()[1]


@contextmanager
def node(*words: str) -> Iterator[subprocess.Popen[bytes]]:
    """Run a node with room for one worker, in a session of its own that ends with it."""
    command = [str(Path(sys.executable).parent / "ray"), "start", *words, "--num-cpus", "1", "--block"]
    command += ["--object-store-memory", str(100 * 2**20)]
    env = os.environ | {"RAY_gcs_rpc_server_reconnect_timeout_s": str(RECONNECT), "RAY_USAGE_STATS_ENABLED": "0"}
    process = subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        yield process
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(20)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def ledger_of(folder: Path) -> torch.Tensor:
    """Return the ledger so far."""
    with suppress(CheckpointError, OSError):
        return load_checkpoint(folder / LAST)["trainer"]["collector"]["ledger"]
    return torch.zeros(0, 5)


def wait_for_workers(folder: Path, count: int, learner: subprocess.Popen[bytes], seconds: float = 300) -> int:
    """Wait until `count` workers collect; return the number of updates then."""
    end = time.monotonic() + seconds
    while True:
        ledger = ledger_of(folder)
        if len(ledger) and len(set(ledger[-8:, 2].tolist())) == count:
            return int(ledger[-1, 0]) + 1
        if learner.poll() is not None or time.monotonic() > end:
            raise SystemExit(f"the last groups are by the workers {ledger[-8:, 2].tolist()}, not by {count} of them")
        time.sleep(0.5)


def breaks(folder: Path, args: Args) -> dict[str, Any]:
    """Run on two nodes while the connection breaks; return the number of updates at each event."""
    port, at = free_port(), {}
    head = ("--head", "--port", str(port), "--include-dashboard", "false", "--temp-dir", f"/tmp/prophrl-{os.getpid()}")
    command = [sys.executable, "-m", "benchmarks.workers.nodes", "--child", str(folder)]
    command += ["--updates", str(args.updates), "--delay", str(args.delay), "--address", f"{own_address()}:{port}"]
    with node(*head):
        wait_for_port(port)
        proxy = Proxy(port)
        joining = ("--address", f"{own_address()}:{proxy.port}")
        with node(*joining) as second:
            learner = subprocess.Popen(command, cwd=ROOT)
            at["both nodes collect"] = wait_for_workers(folder, 2, learner)
            proxy.sever()
            time.sleep(3)
            proxy.heal()
            time.sleep(5)
            at["both collect after a short break"] = wait_for_workers(folder, 2, learner)
            proxy.sever()
            second.wait(120)
            at["the second has ended"] = int(ledger_of(folder)[-1, 0]) + 1
            proxy.heal()
            at["one node collects"] = wait_for_workers(folder, 1, learner)
        with node(*joining):
            at["both collect again"] = wait_for_workers(folder, 2, learner)
            if learner.wait(1200):
                raise SystemExit(f"the learner ended with status {learner.returncode}")
        proxy.sever()
    return at


def wait_for_port(port: int, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while True:
        with suppress(OSError), socket.create_connection((own_address(), port), 1):
            return
        if time.monotonic() > end:
            raise SystemExit("the first node did not start")
        time.sleep(0.5)


def main(args: Args) -> None:
    if args.child is not None:
        options = RayOptions(workers=2, ray_address=args.address)
        run_to(args.child, args.updates, delay=args.delay, options=options)
        return
    with recorded(args.json) as found, tempfile.TemporaryDirectory() as scratch:
        folder, whole, mark = Path(scratch) / "broken", Path(scratch) / "whole", marked()
        run_to(whole, args.updates, delay=0.0, options=None)
        os.environ |= {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        found["updates_at"] = breaks(folder, args)
        found["groups_queued_again"] = int((ledger_of(folder)[:, 4] > 1).sum())
        shutil.rmtree(f"/tmp/prophrl-{os.getpid()}")
        found |= problems(folder, whole, args.updates, mark)
        print(found)
    if any(found[name] for name in ("differences", "groups_lost_or_twice", "left_behind")):
        raise SystemExit("the run is not the one on a network that holds")


if __name__ == "__main__":
    main(tyro.cli(Args))
