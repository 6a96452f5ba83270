"""`prophet play`: drive the arm of a dream from a page of the server, beside a simulator where one is asked for."""

import asyncio
import tempfile
import webbrowser
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np

from prophet_gym._arguments import Whole
from prophet_gym.serve._command import Args as ServeArgs
from prophet_gym.serve._command import serve
from prophet_gym.serve._messages import SessionOptions
from prophet_gym.serve._sessions import Limits, Sessions

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.routing import BaseRoute

    from prophet_gym.embodiments import Embodiment
    from prophet_gym.envs._episodes import EpisodeVectorEnv
    from prophet_gym.specs import InitialState

FILES = Path(__file__).parent / "page"
POLICY = "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'"
"""What the page may load: nothing from elsewhere."""
LONGEST = 2400
"""Actions of an episode on the page, two minutes of LIBERO; a clip of it has the first image too."""


@dataclass(frozen=True, kw_only=True)
class Args(ServeArgs):
    """Drive the arm in a dream with keyboard, mouse or gamepad, from a page in the browser, until Ctrl-C.

    The page is one of `prophet serve`, so programs can use the same server meanwhile.
    """

    port: Annotated[int, Whole(0, 65535)] = 0
    """Port; 0 takes a free one."""
    open: bool = True
    """Open the page in the browser; its address is printed in any case."""
    beside: Literal["simulator"] | None = None
    """Show the simulator, where it is installed, beside the dream: the same initial state under the same actions."""


def main(args: Args) -> None:
    import torch

    from prophet_gym.checkpoint import Checkpoint
    from prophet_gym.embodiments import get_embodiment

    # One core is the browser's: a model that wants all of them waits for whichever draws the page.
    torch.set_num_threads(max(1, torch.get_num_threads() - 1))
    robot = require_drivable(get_embodiment(Checkpoint.named(args.world_model).robot))

    def ready(url: str, token: str) -> None:
        page = f"{url}/?token={token}"
        print(f"drive it at {page}", flush=True)
        if args.open:
            webbrowser.open(page)

    serve(args, "play", partial(page_routes, robot=robot, name=args.world_model, beside=args.beside), ready)


def require_drivable(robot: "Embodiment") -> "Embodiment":
    """Return the robot; ValueError unless its actions are motions of one arm, which keys can be read as."""
    names = robot.action_spec.names
    if robot.rest_action is None or names[:3] != ("x", "y", "z") or names[6:] != ("gripper",):
        raise ValueError(
            f"prophet play drives robots of one arm whose actions are motions and a gripper, and those of {robot.name} "
            f"are {', '.join(names)}; choose another --world-model"
        )
    return robot


class SimulatorSessions(Sessions):
    """Create sessions of one suite's simulator; it runs in a process of its own, since it must render in one thread."""

    def __init__(self, suite: str, size: int, chunk: int, limits: Limits) -> None:
        super().__init__({}, {}, limits)
        self._suite, self._size, self._chunk = suite, size, chunk

    def _make(self, options: SessionOptions) -> "EpisodeVectorEnv":
        from prophet_gym.sims.env import SimulatorVectorEnv

        return SimulatorVectorEnv(
            self._suite,
            starts=options.starts,
            max_episode_steps=options.max_episode_steps,
            autoreset_mode=options.autoreset_mode,
            cameras=options.cameras,
            workers=1,
            size=self._size,
            chunk=self._chunk,
        )


def page_routes(sessions: Sessions, robot: "Embodiment", name: str, beside: str | None = None) -> "Sequence[BaseRoute]":
    """Return the routes of the page: its files, what it must know, clips, and the simulators of all suites."""
    from starlette.responses import FileResponse, JSONResponse, RedirectResponse, Response
    from starlette.routing import Mount, Route, WebSocketRoute
    from starlette.staticfiles import StaticFiles

    from prophet_gym.serve._app import Service, cookie_name
    from prophet_gym.sims.simulator import check_task

    suites = sorted({suite for states in sessions.starts.values() for suite in states.suites}) if beside else []
    for suite in suites:
        simulator = check_task(suite)
        simulator.require(simulator.looks[0])
    service, facts = Service(sessions), about(sessions, robot) | {"name": name, "beside": suites}

    async def index(request: "Request") -> "Response":
        given = request.query_params.get("token")
        if given is None:
            return FileResponse(FILES / "index.html", headers={"Content-Security-Policy": POLICY})
        # The token leaves the address, where others could read it, for a cookie that no script sees.
        answer = RedirectResponse("/")
        answer.set_cookie(cookie_name(request.scope), given, httponly=True, samesite="strict")
        return answer

    async def tell(request: "Request") -> "Response":
        del request
        return JSONResponse(facts)

    async def clip(request: "Request") -> "Response":
        from prophet_gym.serve._app import failed
        from prophet_gym.serve._messages import unpack

        try:
            made = await asyncio.to_thread(encode_clip, unpack(await service.body(request)))
        except Exception as error:
            return failed(error)
        return Response(made, media_type="image/webp")

    size, chunk = facts["frame_size"][0], facts["chunk"]
    simulators = {suite: SimulatorSessions(suite, size, chunk, sessions.limits) for suite in suites}
    sessions.others.extend(simulators.values())
    return [
        Route("/", index),
        Route("/about", tell),
        Route("/clip", clip, methods=["POST"]),
        Mount("/page", StaticFiles(directory=FILES)),
        *(WebSocketRoute(f"/simulator/{suite}", Service(each).talk) for suite, each in simulators.items()),
    ]


def about(sessions: Sessions, robot: "Embodiment") -> dict[str, Any]:
    """Return what the page must know of the robot, the world model and the initial states."""
    from prophet_gym.sims._initial_states import TRAIN_SEED
    from prophet_gym.world_model import ShowsWrist

    parts, bounds = sessions.parts, robot.action_spec
    reward = parts["reward_model"]
    assert robot.rest_action is not None
    return {
        "fps": parts["fps"],
        "chunk": parts["world_model"].chunk,
        "frame_size": list(parts["world_model"].frame_size),
        "low": bounds.low,
        "high": bounds.high,
        "rest": robot.rest_action,
        "longest": LONGEST,
        "gripper": {"open": robot.gripper.open, "closed": robot.gripper.closed},
        "cameras": ["agentview", "wrist"] if isinstance(parts["world_model"], ShowsWrist) else ["agentview"],
        # A reward model of whole episodes must know when they end.
        "horizon": 30 if reward is not None and reward.when == "end" else None,
        "placements": {"train": TRAIN_SEED, "official": 0},
        "starts": {split: [_told(start, robot) for start in states] for split, states in sessions.starts.items()},
    }


def view_of(start: "InitialState", robot: "Embodiment") -> tuple[list[int], list[int]]:
    """Return the directions of the ground, among +-x and +-y, that lead away from the camera and to its right."""
    from prophet_gym.embodiments._embodiment import start_camera
    from prophet_gym.errors import InvalidStartError

    try:
        matrix = start_camera(start, robot)
    except InvalidStartError:  # no calibration is known: as seen from behind the robot
        return [1, 0], [0, -1]
    away, right = matrix[2, :2], matrix[0, :2] - 0.5 * matrix[2, :2]
    axis = int(np.argmax(np.abs(away)))
    units = np.eye(2, dtype=int)
    forth = (units[axis] * int(np.sign(away[axis]))).tolist()
    return forth, (units[1 - axis] * int(np.sign(right[1 - axis]))).tolist()


def encode_clip(message: Mapping[str, Any]) -> bytes:
    """Return an animated WebP of videos side by side, each uint8 (t, h, w, 3); ValueError for anything else."""
    from prophet_gym._io.pictures.panels import side_by_side, write_animation

    given, text, fps = message.get("videos"), str(message.get("text", ""))[:200], message.get("fps")
    videos: Mapping[str, Any] = given if isinstance(given, Mapping) else {}
    shapes = {getattr(video, "shape", None) for video in videos.values()}
    shape = shapes.pop() if len(shapes) == 1 else None
    if shape is None or len(shape) != 4 or shape[3] != 3 or min(shape) < 1 or shape[0] > 1 + LONGEST or shape[1] > 512:
        raise ValueError(f"a clip is of videos of one shape (1 to {1 + LONGEST}, up to 512, width, 3), got {shape}")
    if any(video.dtype != np.uint8 for video in videos.values()) or not isinstance(fps, int) or not 1 <= fps <= 100:
        raise ValueError(f"a clip has uint8 frames, 1 to 100 in a second, got {fps}")
    scale = max(1, round(256 / shape[1]))
    images = [
        side_by_side({label: video[moment] for label, video in videos.items()}, text, scale)
        for moment in range(shape[0])
    ]
    with tempfile.TemporaryDirectory() as folder:
        write_animation(Path(folder) / "clip.webp", images, fps)
        return (Path(folder) / "clip.webp").read_bytes()


def _told(start: "InitialState", robot: "Embodiment") -> dict[str, Any]:
    away, right = view_of(start, robot)
    facts = {name: getattr(start, name) for name in ("instruction", "suite", "task", "index")}
    return facts | {"away": away, "right": right}
