"""Show how far work has come: a bar on stderr, as a widget in a notebook, or nothing where it was asked to be quiet."""

import os
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch.distributed as dist
from tqdm.auto import tqdm

QUIET = "TQDM_DISABLE"
"""Environment variable of tqdm that hides bars; the processes that a command starts inherit it."""
_HUB = "HF_HUB_DISABLE_PROGRESS_BARS"


def progress(
    what: Iterable[Any] | None = None,
    stage: str = "",
    *,
    total: int | None = None,
    unit: str = "it",
    done: int = 0,
    passing: bool = False,
    shown: bool = True,
) -> tqdm:
    """Return a bar of tqdm around an iterable, or one that its caller updates.

    Args:
        what: Things to go through, if any; the bar counts them.
        stage: Name of what is done.
        total: Number of things; by default as many as there are.
        unit: Name of one thing.
        done: Number of things that were done earlier.
        passing: Take the bar away at its end, and show none for what is done within a second.
        shown: Whether this process shows a bar; of several that work together the main one alone does.
    """
    hidden = not shown or is_quiet() or (dist.is_available() and dist.is_initialized() and dist.get_rank() > 0)
    # A file is not filled with bars.
    every = 1 if sys.stderr.isatty() or in_notebook() else 30
    # `miniters`: without it a bar that counts few long things stands still, whatever its caller says of them.
    how: dict[str, Any] = {
        "leave": not passing,
        "delay": int(passing),
        "mininterval": every,
        "miniters": 0,
        "disable": hidden,
    }
    # In a terminal that does not say how large it is, as one of `script` or of a container, tqdm shows nothing.
    how |= {"ncols": 80, "nrows": 24} if _unknown_size() else {"dynamic_ncols": True}
    return tqdm(what, desc=stage or None, total=total, initial=done, unit=unit, **how)


@contextmanager
def doing(stage: str) -> Iterator[None]:
    """Say what is being done as long as it is, where nothing can be counted, such as the loading of a model."""
    with progress(None, stage, passing=True) as bar:
        bar.bar_format = "{desc} ... {elapsed}"
        bar.refresh()
        yield


def share_no_lock() -> None:
    """Keep bars of this process from a semaphore shared among processes, which one ended by force leaves behind."""
    tqdm.set_lock(threading.RLock())


def is_quiet() -> bool:
    """Return whether bars are hidden, by `--quiet` of a command or by the variable of tqdm."""
    return os.environ.get(QUIET, "").lower() not in ("", "0", "false", "no")


def _unknown_size() -> bool:
    try:
        return 0 in os.get_terminal_size(sys.stderr.fileno())
    except (OSError, ValueError):  # no terminal
        return False


def in_notebook() -> bool:
    """Return whether bars are widgets of a notebook."""
    return any(part.__module__ == "tqdm.notebook" for part in tqdm.__mro__)


@contextmanager
def quiet() -> Iterator[None]:
    """Hide bars, those of the Hub's client too, in this process and in those that it starts meanwhile."""
    before = {name: os.environ.get(name) for name in (QUIET, _HUB)}
    os.environ.update(dict.fromkeys(before, "1"))
    # The client reads the variable once.
    hub = sys.modules.get("huggingface_hub.utils") if before[_HUB] is None else None
    hides = hub is not None and not hub.are_progress_bars_disabled()
    if hub is not None and hides:
        hub.disable_progress_bars()
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name) if value is None else os.environ.update({name: value})
        if hub is not None and hides:
            hub.enable_progress_bars()
