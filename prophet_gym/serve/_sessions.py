"""Sessions of a server: each is an env of its own, whose model they all share."""

import asyncio
import hashlib
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch

from prophet_gym._checks import require_count, unknown_option
from prophet_gym.envs import InitialStates, ProphetVectorEnv
from prophet_gym.errors import ProphetError
from prophet_gym.serve._batching import Batcher
from prophet_gym.serve._messages import SessionOptions, pack

_MS = 1000


class RefusedError(ProphetError):
    """Signal a request that is refused, with the status of HTTP that says why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class Limits:
    """Limit what clients may take.

    Attributes:
        sessions: Number of sessions at once.
        batch_size: Number of sub-environments in a session, and in a batch of several.
        megabytes: Size of a request.
        idle: Seconds without a request after which a session is closed.
        window: Seconds in which steps of several sessions become one batch.
    """

    sessions: int = 64
    batch_size: int = 64
    megabytes: int = 256
    idle: float | int = 600.0
    window: float | int = 0.005


@dataclass(eq=False)
class Session:
    """Hold an env, the number of its last step, and what was answered to it."""

    envs: ProphetVectorEnv
    name: str = field(default_factory=lambda: secrets.token_hex(16))
    step_id: int = 0
    asked: bytes = b""
    answer: bytes = b""
    used: float = field(default_factory=time.monotonic)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


def _reset(envs: ProphetVectorEnv, message: Mapping[str, Any]) -> dict[str, Any]:
    return _begun(*envs.reset(seed=message.get("seed"), options=message.get("options")))


def _step(envs: ProphetVectorEnv, message: Mapping[str, Any]) -> dict[str, Any]:
    observation, rewards, terminated, truncated, info = envs.step(message.get("actions", ()))
    ends = {"reward": rewards, "terminated": terminated, "truncated": truncated}
    return _begun(observation, info) | ends


def _restore(envs: ProphetVectorEnv, message: Mapping[str, Any]) -> dict[str, Any]:
    return _begun(*envs.set_state(message.get("states", ()), message.get("indices"), seed=message.get("seed")))


def _snapshot(envs: ProphetVectorEnv, message: Mapping[str, Any]) -> dict[str, Any]:
    indices = message.get("indices")
    return {"states": [envs.get_state(index) for index in (range(envs.num_envs) if indices is None else indices)]}


def _begun(observation: Mapping[str, Any], info: Mapping[str, Any]) -> dict[str, Any]:
    return {"observation": observation, "info": info}


CHANGES: Mapping[str, Callable[..., dict[str, Any]]] = {"reset": _reset, "step": _step, "restore": _restore}
"""What changes a session, so that a repeated request must not do it again."""
ACTS = {**CHANGES, "snapshot": _snapshot}


class Sessions:
    """Create sessions, act in them and close them; all on one event loop.

    Attributes:
        counts: Requests by what was asked and how it ended.
        seconds: Seconds that they took, by what was asked.
    """

    def __init__(self, parts: Mapping[str, Any], starts: Mapping[str, InitialStates], limits: Limits) -> None:
        """Share the `parts` of an env, as `EnvOptions.parts` gives them; `starts` are initial states by split."""
        self.limits, self.starts = limits, starts
        self.batcher = Batcher(limits.window, limits.batch_size)
        merged = {name: self.batcher.merged(parts.get(name)) for name in ("world_model", "reward_model")}
        self._parts = {name: part for name, part in parts.items() if name in ("action_spec", "fps")} | merged
        self._open: dict[str, Session] = {}
        # As many threads as sessions: those that wait for a batch must not keep others from joining it.
        self._threads = ThreadPoolExecutor(limits.sessions, "prophet-session")
        self.counts: Counter[tuple[str, str]] = Counter()
        self.seconds: Counter[str] = Counter()

    def __len__(self) -> int:
        """Return how many are open."""
        return len(self._open)

    @property
    def sub_envs(self) -> int:
        """Return the number of sub-environments of all."""
        return sum(session.envs.num_envs for session in self._open.values())

    def create(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Open a session; return its name and what a client must know of its env.

        Raises:
            RefusedError: There are as many as may be.
            ValueError: An option does not exist, or the env cannot be made with it.
        """
        options = SessionOptions.of(given)
        if len(self) >= self.limits.sessions:
            raise RefusedError(503, f"all {self.limits.sessions} sessions are taken; close one, or try again later")
        if require_count("num_envs", options.num_envs) > self.limits.batch_size:
            raise ValueError(f"num_envs must be at most {self.limits.batch_size} here, got {options.num_envs}")
        named = {name: getattr(options, name) for name in ("max_episode_steps", "autoreset_mode", "render")}
        named |= {name: getattr(options, name) for name in ("proprioception", "max_uncertainty", "cameras")}
        envs = ProphetVectorEnv(starts=self._initial_states(options), num_envs=options.num_envs, **named, **self._parts)
        session = Session(envs)
        self._open[session.name] = session
        space = envs.single_action_space
        height, width = envs.single_observation_space["image"].shape[:2]  # pyright: ignore[reportIndexIssue, reportOptionalSubscript]
        told = {"low": space.low, "high": space.high, "frame_size": [height, width], "fps": envs.fps}  # pyright: ignore[reportAttributeAccessIssue]
        return told | {"session": session.name, "step_id": 0, "starts": sorted(self.starts)}

    async def act(self, name: str, act: str, message: Mapping[str, Any], body: bytes) -> bytes:
        """Reset, step, restore or save a session; return the answer as bytes.

        What changes it may have a `step_id`, one more than the last one's. The last one again, with the same `body`,
        gets the same answer. An error, after which the env is as before, counts for nothing.

        Raises:
            RefusedError: There is no such session, or the step's turn is another.
            Exception: What the env raises.
        """
        session = self._session(name)
        # A client that goes away must not leave a step half done.
        return await asyncio.shield(asyncio.ensure_future(self._act(session, act, message, body)))

    async def close(self, name: str) -> None:
        """Close a session once what it does has ended; RefusedError if there is none."""
        session = self._session(name)
        async with session.lock:
            if self._open.pop(name, None) is not None:
                session.envs.close()

    async def close_idle(self) -> None:
        """Close sessions, for ever, when they have been idle for too long."""
        while True:
            await asyncio.sleep(min(self.limits.idle / 4, 10.0))
            old = time.monotonic() - self.limits.idle
            for session in list(self._open.values()):
                if session.used < old and not session.lock.locked():
                    await self.close(session.name)
                    self.counts["close", "idle"] += 1

    def stop(self) -> None:
        """Let what is under way end, and free all."""
        self._threads.shutdown(cancel_futures=True)
        self.batcher.stop()
        self._open.clear()

    async def _act(self, session: Session, act: str, message: Mapping[str, Any], body: bytes) -> bytes:
        async with session.lock:
            if session.name not in self._open:
                raise _gone(session.name, self.limits.idle)
            session.used = time.monotonic()
            asked, given = hashlib.sha256(act.encode() + b" " + body).digest(), message.get("step_id")
            if act in CHANGES and given is not None:
                if given == session.step_id and asked == session.asked:
                    return session.answer
                if given != session.step_id + 1:
                    raise RefusedError(
                        409,
                        f"the next step_id is {session.step_id + 1}, and {session.step_id} with the request that it "
                        f"had is answered again; got {given!r} to {act}",
                    )
            turn = session.step_id + (act in CHANGES)
            loop = asyncio.get_running_loop()
            answer = await loop.run_in_executor(self._threads, partial(self._answer, session, act, message, turn))
            if act in CHANGES:
                session.step_id, session.asked, session.answer = turn, asked, answer
            session.used = time.monotonic()
            return answer

    def _answer(self, session: Session, act: str, message: Mapping[str, Any], turn: int) -> bytes:
        begun, envs = time.perf_counter(), session.envs
        with self.batcher.session(session) as told:
            found = ACTS[act](envs, message)
        served = {"batch": told["batch"], "model_ms": round(_MS * told["model_seconds"], 3)}
        served |= {"ms": round(_MS * (time.perf_counter() - begun), 3), "memory_bytes": memory_in_use()}
        usage = [envs.usage.slots, envs.usage.live]
        env = {"finished": envs.finished, "elapsed": list(envs.elapsed), "usage": usage}
        return pack(found | {"step_id": turn, "served": served, "env": env})

    def _initial_states(self, options: SessionOptions) -> InitialStates:
        if not isinstance(options.starts, str) or options.starts not in self.starts:
            raise unknown_option("split of this server", options.starts, self.starts)
        states = self.starts[options.starts]
        if options.tasks is None:
            return states
        if not isinstance(options.tasks, Iterable):
            raise ValueError(f"tasks must be task numbers, as in tasks=[0, 3], got {options.tasks!r}")
        return InitialStates(state for task in options.tasks for state in states.of_task(task))

    def _session(self, name: str) -> Session:
        if name not in self._open:
            raise _gone(name, self.limits.idle)
        return self._open[name]


def _gone(name: str, idle: float | int) -> RefusedError:
    why = f"it was closed, or idle for {idle:g} s, or the server was restarted"
    return RefusedError(404, f"there is no session {name[:40]!r}: {why}")


def memory_in_use() -> int:
    """Return the bytes that the GPU has allocated for tensors; without a GPU the most that the process ever had."""
    if torch.cuda.is_available() and torch.cuda.memory_allocated():
        return torch.cuda.memory_allocated()
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return 0
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
