"""Worker processes: all are started and ended here, and none outlives the process that started it."""

import faulthandler
import multiprocessing
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from multiprocessing.process import BaseProcess

from prophet_gym._io.progress import share_no_lock
from prophet_gym.errors import SimulatorLostError

GUARD = (
    "worker processes import the main script again, so it must guard what it runs with "
    '`if __name__ == "__main__":` (or call it with no workers)'
)


def require_main_guard() -> None:
    """Raise SimulatorLostError where a worker is importing the main script: it would start workers of its own."""
    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise SimulatorLostError(GUARD)


def start_workers(target: Callable[..., None], calls: Sequence[tuple]) -> list[BaseProcess]:
    """Start one spawned process for each tuple of arguments; `target` is a function of a module (it is pickled)."""
    require_main_guard()
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_run, args=(os.getpid(), target, call), daemon=True) for call in calls]
    started: list[BaseProcess] = []
    try:
        for process in processes:
            process.start()
            started.append(process)
    except BaseException:
        end_workers(started)
        raise
    return started


def end_workers(processes: Sequence[BaseProcess], *, grace: float = 0.0) -> None:
    """End processes: those that do not end by themselves within `grace` seconds in all are terminated, then killed."""
    deadline = time.monotonic() + grace
    for process in processes:
        process.join(timeout=max(0.0, deadline - time.monotonic()))
    for process in processes:
        process.terminate()
    for process in processes:
        process.join(timeout=5.0)
        # A stopped process keeps the request to terminate waiting.
        process.kill()
        process.join()


def describe_end(process: BaseProcess, *, answered: bool) -> str:
    """Say how a process that is gone ended, and what to do where it never `answered`."""
    process.join(timeout=10.0)
    text = f"ended with exit code {process.exitcode} (below 0: by that signal)"
    if process.exitcode == 1 and not answered:
        return f"{text} while it started, see its traceback on stderr; {GUARD}"
    return text


def _run(parent: int, target: Callable[..., None], arguments: tuple) -> None:
    """Run `target`, but not without the parent; where native code crashes, say where on stderr."""
    faulthandler.enable()
    share_no_lock()
    _end_with(parent)
    target(*arguments)


def _end_with(parent: int) -> None:
    """End this process as soon as its parent is gone, also where that was before now."""
    if _is_orphan(parent, 0.0):
        os._exit(1)

    def watch() -> None:
        # A look every second, where the end was not told.
        while not _is_orphan(parent, 1.0):
            pass
        # Not `sys.exit`: the main thread may be deep in native code, and files are written whole or not at all.
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _is_orphan(parent: int, wait: float) -> bool:
    """Tell whether the parent is gone, or goes within `wait` seconds."""
    process = multiprocessing.parent_process()
    if process is None:
        return True
    process.join(timeout=wait)
    # The pipe behind `process` stays open where the parent's other children hold it. Windows has no orphans by number.
    return not process.is_alive() or (sys.platform != "win32" and os.getppid() != parent)
