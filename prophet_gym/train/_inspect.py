"""`prophet inspect`: what a data set has, what it lacks, and what would be trained on it."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import tyro
from jaxtyping import Float

from prophet_gym._arguments import Arguments, Count
from prophet_gym._io.progress import progress
from prophet_gym.data._episode import ByRows, Episode, EpisodeSource, SeveralCameras
from prophet_gym.data._lerobot import LeRobotSource, camera_features
from prophet_gym.data._mixture import kind_named, read_mixture_entry, split_named
from prophet_gym.data._recording import is_official
from prophet_gym.data._stacked import PREFIX, StackedSource, names_of
from prophet_gym.data._windows import as_given
from prophet_gym.embodiments import Robot, get_robot
from prophet_gym.errors import UnknownOptionError

_SHOWN = 12  # tasks and dimensions that the page lists; JSON has all
_CONDITIONS = {
    "SmallProphet": "actions, the tracked gripper, action frames",
    "TwoViewProphet": "actions, the tracked hand, action frames, the first frame; needs --cameras agentview wrist",
    "ActionProphet": "actions (normalised), the first frame",
}
_LACKS = {
    "camera matrix": "no action frames are drawn; for joint positions --urdf and --calibration of prophet train say it",
    "tool poses": "no gripper is tracked",
    "success": "prophet train-reward has nothing to learn from; reward='vlm:...' scores dreams without it",
    "names of the action's dimensions": "they are numbered",
}
_LACKS_FULL = _LACKS | {
    "camera matrix": "no action frames are drawn",
    "tool poses": "no action frames are drawn, and actions that depend on where the tool is cannot be read",
    "success": "prophet pretrain does not ask for it",
}
"""What is said of data that only the full Prophet is trained on."""


@dataclass(frozen=True)
class Args(Arguments):
    """Say what a data set has and lacks, and what `prophet train` would make of it; no image but the first is read."""

    path: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="PATH")]
    """LeRobot data set (a folder, or `lerobot:owner/repo`), a recording of ours (`bundled` is one), or another
    reader's files as `prophet pretrain` names them: `rlds:FOLDER`, `agibot:FOLDER`, `droid:FOLDER`, `bridge:FOLDER`,
    `libero:FILE`."""
    max_episodes: Count | None = None
    """Read the actions of so many episodes alone, the first; all by default, which takes long for large sets."""


def main(args: Args) -> dict[str, Any]:
    """Print what there is to say."""
    found = inspected(args.path, args.max_episodes)
    print(page(found))
    return found


def inspected(path: str, most: int | None = None) -> dict[str, Any]:
    """Return what a data set has and lacks as plain data; ranges and lengths are those of the first `most` episodes."""
    kind, given = kind_named(path)
    if kind == "lerobot" and "camera" not in given:
        source = StackedSource(PREFIX + path.removeprefix(PREFIX), [], evaluating=True)
        return _facts(kind, source, _of_lerobot(source), most) | {"starts": _starts(source.root)}
    source = read_mixture_entry(path, {"given": as_given}, evaluating=True).source
    told = _of_cameras(source) if isinstance(source, SeveralCameras) else {}
    return _facts(kind, source, told, most) | {"starts": _starts(split_named(path)[1])}


def _starts(folder: Path) -> str | None:
    """Return `official` for a data set that is not trained on, None for others."""
    return "official" if folder.is_dir() and is_official(folder) else None


def _rows(source: EpisodeSource) -> int | None:
    """Return how many rows hold a data set's actions, where each episode's last one is left out; None where none is."""
    source = source.first if isinstance(source, StackedSource) else source
    if isinstance(source, LeRobotSource):
        return sum(entry.rows for entry in source.entries)
    return sum(source.rows) if isinstance(source, ByRows) else None


def _of_cameras(source: SeveralCameras) -> dict[str, Any]:
    """Return the size of every camera's first image, where there is an episode."""
    views = source.views if len(source) else ()
    looks = {name: source.looking_through(name) for name in views}
    return {"cameras": {name: list(look.episode(0).frames(0, 1).shape[1:3]) for name, look in looks.items()}}


def _of_lerobot(source: StackedSource) -> dict[str, Any]:
    """Return what only the features of a LeRobot data set say."""
    features = source.first.features
    shapes: dict[str, Any] = {}
    for name in camera_features(source.root):
        camera = LeRobotSource(source.root, name)
        shapes[name] = list(camera.episode(0).frames(0, 1).shape[1:3])
    states: dict[str, Any] = {}
    for name, each in features.items():
        if name.startswith("observation.") and name not in shapes and each["dtype"] != "string":
            values = np.concatenate([source.first.numbers(index, name) for index in range(len(source))])
            names = names_of(each) or [str(number) for number in range(values.shape[1])]
            states[name] = _ranges(names, values)
    return {"cameras": shapes, "states": states, "names": source.action_names, "layout": source.layout}


def _facts(kind: str, source: EpisodeSource, told: Mapping[str, Any], most: int | None = None) -> dict[str, Any]:
    whole = [index for index in range(len(source)) if source.steps(index)]
    episodes = [source.episode(index) for index in progress(whole[:most], "read", unit="episode", passing=True)]
    if not episodes:
        raise ValueError("the data set must have an episode with an action and the frames around it, and has none")
    first, lengths = episodes[0], [len(episode) for episode in episodes]
    cameras = told.get("cameras") or {name: list(first.frames(0, 1, camera=name).shape[1:3]) for name in first.cameras}
    actions = np.concatenate([episode.actions for episode in episodes])
    labelled = [episode for episode in episodes if episode.success is not None or episode.simulation is not None]
    robot = _robot(first, told.get("names"), actions)
    lacking = {
        "camera matrix": first.camera is None,
        "tool poses": first.tools is None,
        "success": not labelled,
        "names of the action's dimensions": "names" in told and told["names"] is None,
    }
    return {
        "kind": kind,
        "layout": told.get("layout"),
        "robot": first.robot,
        "episodes": len(whole),
        "steps": sum(map(source.steps, whole)),
        "rows": _rows(source),
        "length": {"shortest": min(lengths), "median": int(np.median(lengths)), "longest": max(lengths)},
        "fps": first.fps,
        "cameras": cameras,
        "action": _ranges(robot.action_spec.names, actions),
        "states": told.get("states", {}),
        "tasks": dict(Counter(episode.instruction for episode in episodes).most_common()),
        "success": {"labelled": len(labelled), "successful": sum(bool(each.done.any()) for each in labelled)},
        "missing": [name for name, is_missing in lacking.items() if is_missing],
        "trains": _trained(kind, source, first, robot),
    }


def _robot(episode: Episode, names: Sequence[str] | None, actions: Float[np.ndarray, "n a"]) -> Robot:
    """Return the robot that an episode names, if its actions are of such width, or one as the data describe it."""
    from prophet_gym.train._robot import described_robot

    try:
        robot = get_robot(episode.robot)
    except UnknownOptionError:
        robot = None
    if names is None and robot is not None and robot.action_spec.dim == actions.shape[1]:
        return robot
    return described_robot(episode.robot, names, actions, episode.fps)


def _ranges(names: Sequence[str], values: Float[np.ndarray, "n a"]) -> list[dict[str, Any]]:
    rows = zip(names, *(bound.tolist() for bound in (values.min(axis=0), values.max(axis=0))), strict=True)
    return [{"name": name, "low": low, "high": high} for name, low, high in rows]


def _trained(kind: str, source: EpisodeSource, episode: Episode, robot: Robot) -> dict[str, Any] | None:
    """Return the class, its inputs and its size; None where only the full Prophet trains on such data."""
    # Imported where they are needed: neither help nor a refusal should wait for them.
    from prophet_gym.prophet import ActionConfig, small_transformer
    from prophet_gym.prophet._autoencoder import FrameAutoencoder
    from prophet_gym.prophet._gripper import GripperTracker
    from prophet_gym.prophet._presets import action_transformer

    # Of a LeRobot data set that names its camera, as `prophet pretrain` takes it, `prophet train` reads nothing.
    if kind != "recording" and not isinstance(source, StackedSource):
        return None
    dim = robot.action_spec.dim
    with torch.device("meta"):
        networks: list[Any] = [FrameAutoencoder()]
        if isinstance(source, StackedSource):
            size, name = source.size, "ActionProphet"
            numbers: dict[str, Any] = {"action_mean": (0.0,) * dim, "action_std": (1.0,) * dim}
            spec = robot.action_spec
            bounds = {"action_names": spec.names, "action_low": spec.low, "action_high": spec.high}
            config = ActionConfig(action_dim=dim, frame_size=size, **numbers, **bounds)
            networks += [action_transformer(config)]
        else:
            size, views = episode.frames(0, 1).shape[1:3], len(episode.cameras)
            name, cells = ("SmallProphet", "TwoViewProphet")[views > 1], (views * size[0] // 8, size[1] // 8)
            moments: dict[str, Any] = {"gripper_mean": (0.0,) * (4 * views), "gripper_std": (1.0,) * (4 * views)}
            tracker = GripperTracker(latent_size=cells, action_dim=dim, window=7, views=views, **moments)
            networks += [small_transformer(action_dim=dim, views=views), tracker]
    count = sum(parameter.numel() for network in networks for parameter in network.parameters())
    return {"class": name, "conditioning": _CONDITIONS[name], "parameters": count, "frame_size": list(size)}


def page(found: Mapping[str, Any]) -> str:
    """Return one page of text."""
    length, success, trained = found["length"], found["success"], found["trains"]
    cameras = ", ".join(f"{name} {height}x{width}" for name, (height, width) in found["cameras"].items())
    lacks = _LACKS_FULL if trained is None else _LACKS
    outcome = f"{success['successful']} of {success['labelled']} labelled episodes succeed"
    lines = [
        f"{found['kind']}{(found['layout'] and ' ' + found['layout']) or ''}, robot {found['robot']}",
        f"episodes  {found['episodes']}, {found['steps']} actions; length {length['shortest']} .. {length['longest']}, "
        f"median {length['median']}; {found['fps']:g} a second",
        *_told_rows(found),
        f"cameras   {cameras}",
        f"success   {outcome if success['labelled'] else 'not said'}",
        f"action    {len(found['action'])} dimensions",
        *_table(found["action"]),
        *(line for name, rows in found["states"].items() for line in (f"state     {name}", *_table(rows))),
        f"tasks     {len(found['tasks'])}",
        *_some([f"{count:>5} x {task}" for task, count in found["tasks"].items()]),
        *(f"missing   {name}: {lacks[name]}" for name in found["missing"]),
    ]
    if found["starts"] is not None:
        return "\n".join([*lines, "trains    nothing: its initial states are official ones, for evaluation alone"])
    if trained is None:
        told = "the full Prophet alone: prophet pretrain --data PATH"
        if found["kind"] == "lerobot":
            told = "the full Prophet, by this name: prophet pretrain --data PATH; without camera= see prophet train"
        return "\n".join([*lines, f"trains    {told}"])
    height, width = trained["frame_size"]
    told = f"{trained['class']}, {trained['parameters']:,} parameters, {height}x{width} pixels a camera"
    return "\n".join([*lines, f"trains    {told}", f"  it reads {trained['conditioning']}"])


def _told_rows(found: Mapping[str, Any]) -> list[str]:
    """Say why there are fewer actions than rows, where there are."""
    if found["rows"] in (None, found["steps"]):
        return []
    return [f"rows      {found['rows']}: an episode's last action is left out, for no frame shows what came of it"]


def _table(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    return _some([f"{row['name']:<24} {row['low']:>10.4g} .. {row['high']:.4g}" for row in rows])


def _some(lines: Sequence[str]) -> list[str]:
    rest = [f"  ... and {len(lines) - _SHOWN} more (--json has them)"] if len(lines) > _SHOWN else []
    return [*(f"  {line}" for line in lines[:_SHOWN]), *rest]
