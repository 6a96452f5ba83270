"""Export a recording as a LeRobot data set (layout v3.0), for the many tools that train policies from those.

The layout is that of `LeRobotDataset` in lerobot 0.4.4 (github.com/huggingface/lerobot). Videos of one camera are
copied, not encoded again; those of two are mirrored, as published sets of LIBERO are. A LeRobot row is a frame and the
action after it, so the image after the last action has no row; it stays, unread, at the end of the episode's video.
"""

import json
import os
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from jaxtyping import Float, UInt8
from pyarrow import parquet

from prophet_gym._io.atomic import atomic_directory
from prophet_gym._io.progress import progress
from prophet_gym.data._episode import Episode
from prophet_gym.data._recording import EXPORTED, is_bundled, list_episodes, read_episode, read_meta, recorded_facts
from prophet_gym.data._video import write_video
from prophet_gym.embodiments import get_embodiment
from prophet_gym.specs import FIRST_CAMERA, STATE_NAMES, WRIST_CAMERA

CAMERA = "observation.images.agentview"
POSE_NAMES = ["x", "y", "z", "qx", "qy", "qz", "qw", "opening"]
"""State in the export of one camera: position and orientation of the hand, and the distance of the fingers."""
BOTH_CAMERAS = {"observation.images.image": FIRST_CAMERA, "observation.images.image2": WRIST_CAMERA}
"""Features of the published `lerobot/libero`, which lerobot's own env of LIBERO has too, and the cameras in them."""
_FILES_IN_CHUNK = 1000
_DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
_VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"


def export_recording(folder: str | os.PathLike, out: str | os.PathLike, *, without: Sequence[str] = ()) -> int:
    """Write a recording as a LeRobot data set and return its number of episodes.

    One of two cameras becomes what `lerobot/libero` is: the features of `BOTH_CAMERAS`, whose images are mirrored, and
    a state of `specs.STATE_NAMES`. ValueError where only some of its episodes have two. The recording is only read.
    `out` must not be there yet, and after an error it is not there. Of official initial
    states only the bundled recording is exported, to show what an export is; its data set is known by the recording's
    meta.json, which is kept, and is not trained on here either.
    """
    paths, out = list_episodes(folder, evaluating=is_bundled(folder), without=without), Path(out)
    if not paths:
        raise ValueError(f"{folder} holds no whole episode yet; record some with `prophet collect`")
    if out.exists():
        raise ValueError(f"{out} is there already; give a new folder as --out")
    with atomic_directory(out, last="meta") as temporary:
        _write(paths, temporary)
        (temporary / EXPORTED).write_text(json.dumps(read_meta(folder), indent=2) + "\n", encoding="utf-8")
    return len(paths)


def reading_of(out: str | os.PathLike, episode: Episode) -> str:
    """Return the name of an export, written to `out`, that also says where its tools are: episode is one of it."""
    two = len(episode.cameras) > 1
    camera = f"{next(iter(BOTH_CAMERAS))},orient=columns_reversed" if two else CAMERA
    # The state of two cameras has each finger's distance from the middle.
    numbers, width = ("xyz+rotation_vector+gripper+skip", 0.5) if two else ("xyz+quaternion+gripper", 1.0)
    width *= recorded_facts(episode.robot)[1]
    return f"{out},camera={camera},state=observation.state,numbers={numbers},open={width:g}"


def _write(paths: Sequence[Path], out: Path) -> None:
    tasks: dict[str, int] = {}
    index: list[dict[str, Any]] = []
    rows: dict[str, list[np.ndarray]] = defaultdict(list)
    images: dict[str, list[np.ndarray]] = defaultdict(list)
    begin = 0
    for number, path in enumerate(progress(paths, "export", unit="episode")):
        episode = read_episode(path)
        cameras = {CAMERA: FIRST_CAMERA} if len(episode.cameras) == 1 else BOTH_CAMERAS
        if number and set(cameras) != set(images):
            raise ValueError(
                f"all episodes must have the same cameras, and {path} has {', '.join(episode.cameras)}: leave it out "
                "(--without), or export recordings of one and of two cameras apart"
            )
        task = tasks.setdefault(episode.instruction, len(tasks))
        for name, values in _rows(episode, number, begin, task).items():
            rows[name].append(values)
        place = {"chunk_index": number // _FILES_IN_CHUNK, "file_index": number % _FILES_IN_CHUNK}
        for feature in cameras:
            video = out / _VIDEO_PATH.format(video_key=feature, **place)
            video.parent.mkdir(parents=True, exist_ok=True)
            images[feature].append(_write_video(path, episode, cameras, feature, video))
        place |= {"from_timestamp": 0.0, "to_timestamp": len(episode) / episode.fps}
        index.append(
            {
                "episode_index": number,
                "tasks": [episode.instruction],
                "length": len(episode),
                "dataset_from_index": begin,
                "dataset_to_index": begin + len(episode),
                **{f"videos/{feature}/{name}": value for feature in cameras for name, value in place.items()},
                **{f"{part}/{name}_index": 0 for part in ("data", "meta/episodes") for name in ("chunk", "file")},
            }
        )
        begin += len(episode)
    columns = {name: np.concatenate(values) for name, values in rows.items()}
    data, meta = out / _DATA_PATH.format(chunk_index=0, file_index=0), out / "meta"
    data.parent.mkdir(parents=True)
    info = _info(episode, {feature: parts[0].shape[1:3] for feature, parts in images.items()})
    table = {name: _column(columns[name]) for name in info["features"] if name in columns}
    parquet.write_table(pa.table(table), data, row_group_size=4096)
    (meta / "episodes" / "chunk-000").mkdir(parents=True)
    parquet.write_table(pa.Table.from_pylist(index), meta / "episodes" / "chunk-000" / "file-000.parquet")
    _write_tasks(tasks, meta / "tasks.parquet")
    totals = {"total_episodes": len(paths), "total_frames": begin, "total_tasks": len(tasks)}
    info |= totals | {"splits": {"train": f"0:{len(paths)}"}}
    statistics = {name: _statistics(columns[name]) for name in ("action", "observation.state")}
    # Images have theirs for each colour, 0 to 1, of every episode's middle frame, in lerobot's shape (3, 1, 1).
    for feature, parts in images.items():
        colours = _statistics(np.concatenate(parts).reshape(-1, 3) / 255) | {"count": [len(parts)]}
        statistics[feature] = {n: v if n == "count" else [[[x]] for x in v] for n, v in colours.items()}
    for name, values in (("info", info), ("stats", statistics)):
        (meta / f"{name}.json").write_text(json.dumps(values, indent=4) + "\n", encoding="utf-8")


def _write_video(
    path: Path, episode: Episode, cameras: Mapping[str, str], feature: str, out: Path
) -> UInt8[np.ndarray, "1 h w 3"]:
    """Write an episode's video of a feature and return its middle frame."""
    middle = slice(len(episode) // 2, len(episode) // 2 + 1)
    if feature == CAMERA:
        shutil.copyfile(path.with_suffix(".mp4"), out)
        return episode.frames(middle.start, middle.stop)
    # Published images are what LIBERO draws upside down, turned by 180 degrees: left and right are exchanged.
    frames = episode.frames(camera=cameras[feature])[:, :, ::-1]
    write_video(out, frames, episode.fps)
    return frames[middle]


def _rows(episode: Episode, number: int, begin: int, task: int) -> dict[str, np.ndarray]:
    """Return the parquet columns of one episode."""
    steps, sim = len(episode), episode.sim
    pose = [sim.gripper_position, sim.gripper_quaternion, sim.gripper_opening[:, None]]
    state = np.concatenate(pose, axis=1) if sim.robot_state is None else sim.robot_state
    return {
        "action": episode.actions,
        "observation.state": state[:steps].astype(np.float32),
        "next.success": sim.success[1:],
        "timestamp": (np.arange(steps) / episode.fps).astype(np.float32),
        "frame_index": np.arange(steps),
        "episode_index": np.full(steps, number),
        "index": np.arange(begin, begin + steps),
        "task_index": np.full(steps, task),
    }


def _column(values: np.ndarray) -> pa.Array:
    flat = pa.array(values.ravel())
    return pa.FixedSizeListArray.from_arrays(flat, values.shape[1]) if values.ndim == 2 else flat


def _write_tasks(tasks: Mapping[str, int], path: Path) -> None:
    """Write the task table as pandas does, with the words as its index; the metadata tells pandas so."""
    column = {"field_name": "task_index", "name": "task_index", "pandas_type": "int64", "numpy_type": "int64"}
    words = {"field_name": "__index_level_0__", "name": None, "pandas_type": "unicode", "numpy_type": "object"}
    note = {
        "index_columns": ["__index_level_0__"],
        "column_indexes": [],
        "columns": [{**column, "metadata": None}, {**words, "metadata": None}],
        "pandas_version": "2.0.0",
    }
    table = pa.table({"task_index": pa.array(tasks.values(), pa.int64()), "__index_level_0__": pa.array(tasks)})
    parquet.write_table(table.replace_schema_metadata({b"pandas": json.dumps(note).encode()}), path)


def _info(episode: Episode, sizes: Mapping[str, tuple[int, ...]]) -> dict[str, Any]:
    """Return what info.json says of the data set besides its totals; all its episodes are of one robot."""
    # lerobot's own sets state whole rates as whole numbers.
    fps = int(episode.fps) if episode.fps.is_integer() else episode.fps
    states = POSE_NAMES if CAMERA in sizes else list(STATE_NAMES)
    vectors = {"action": list(get_embodiment(episode.robot).action_spec.names), "observation.state": states}
    # The order of the columns is that of `lerobot/libero`, where there are two cameras.
    order = tuple(vectors) if CAMERA in sizes else ("observation.state", "action")
    vector = lambda names: {"dtype": "float32", "shape": [len(names)], "names": names}  # noqa: E731
    number = lambda dtype: {"dtype": dtype, "shape": [1], "names": None}  # noqa: E731
    return {
        "codebase_version": "v3.0",
        "robot_type": "panda",
        "chunks_size": _FILES_IN_CHUNK,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": fps,
        "data_path": _DATA_PATH,
        "video_path": _VIDEO_PATH,
        "features": {
            **{feature: _video_feature(size, fps) for feature, size in sizes.items()},
            **{name: vector(vectors[name]) for name in order},
            "next.success": number("bool"),
            "timestamp": number("float32"),
            **{name: number("int64") for name in ("frame_index", "episode_index", "index", "task_index")},
        },
    }


def _video_feature(size: tuple[int, ...], fps: float | int) -> dict[str, Any]:
    height, width = size
    video = {"video.height": height, "video.width": width, "video.channels": 3, "video.fps": fps}
    codec = {"video.codec": "h264", "video.pix_fmt": "yuv444p", "video.is_depth_map": False, "has_audio": False}
    names = ["height", "width", "channels"]
    return {"dtype": "video", "shape": [height, width, 3], "names": names, "info": {**video, **codec}}


def _statistics(values: Float[np.ndarray, "n a"]) -> dict[str, list[Any]]:
    """Return what policies normalise with, for each number."""
    wide = values.astype(np.float64)
    moments = {"min": wide.min(axis=0), "max": wide.max(axis=0), "mean": wide.mean(axis=0), "std": wide.std(axis=0)}
    quantiles = {f"q{part:02d}": np.quantile(wide, part / 100, axis=0) for part in (1, 10, 50, 90, 99)}
    return {name: value.tolist() for name, value in (moments | quantiles).items()} | {"count": [len(wide)]}
