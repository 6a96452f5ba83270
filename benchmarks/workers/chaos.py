"""Kill workers and the learner at random moments of a run: it must end as one that nobody disturbed.

    python -m benchmarks.workers.chaos --json benchmarks/results/workers/chaos.json    # make chaos

Two workers collect for a policy that learns on a slow bandit, synchronously. Twenty times a worker, five times the
learner gets SIGKILL; a killed learner is started again by the same command. The policy and its optimizer must be, to
the bit, those of the same tasks collected in one process without Ray; the ledger must have every group of every update
once; no process and no folder of a session may be left.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch
import tyro

from benchmarks.speed.harness import ROOT, recorded
from benchmarks.workers.toy import GROUPS, processes_of, run_to, twice_or_lost
from prophrl_algos._checkpoint import LAST, load_checkpoint
from prophrl_algos.rollout import RayOptions

MARK = "PROPHRL_BENCHMARK"
"""Environment variable that the processes of a benchmark inherit."""


@dataclass(frozen=True)
class Args:
    """Configure the benchmark."""

    workers: int = 20
    """SIGKILLs of workers."""
    learners: int = 5
    """SIGKILLs of the learner."""
    updates: int = 200
    """Updates of the run."""
    delay: float = 0.1
    """Seconds of a rollout."""
    seed: int = 0
    """Seed of who is killed and when."""
    json: Path | None = None
    """Write the numbers to this file."""
    child: Path | None = None
    """Be the learner of the run in this folder."""


def marked() -> str:
    """Mark all processes that this one starts from now on, and return the mark."""
    return os.environ.setdefault(MARK, uuid.uuid4().hex)


def left_behind(mark: str) -> list[str]:
    """Return the marked processes that are still there, and the folders of clusters whose processes are not."""
    folders = [path for path in Path("/tmp").glob("prophrl-*") if path.name[8:].isdecimal()]
    found = [str(path) for path in folders if not psutil.pid_exists(int(path.name[8:]))]
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == mark and process.pid != os.getpid():
                found.append(f"{process.pid} {' '.join(process.cmdline())[:100]}")
        except psutil.Error:
            continue
    return found


def killed_run(folder: Path, args: Args) -> dict[str, int]:
    """Run to the end, killing on the way; return how often who was killed: fewer than asked if the run ends sooner."""
    draw = random.Random(args.seed)
    waiting = ["worker"] * args.workers + ["learner"] * args.learners
    draw.shuffle(waiting)
    killed = {"worker": 0, "learner": 0}
    command = [sys.executable, "-m", "benchmarks.workers.chaos", "--child", str(folder)]
    command += ["--updates", str(args.updates), "--delay", str(args.delay)]
    child = subprocess.Popen(command, cwd=ROOT)
    try:
        while (status := child.poll()) != 0:
            if status is not None:
                if status != -signal.SIGKILL:
                    raise SystemExit(f"the learner ended with status {status}")
                child = subprocess.Popen(command, cwd=ROOT)
            time.sleep(draw.uniform(0.2, 2.0))
            workers = processes_of(child.pid)
            # Only what works is killed: a worker that has begun, a learner whose workers have.
            if not waiting or not workers:
                continue
            victim = waiting.pop()
            killed[victim] += 1
            if victim == "worker":
                draw.choice(workers).kill()
            else:
                child.kill()
                child.wait()
    finally:
        child.kill()
        child.wait()
    return killed


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """Return the names of what is not equal to the bit."""
    if isinstance(one, torch.Tensor):
        return [] if torch.equal(one, other) else [where]
    if isinstance(one, dict):
        return [name for key in one for name in differences(one[key], other[key], f"{where}/{key}")]
    return [] if one == other else [where]


def problems(folder: Path, whole: Path, updates: int, mark: str) -> dict[str, list[str]]:
    """Return what differs between two runs, is wrong in the ledger, or is left of the processes."""
    runs = [load_checkpoint(each / LAST)["trainer"] for each in (folder, whole)]
    end = time.monotonic() + 60
    while (left := left_behind(mark)) and time.monotonic() < end:
        time.sleep(1)
    wrong = twice_or_lost(runs[0]["collector"]["ledger"], updates, GROUPS)
    return {
        "differences": differences(*({name: each[name] for name in ("policy", "optimizer", "done")} for each in runs)),
        "groups_lost_or_twice": [str(each) for each in wrong],
        "left_behind": left,
    }


def main(args: Args) -> None:
    if args.child is not None:
        run_to(args.child, args.updates, delay=args.delay, options=RayOptions(workers=2))
        return
    with recorded(args.json) as found, tempfile.TemporaryDirectory() as scratch:
        folder, whole = Path(scratch) / "killed", Path(scratch) / "whole"
        mark, began = marked(), time.monotonic()
        run_to(whole, args.updates, delay=0.0, options=None)
        found["killed"] = killed_run(folder, args)
        found["seconds"] = round(time.monotonic() - began, 1)
        found |= problems(folder, whole, args.updates, mark)
        ledger = load_checkpoint(folder / LAST)["trainer"]["collector"]["ledger"]
        found |= {"groups": len(ledger), "groups_queued_again": int((ledger[:, 4] > 1).sum())}
        print(found)
    if any(found[name] for name in ("differences", "groups_lost_or_twice", "left_behind")):
        raise SystemExit("the run is not the one that nobody disturbed")


if __name__ == "__main__":
    main(tyro.cli(Args))
