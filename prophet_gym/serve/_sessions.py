"""Sessions of a server: each is an env of its own, whose model they all share."""

import asyncio
import hashlib
import secrets
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

import gymnasium as gym
import torch

from prophet_gym._arguments import Arguments, Items, NotNegative, Positive
from prophet_gym._checks import require_count, shown, unknown_option
from prophet_gym.envs import InitialStates, ProphetVectorEnv
from prophet_gym.envs._episodes import EpisodeVectorEnv
from prophet_gym.envs._plain import require_tasks
from prophet_gym.errors import ProphetError
from prophet_gym.serve._batching import Batcher
from prophet_gym.serve._messages import SessionOptions, pack
from prophet_gym.specs import CAMERAS, FIRST_CAMERA

_MS = 1000


class RefusedError(ProphetError):
    """Signal a request that is refused, with the status of HTTP that says why."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True, kw_only=True)
class Limits(Arguments):
    """Limit what clients may take."""

    sessions: Items = 64
    """Most sessions at once."""
    batch_size: Items = 64
    """Most sub-environments in a session, and in a batch of several sessions."""
    megabytes: Items = 256
    """Largest request."""
    idle_minutes: Positive = 30.0
    """A session without a request for so long is closed."""
    window_ms: NotNegative = 5.0
    """Steps of several sessions that arrive within so many milliseconds become one batch."""


@dataclass(eq=False)
class Session:
    """Hold an env, the number of its last step, and what was answered to it."""

    envs: EpisodeVectorEnv
    name: str = field(default_factory=lambda: secrets.token_hex(16))
    step_id: int = 0
    asked: bytes = b""
    answer: bytes = b""
    kept: Sequence[bytes] | None = None
    used: float = field(default_factory=time.monotonic)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


def _reset(envs: EpisodeVectorEnv, message: Mapping[str, Any]) -> dict[str, Any]:
    observation, info = envs.reset(seed=message.get("seed"), options=message.get("options"))
    return {"observation": observation, "info": info}


def _step(envs: EpisodeVectorEnv, message: Mapping[str, Any]) -> dict[str, Any]:
    observation, rewards, terminated, truncated, info = envs.step(message.get("actions", ()))
    ends = {"reward": rewards, "terminated": terminated, "truncated": truncated}
    return {"observation": observation, "info": info} | ends


def _restore(envs: ProphetVectorEnv, message: Mapping[str, Any]) -> dict[str, Any]:
    observation, info = envs.set_state(message.get("states", ()), message.get("indices"), seed=message.get("seed"))
    return {"observation": observation, "info": info}


def _snapshot(envs: ProphetVectorEnv, message: Mapping[str, Any]) -> dict[str, Any]:
    given = message.get("indices")
    indices = range(envs.num_envs) if given is None else given
    if not isinstance(indices, Sequence) or isinstance(indices, str) or len(indices) > envs.num_envs:
        raise ValueError(
            f"indices must be a list of at most {envs.num_envs} sub-environments, got {shown(repr(given))}"
        )
    return {"states": [envs.get_state(index) for index in indices]}


CHANGES: Mapping[str, Callable[..., dict[str, Any]]] = {"reset": _reset, "step": _step, "restore": _restore}
"""What changes a session, so that a repeated request must not do it again."""
ACTS = {**CHANGES, "snapshot": _snapshot}


def _with_kept(session: Session, act: str, message: Mapping[str, Any]) -> dict[str, Any]:
    """Act; a snapshot may be kept here (`keep`), and what was kept be told or restored (`kept`)."""
    if act in ("restore", "snapshot") and message.get("kept"):
        if session.kept is None:
            raise ValueError("this session keeps no snapshot yet: ask it for one with keep=true")
        kept = {"states": list(session.kept)}
        return kept if act == "snapshot" else ACTS[act](session.envs, {**message, **kept})
    found = ACTS[act](session.envs, message)
    if act == "snapshot" and message.get("keep"):
        session.kept, found = found["states"], {"states": []}
    return found


class Sessions:
    """Create sessions, act in them and close them; all on one event loop.

    Attributes:
        counts: Requests by what was asked and the status of the answer.
        seconds: Seconds that they took, by what was asked.
        parts: What the envs share; the calls of its models are merged.
        others: Sessions of other worlds that the same server has, which end with these.
    """

    def __init__(self, parts: Mapping[str, Any], starts: Mapping[str, InitialStates], limits: Limits) -> None:
        """Share the `parts` of an env, as `EnvOptions.parts` gives them; `starts` are initial states by split."""
        self.limits, self.starts = limits, starts
        self.batcher = Batcher(limits.window_ms / _MS, limits.batch_size)
        merged = {name: self.batcher.merged(parts.get(name)) for name in ("world_model", "reward_model")}
        self.parts = {name: part for name, part in parts.items() if name in ("action_spec", "fps")} | merged
        self._open: dict[str, Session] = {}
        # As many threads as sessions: those that wait for a batch must not keep others from joining it.
        self._threads = ThreadPoolExecutor(limits.sessions, "prophet-session")
        self.counts: Counter[tuple[str, int]] = Counter()
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.others: list[Sessions] = []

    def __len__(self) -> int:
        """Return how many are open."""
        return len(self._open)

    @property
    def sub_envs(self) -> int:
        """Return the number of sub-environments of all."""
        return sum(session.envs.num_envs for session in self._open.values())

    async def answer(self, act: str, name: str, message: Mapping[str, Any], body: bytes = b"") -> bytes:
        """Create or close a session, or reset, step, restore or save the one of this name; return the packed answer.

        What changes an env may have a `step_id`, one more than the last one's. The last one again, with the same
        `body`, gets the same answer. An error, after which the env is as before, counts for nothing.

        Raises:
            RefusedError: There is no such session, there is no room for another, or the step's turn is another.
            Exception: What the env raises.
        """
        begun, status = time.perf_counter(), 200
        try:
            if act == "create":
                return pack(self._create(message))
            if act == "close":
                await self._close(name)
                return pack({"closed": True})
            if act not in ACTS:
                act, given = "unknown", act[:40]
                raise RefusedError(404, f"a session can {', '.join(ACTS)}, create and close, got {given!r}")
            # A client that goes away must not leave a step half done.
            return await asyncio.shield(asyncio.ensure_future(self._act(self._session(name), act, message, body)))
        except Exception as error:
            status = status_of(error)
            raise
        finally:
            self.counts[act, status] += 1
            self.seconds[act] += time.perf_counter() - begun

    async def close_idle(self) -> None:
        """Close sessions, for ever, when they have been idle for too long."""
        idle = 60 * self.limits.idle_minutes
        while True:
            await asyncio.sleep(min(idle / 4, 10.0))
            for sessions in (self, *self.others):
                for session in list(sessions._open.values()):
                    if session.used < time.monotonic() - idle and not session.lock.locked():
                        with suppress(RefusedError):  # its client was faster
                            await sessions.answer("close", session.name, {})

    def stop(self) -> None:
        """Let what is under way end, and free all."""
        self._threads.shutdown(cancel_futures=True)
        self.batcher.stop()
        for session in self._open.values():
            session.envs.close()
        self._open.clear()
        for each in self.others:
            each.stop()

    def _create(self, given: Mapping[str, Any]) -> dict[str, Any]:
        """Open a session; return its name and what a client must know of its env."""
        options = SessionOptions.of(given)
        if len(self) >= self.limits.sessions:
            raise RefusedError(503, f"all {self.limits.sessions} sessions are taken; close one, or try again later")
        if require_count("num_envs", options.num_envs) > self.limits.batch_size:
            raise ValueError(f"num_envs must be at most {self.limits.batch_size} here, got {options.num_envs}")
        session = Session(self._make(options))
        self._open[session.name] = session
        space, seen = session.envs.single_action_space, session.envs.single_observation_space
        assert isinstance(space, gym.spaces.Box)
        assert isinstance(seen, gym.spaces.Dict)
        size = list(seen[CAMERAS[FIRST_CAMERA]].shape or ())[:2]
        told = {"low": space.low, "high": space.high, "frame_size": size, "fps": session.envs.fps}
        return told | {"session": session.name}

    def _make(self, options: SessionOptions) -> EpisodeVectorEnv:
        chosen = asdict(options) | {"starts": self._initial_states(options.starts, options.tasks)}
        del chosen["tasks"]
        return ProphetVectorEnv(**chosen, **self.parts)

    async def _close(self, name: str) -> None:
        session = self._session(name)
        async with session.lock:
            if self._open.pop(name, None) is not None:
                session.envs.close()

    async def _act(self, session: Session, act: str, message: Mapping[str, Any], body: bytes) -> bytes:
        async with session.lock:
            if session.name not in self._open:
                raise self._gone(session.name)
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
            found = _with_kept(session, act, message)
        served = {"batch": told["batch"], "model_ms": round(_MS * told["model_seconds"], 3)}
        served |= {"ms": round(_MS * (time.perf_counter() - begun), 3), "memory_bytes": memory_in_use()}
        served |= {"elapsed": envs.elapsed, "finished": envs.finished, "usage": asdict(envs.usage)}
        return pack(found | {"step_id": turn, "served": served})

    def _initial_states(self, split: Any, tasks: Any) -> InitialStates:
        if not isinstance(split, str) or split not in self.starts:
            raise unknown_option("split of this server", split, self.starts)
        states = self.starts[split]
        if tasks is None:
            return states
        return InitialStates(state for task in require_tasks(tasks) for state in states.of_task(task))

    def _session(self, name: str) -> Session:
        if name not in self._open:
            raise self._gone(name)
        return self._open[name]

    def _gone(self, name: str) -> RefusedError:
        why = f"it was closed, or idle for {self.limits.idle_minutes:g} minutes, or the server was restarted"
        return RefusedError(404, f"there is no session {name[:40]!r}: {why}")


def status_of(error: Exception) -> int:
    """Return the status of HTTP that an error is answered with."""
    if isinstance(error, RefusedError):
        return error.status
    return 400 if isinstance(error, ValueError | KeyError | TypeError | gym.error.ResetNeeded) else 500


def memory_in_use() -> int:
    """Return the bytes that the GPU has allocated for tensors; without a GPU the most that the process ever had."""
    if torch.cuda.is_available() and torch.cuda.memory_allocated():
        return torch.cuda.memory_allocated()
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return 0
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
