"""Forked processes: a fork copies memory and none of the threads, so what counts on threads must not be used in it."""

import functools
import os
import sys


@functools.cache
def compute_forks_on_one_thread() -> None:
    """Let every process that is forked from this one compute on one thread.

    torch's OpenMP pool waits in the fork for threads that are not there: its first parallel loop never ends. One thread
    needs no pool, and it is what `AsyncVectorEnv` wants of each of its processes.
    """
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_use_one_thread)


def _use_one_thread() -> None:
    # What was not imported before the fork makes a pool of its own after it.
    if (torch := sys.modules.get("torch")) is not None:
        torch.set_num_threads(1)
