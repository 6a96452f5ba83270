"""`prophet serve`: offer a world model to other programs and machines, as an env over HTTP and WebSocket."""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from prophet_gym._arguments import Whole, WorldModelOptions, resolved_device
from prophet_gym.serve._sessions import Limits, Sessions

if TYPE_CHECKING:
    from starlette.routing import BaseRoute


@dataclass(frozen=True, kw_only=True)
class Args(WorldModelOptions, Limits):
    """Serve a world model until Ctrl-C; `prophet_gym.serve.RemoteProphetVectorEnv` is its client.

    Sessions of all clients share the model, and their steps become one batch. Every request needs the token.
    """

    reward: str = "auto"
    """Name of a reward model, as `gym.make(..., reward=)` takes it."""
    engine: str = "eager"
    """Library that runs the transformer: `eager`, `compiled`, `openvino` or `auto`."""
    host: str = "127.0.0.1"
    """Address to listen on; others than this machine's own are reachable from outside, without encryption."""
    port: Annotated[int, Whole(0, 65535)] = 8000
    """Port; 0 takes a free one."""
    token_file: Path | None = None
    """File of the token, made with a random one if it does not exist; by default a new one is printed."""


def main(args: Args) -> None:
    serve(args, "serve")


def serve(
    args: Args,
    name: str,
    routes: Callable[[Sessions], Sequence["BaseRoute"]] = lambda _: (),
    ready: Callable[[str, str], None] | None = None,
) -> None:
    """Run the server, with more `routes`; `ready` is told its address and token once it listens."""
    from prophet_gym.checkpoint import Checkpoint
    from prophet_gym.factory import EnvOptions
    from prophet_gym.serve._server import is_loopback, listen, load_sessions, make_server, read_token

    token = read_token(args.token_file)
    with listen(args.host, args.port) as socket:
        reward = None if args.reward == "None" else args.reward
        device, robot = resolved_device(args.device), Checkpoint.named(args.world_model).robot
        options = EnvOptions(
            weights=args.world_model, embodiment=robot, reward=reward, device=device, engine=args.engine
        )
        sessions = load_sessions(options, args)
        server = make_server(sessions, token, routes(sessions))
        host, port = socket.getsockname()[:2]
        host = f"[{host}]" if ":" in host else host
        print(f"prophet {name}: {args.world_model} at http://{host}:{port}")
        print(f"token: {token if args.token_file is None else f'in {args.token_file}'}", flush=True)
        if not is_loopback(args.host):
            print(
                "What is sent can be read on the way: use it inside a trusted network, an SSH tunnel or TLS.",
                flush=True,
            )
        if ready is not None:
            ready(f"http://{host}:{port}", token)
        with suppress(KeyboardInterrupt):
            server.run(sockets=[socket])
