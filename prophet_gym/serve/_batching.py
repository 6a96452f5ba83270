"""Merge calls of a model that several threads make at about the same time, and run them on one thread."""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from prophet_gym._batches import concat_batches
from prophet_gym.world_model import Footage

CALLS = ("encode", "encode_initial_states", "rollout", "advance", "decode", "uncertainty")
CALLS += ("read_gripper", "read_wrist", "read_robot_state", "read_state_error", "score", "score_on_demand")
"""What a world model or a reward model is asked, in which element i of every output is of element i of every input."""
FACTS = ("chunk", "frame_size", "action_dim", "decodable", "when", "stride", "max_frames")
RECENT = 1.0
"""A session that has asked nothing for so many seconds is not waited for."""


@dataclass(eq=False)
class _Call:
    function: Callable[..., Any]
    arguments: Sequence[Any]
    named: Mapping[str, Any]
    result: Future = field(default_factory=Future)
    begun: float = field(default_factory=time.monotonic)

    @property
    def size(self) -> int:
        return _size(self.arguments[0])

    @property
    def form(self) -> tuple[Any, ...]:
        """Return what must be equal in calls that are merged."""
        return self.function, *map(_form, self.arguments), *((name, _form(each)) for name, each in self.named.items())


class Batcher:
    """Run the calls of all sessions on one thread: those of one form that arrive within `window` seconds as one batch.

    It waits no longer than until every session that was active lately has asked, so a single client waits for nobody;
    and after a long batch for a twentieth of its time, which is little beside what a second batch would cost.

    Attributes:
        batches: Number of calls of the models so far.
        elements: Number of elements in them.
    """

    def __init__(self, window: float | int = 0.005, most: int = 64) -> None:
        """Start the thread; `most` elements are computed at once, unless one session alone brings more."""
        self.window, self.most = window, most
        self.batches = self.elements = 0
        self._calls: list[_Call] = []
        self._changed = threading.Condition()
        self._seen: dict[object, float] = {}  # when each session was last active; infinite while it is
        self._ended, self._took, self._stopped = 0.0, 0.0, False
        self._own = threading.local()
        self._thread = threading.Thread(target=self._work, name="prophet-batches", daemon=True)
        self._thread.start()

    def merged(self, model: Any) -> Any:
        """Return a stand-in for a world model or reward model, whose calls are merged; None for None.

        It has the abilities of the model, and its class the same name, which messages say.
        """
        if model is None:
            return None
        facts = {name: getattr(model, name) for name in FACTS if hasattr(model, name)}
        # Static: from Python 3.14 on a partial in a class is a method, and would be given the stand-in first.
        calls = {name: staticmethod(partial(self, getattr(model, name))) for name in CALLS if hasattr(model, name)}
        return type(type(model).__name__, (), facts | calls)()

    @contextmanager
    def session(self, key: object) -> Iterator[dict[str, float]]:
        """Say that a session is active; give what its calls took: `model_seconds`, and the largest `batch`."""
        self._own.told = told = {"model_seconds": 0.0, "batch": 0}
        with self._changed:
            self._seen[key] = float("inf")
        try:
            yield told
        finally:
            now = time.monotonic()
            with self._changed:
                self._seen[key] = now
                self._seen = {each: at for each, at in self._seen.items() if at > now - RECENT}
                self._changed.notify()

    def stop(self) -> None:
        """End the thread once it has done what was asked."""
        with self._changed:
            self._stopped = True
            self._changed.notify()
        self._thread.join()

    def __call__(self, function: Callable[..., Any], *arguments: Any, **named: Any) -> Any:
        """Return what `function` returns for these arguments, perhaps as a part of a batch."""
        if threading.current_thread() is self._thread:  # a reward model that looks at frames while it scores
            return function(*arguments, **named)
        call = _Call(function, arguments, named)
        with self._changed:
            if self._stopped:
                raise RuntimeError("the server is stopping")
            self._calls.append(call)
            self._changed.notify()
        result, seconds, batch = call.result.result()
        told = self._own.told
        told["model_seconds"] += seconds
        told["batch"] = max(told["batch"], batch)
        return result

    def _work(self) -> None:
        while calls := self._next():
            begun = time.monotonic()
            # After an error each runs alone, so that what is wrong with one session is no other's error.
            if not self._finish(calls) and len(calls) > 1:
                for call in calls:
                    self._finish([call])
            self._ended = time.monotonic()
            self._took = self._ended - begun

    def _finish(self, calls: Sequence[_Call]) -> bool:
        """Give each call its result and return True; where several fail together, return False for another try."""
        begun, size = time.perf_counter(), sum(call.size for call in calls)
        try:
            results = _run(calls)
        except BaseException as error:
            if len(calls) == 1:
                calls[0].result.set_exception(error)
            return False
        self.batches, self.elements = self.batches + 1, self.elements + size
        for call, result in zip(calls, results, strict=True):
            call.result.set_result((result, time.perf_counter() - begun, size))
        return True

    def _next(self) -> list[_Call]:
        """Wait for calls; return the oldest with those that are merged with it, none at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._calls or self._stopped)
            if not self._calls:
                return []
            # After a batch its sessions have the same time to come back, or two halves would take turns for ever.
            deadline = max(self._calls[0].begun, self._ended) + max(self.window, self._took / 20)
            while len(self._calls) < self._expected() and (left := deadline - time.monotonic()) > 0:
                self._changed.wait(left)
            chosen, size = [self._calls[0]], self._calls[0].size
            for call in self._calls[1:]:
                if call.form == chosen[0].form and size + call.size <= self.most:
                    chosen.append(call)
                    size += call.size
            self._calls = [call for call in self._calls if call not in chosen]
            return chosen

    def _expected(self) -> int:
        recent = time.monotonic() - RECENT
        return sum(at > recent for at in self._seen.values())


def _run(calls: Sequence[_Call]) -> list[Any]:
    first = calls[0]
    if len(calls) == 1:
        return [first.function(*first.arguments, **first.named)]
    generators = [(each, each.get_state()) for call in calls for each in call.named.get("generators", ())]
    joined = [_join(parts) for parts in zip(*(call.arguments for call in calls), strict=True)]
    named = {name: _join([call.named[name] for call in calls]) for name in first.named}
    try:
        return _split(first.function(*joined, **named), [call.size for call in calls])
    except BaseException:
        for generator, state in generators:
            generator.set_state(state)
        raise


def _size(value: Any) -> int:
    if isinstance(value, Footage):
        return len(value.lengths)
    return len(next(iter(value.values()))) if isinstance(value, Mapping) else len(value)


def _form(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.shape[1:], value.dtype, value.device
    if isinstance(value, Mapping):
        return tuple((name, _form(each)) for name, each in value.items())
    return type(value).__name__


def _join(parts: Sequence[Any]) -> Any:
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(list(parts))
    if isinstance(first, Mapping):
        return concat_batches(parts)
    if isinstance(first, Footage):
        return _join_footage(parts)
    return [each for part in parts for each in part]


def _join_footage(parts: Sequence[Footage]) -> Footage:
    def look(wanted: Sequence[Sequence[int]]) -> list[Any]:
        asked = iter(wanted)
        return [frames for part in parts for frames in part.look([next(asked) for _ in part.lengths])]

    return Footage(_join([part.lengths for part in parts]), _join([part.decoded for part in parts]), look)


def _split(result: Any, sizes: Sequence[int]) -> list[Any]:
    """Return the part of each call, as a copy: a view would keep the whole batch in memory."""
    if isinstance(result, Tensor):
        return [part.clone() for part in result.split(list(sizes))]
    if isinstance(result, Mapping):
        columns = {name: _split(each, sizes) for name, each in result.items()}
        return [{name: parts[place] for name, parts in columns.items()} for place in range(len(sizes))]
    if is_dataclass(result) and not isinstance(result, type):
        columns = {each.name: _split(getattr(result, each.name), sizes) for each in fields(result)}
        return [type(result)(**{name: parts[place] for name, parts in columns.items()}) for place in range(len(sizes))]
    return [result] * len(sizes)
