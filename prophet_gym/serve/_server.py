"""Run the server on an address: token, port, and how it ends."""

import ipaddress
import os
import secrets
import socket
from collections.abc import Sequence
from pathlib import Path

import uvicorn
from starlette.routing import BaseRoute

from prophet_gym.checkpoint import Checkpoint
from prophet_gym.envs import InitialStates
from prophet_gym.errors import MissingWeightsError
from prophet_gym.factory import EnvOptions
from prophet_gym.serve._app import build_app
from prophet_gym.serve._sessions import Limits, Sessions

SHORTEST_TOKEN = 16


def load_sessions(options: EnvOptions, limits: Limits) -> Sessions:
    """Return sessions of a checkpoint: its models, and the splits of initial states that it has."""
    checkpoint = Checkpoint.named(options.weights, options.embodiment)
    starts: dict[str, InitialStates] = {}
    for split in ("train", "official"):
        try:
            starts[split] = checkpoint.initial_states(split)
        except MissingWeightsError:
            if split == "train":
                raise
    return Sessions(options.parts(), starts, limits)


def read_token(path: Path | None) -> str:
    """Return the token of a file, which is made with a random one if it does not exist; without a path a random one."""
    if path is None:
        return secrets.token_urlsafe(32)
    path = path.expanduser()
    try:
        # Made for its owner alone from the first moment.
        with open(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w", encoding="ascii") as file:
            file.write(token := secrets.token_urlsafe(32))
        return token
    except FileExistsError:
        token = path.read_text(encoding="utf-8", errors="replace").strip()
    if len(token) < SHORTEST_TOKEN or not token.isascii() or not token.isprintable() or " " in token:
        wanted = f"{path} must hold a token: {SHORTEST_TOKEN} or more printable ASCII characters without spaces"
        raise ValueError(f"{wanted}, and what is there is not; name a file that does not exist, and one is made")
    return token


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens; OSError if the port is taken or the host is not this machine."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    made = socket.socket(family)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
        made.listen(1024)
    except OSError as error:
        made.close()
        raise OSError(f"cannot listen on port {port} of {host} ({error.strerror}): choose another --port") from error
    return made


def is_loopback(host: str) -> bool:
    """Return whether a host is this machine, as only its own programs can reach it."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def make_server(sessions: Sessions, token: str, routes: Sequence[BaseRoute] = ()) -> uvicorn.Server:
    """Return the server, to be run on a socket of `listen`."""
    limits = sessions.limits
    config = uvicorn.Config(
        build_app(sessions, token, routes),
        log_level="warning",
        lifespan="on",
        ws="websockets-sansio",
        ws_max_size=limits.megabytes * 10**6,
        timeout_keep_alive=75,  # a learner thinks between its rollouts
        timeout_graceful_shutdown=10,
        server_header=False,
    )
    return uvicorn.Server(config)
