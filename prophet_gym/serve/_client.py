"""The env of a client: a vector env whose world model runs on a server."""

import http.client
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import gymnasium as gym
import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from numpy.typing import ArrayLike

from prophet_gym._checks import require_count, require_number, unknown_option
from prophet_gym.envs._episodes import Info, Observation, _observation_parts
from prophet_gym.envs._plain import PathOrName, PlainSpec, plain, require_cameras
from prophet_gym.envs._require import require_actions, require_open
from prophet_gym.errors import SimulatorLostError
from prophet_gym.serve._messages import BINARY, PROTOCOL, PROTOCOL_HEADER, SessionOptions, pack, raised, unpack

URL_VARIABLE, TOKEN_VARIABLE = "PROPHET_URL", "PROPHET_TOKEN"
PAUSES = (0.0, 0.2, 1.0)
"""Seconds before each further try of a request whose answer did not come."""


class RemoteProphetVectorEnv(PlainSpec, VectorEnv):  # pyright: ignore[reportIncompatibleVariableOverride]
    """Simulate as `ProphetVectorEnv` does, on a server of `prophet serve`.

    Spaces, results, errors and snapshots are those of a `ProphetVectorEnv` on the server. Its steps are generated in
    one batch with those of other clients, so images may differ by 2 levels of 255 from those of an env alone.

    A request whose answer does not come is sent again, and the server does nothing twice. When the server is lost,
    SimulatorLostError says so, and `reconnect` continues from the last snapshot.

    Attributes:
        served: What the server told with its last answer: `ms` and `model_ms` that it took, the `batch` of
            sub-environments of all clients, `memory_bytes`; `elapsed`, `finished` and `usage` of this env.
        last_snapshot: The snapshots of all sub-environments that `reconnect` continues from; None before the first.
    """

    def __init__(
        self,
        url: str | None = None,
        num_envs: int = 1,
        *,
        token_file: PathOrName | None = None,
        snapshot_every: int | None = None,
        timeout: float | int = 120.0,
        render_mode: str | None = None,
        **options: Any,
    ) -> None:
        """Open a session.

        Args:
            url: Address of the server, e.g. `http://127.0.0.1:8000`; by default `$PROPHET_URL`.
            num_envs: Number of sub-environments.
            token_file: File of the server's token; by default the token is `$PROPHET_TOKEN`.
            snapshot_every: Number of steps after which `save` is called, at resets too; None for never.
            timeout: Seconds to wait for an answer.
            render_mode: `rgb_array` (the last image), or None.
            options: Those of `prophet_gym.serve._messages.SessionOptions`: `max_episode_steps`, `autoreset_mode`,
                `render`, `starts`, `tasks`, `proprioception`, `max_uncertainty` and `cameras`.

        Raises:
            SimulatorLostError: There is no server at the address.
            ValueError: An argument is wrong, here or for the server.
            ProphetError: The server refuses the token or the version, or has no room for another session.
        """
        if render_mode not in (None, "rgb_array"):
            raise unknown_option("render mode of a remote env", render_mode, ["rgb_array"])
        given = {"num_envs": require_count("num_envs", plain(num_envs)), **options}
        self._options = SessionOptions.of({name: plain(value) for name, value in given.items()})
        self._every = None if snapshot_every is None else require_count("snapshot_every", snapshot_every)
        self._connection = Connection(
            url or os.environ.get(URL_VARIABLE, ""), _token(token_file), require_number("timeout", timeout, above=0)
        )
        self.last_snapshot: list[bytes] | None = None
        try:
            told = self._open()
        except BaseException:
            self._connection.close()
            raise
        self.num_envs, self.render_mode = self._options.num_envs, render_mode
        self.max_episode_steps, self.split = self._options.max_episode_steps, self._options.starts
        mode = AutoresetMode(self._options.autoreset_mode)
        self.metadata = {"render_modes": ["rgb_array"], "autoreset_mode": mode}
        self.metadata["render_fps"] = told["fps"] / len(told["low"]) if render_mode == "rgb_array" else told["fps"]
        self.single_action_space = gym.spaces.Box(told["low"], told["high"], dtype=np.float32)
        height, width = told["frame_size"]
        seen = _observation_parts(
            (height, width), require_cameras(self._options.cameras), proprioception=self._options.proprioception
        )
        self.single_observation_space = gym.spaces.Dict(seen)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)

    @property
    def finished(self) -> bool:
        """Return whether every episode has ended and no other follows, as `ProphetVectorEnv.finished`."""
        return self.served.get("finished", False)

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: Mapping[str, Any] | None = None
    ) -> tuple[Observation, Info]:
        """Start episodes, as `ProphetVectorEnv.reset`."""
        require_open(self, "reset")
        if options is not None and not isinstance(options, Mapping):
            raise ValueError(f"options must be a dict or None, got {type(options).__name__}")
        found = self._change("reset", {"seed": seed, "options": options})
        if self._every is not None:
            self.save()
        return found["observation"], found["info"]

    def step(self, actions: ArrayLike) -> tuple[Observation, np.ndarray, np.ndarray, np.ndarray, Info]:
        """Run one chunk in every sub-environment, as `ProphetVectorEnv.step`."""
        require_open(self, "step")
        if self._image is None:
            raise gym.error.ResetNeeded("call reset before step")
        found = self._change("step", {"actions": require_actions(actions, self.action_space)})
        self._steps += 1
        if self._every is not None and self._steps % self._every == 0:
            self.save()
        return found["observation"], found["reward"], found["terminated"], found["truncated"], found["info"]

    def get_state(self, index: int = 0) -> bytes:
        """Return a snapshot of one sub-environment, as `ProphetVectorEnv.get_state`, which can also read it."""
        require_open(self, "get_state")
        return self._ask("snapshot", {"indices": [plain(index)]})["states"][0]

    def set_state(
        self,
        states: bytes | bytearray | memoryview | Sequence[bytes],
        indices: Sequence[int] | None = None,
        *,
        seed: int | Sequence[int | None] | None = None,
    ) -> tuple[Observation, Info]:
        """Continue saved episodes in place of the current ones, as `ProphetVectorEnv.set_state`."""
        require_open(self, "set_state")
        found = self._change("restore", {"states": states, "indices": indices, "seed": seed})
        return found["observation"], found["info"]

    def save(self) -> list[bytes]:
        """Return snapshots of all sub-environments, and keep them for `reconnect`."""
        require_open(self, "save")
        self.last_snapshot = saved = self._ask("snapshot", {})["states"]
        return saved

    def reconnect(self) -> tuple[Observation, Info] | None:
        """Open another session, on a server that was perhaps restarted, and continue there from the last snapshot.

        Returns:
            Observation and info as from `reset`; None where there is no snapshot, and a reset comes next.
        """
        require_open(self, "reconnect")
        self._connection.close()
        self._open()
        return None if self.last_snapshot is None else self.set_state(self.last_snapshot)

    def render(self) -> tuple[np.ndarray, ...] | None:
        """Return the last image of each sub-environment."""
        require_open(self, "render")
        if self.render_mode is None or self._image is None:
            return None
        return tuple(self._image.copy())

    def close_extras(self, **kwargs: Any) -> None:
        """Close the session."""
        del kwargs
        connection = getattr(self, "_connection", None)  # none where the constructor was refused
        if connection is not None and getattr(self, "_session", None):
            with suppress(Exception):  # what is not closed now the server closes when it has been idle
                connection.ask("DELETE", f"/v1/sessions/{self._session}", {}, tries=2)
            connection.close()

    def _open(self) -> dict[str, Any]:
        told = self._connection.ask("POST", "/v1/sessions", asdict(self._options))
        self._session: str = told["session"]
        self._step_id: int | None = 0
        self._steps = 0
        self.served: dict[str, Any] = {}
        self._image: np.ndarray | None = None
        return told

    def _change(self, act: str, message: Mapping[str, Any]) -> dict[str, Any]:
        turn = self._step_id
        # An interrupt leaves open whether the server acted, so the next request takes the turn that comes.
        self._step_id = None
        try:
            # Without a turn the server would act twice, so such a request is sent once.
            tries, following = (1, None) if turn is None else (len(PAUSES), turn + 1)
            found = self._ask(act, {**message, "step_id": following}, tries)
        except Exception:
            self._step_id = turn
            raise
        self._step_id, self._image = found["step_id"], found["observation"]["image"].copy()
        return found

    def _ask(self, act: str, message: Mapping[str, Any], tries: int = len(PAUSES)) -> dict[str, Any]:
        found = self._connection.ask("POST", f"/v1/sessions/{self._session}/{act}", message, tries)
        self.served = found["served"]
        return found


class Connection:
    """Ask a server, over one connection that is opened again where it broke."""

    def __init__(self, url: str, token: str, timeout: float | int) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query:
            raise ValueError(
                f"url must be http://HOST:PORT, as `prophet serve` prints it, or ${URL_VARIABLE}; got {url!r}"
            )
        kind: Callable[..., http.client.HTTPConnection] = (
            http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        )
        self._http = kind(parts.hostname, parts.port, timeout=timeout)
        self.url, self._path = url, parts.path.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": BINARY, PROTOCOL_HEADER: str(PROTOCOL)}

    def ask(self, method: str, path: str, message: Mapping[str, Any], tries: int = len(PAUSES)) -> dict[str, Any]:
        """Return the answer to a request; raise the error that the server tells, or SimulatorLostError."""
        body, lost = pack(message), "no try"
        for pause in PAUSES[:tries]:
            time.sleep(pause)
            try:
                status, answer = self._send(method, self._path + path, body)
            except TimeoutError:
                lost = f"no answer within timeout={self._http.timeout:g} s"
                break
            except (OSError, http.client.HTTPException) as error:
                lost = f"{type(error).__name__}: {error}"
                continue
            if status < 300:
                return unpack(answer)
            raise _refusal(self.url, status, answer)
        raise SimulatorLostError(
            f"the server at {self.url} does not answer ({lost}), and what was asked is done or not: when it runs "
            "again, reconnect() continues from the last snapshot"
        )

    def close(self) -> None:
        """Close the connection; the next request opens another."""
        self._http.close()

    def _send(self, method: str, path: str, body: bytes) -> tuple[int, bytes]:
        try:
            self._http.request(method, path, body, self._headers)
            response = self._http.getresponse()
            return response.status, response.read()
        except BaseException:  # half an answer must not be taken for the next one
            self._http.close()
            raise


def _refusal(url: str, status: int, answer: bytes) -> Exception:
    try:
        told = json.loads(answer)["error"]
        error = raised(told)
    except (ValueError, LookupError, TypeError, AttributeError):
        return SimulatorLostError(f"{url} answers {status} as no `prophet serve` does: is it the right address?")
    return SimulatorLostError(f"{error}; reconnect() continues from the last snapshot") if status == 404 else error


def _token(path: PathOrName | None) -> str:
    token = os.environ.get(TOKEN_VARIABLE, "") if path is None else Path(path).expanduser().read_text(encoding="utf-8")
    token = token.strip()
    if not token or not token.isascii() or not token.isprintable():
        raise ValueError(f"a server's token is needed, printable ASCII: in token_file= or ${TOKEN_VARIABLE}")
    return token
