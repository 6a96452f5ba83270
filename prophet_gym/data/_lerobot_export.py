"""Export a recording as a LeRobot data set (layout v3.0), for the many tools that train policies from those.

The layout is that of `LeRobotDataset` in lerobot 0.4.4 (github.com/huggingface/lerobot). Videos are copied, not encoded
again. A LeRobot row is a frame and the action after it, so the image after the last action has no row; it stays,
unread, at the end of the episode's video.
"""

import json
import os
import shutil
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from tqdm import tqdm

from prophet_gym.data._video import decode_frames
from prophet_gym.data.episode import Episode
from prophet_gym.data.recording import list_episodes, read_episode

try:
    import pyarrow as pa
    from pyarrow import parquet
except ImportError as error:
    raise ImportError(
        "LeRobot data sets are parquet; install pyarrow: pip install 'prophet-gym[data]'", name=error.name
    ) from error

CAMERA = "observation.images.agentview"
ACTION_NAMES = ["x", "y", "z", "roll", "pitch", "yaw", "gripper"]
STATE_NAMES = ["x", "y", "z", "qx", "qy", "qz", "qw", "opening"]
FILES_IN_CHUNK = 1000
DATA_PATH = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_PATH = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
_QUANTILES = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}


def export_recording(
    folder: str | os.PathLike, out: str | os.PathLike, *, robot: str = "panda", without: Sequence[str] = ()
) -> int:
    """Write a recording as a LeRobot data set and returns its number of episodes.

    `out` appears whole or not at all; the recording is only read.

    Args:
        folder: What `prophet collect` wrote.
        out: Must not be there yet.
        robot: The `robot_type` to state.
        without: Episodes to leave out, e.g. `task_03/episode_00007`.

    Raises:
        FileNotFoundError: `folder` is no recording.
        UnknownOptionError: It has no such episode.
        ValueError: It holds no episode or starts from official states, or `out` is there already.
    """
    paths, out = list_episodes(folder, without=without), Path(out)
    if not paths:
        raise ValueError(f"{folder} holds no whole episode yet; record some with `prophet collect`")
    if out.exists():
        raise ValueError(f"{out} is there already; give a new folder as --out")
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}-{uuid.uuid4().hex[:8]}")
    try:
        _write(paths, temporary, robot)
        temporary.replace(out)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return len(paths)


def _write(paths: Sequence[Path], out: Path, robot: str) -> None:
    tasks: dict[str, int] = {}
    index: list[dict[str, Any]] = []
    images: list[np.ndarray] = []
    rows: dict[str, list[np.ndarray]] = {}
    begin = 0
    for number, path in enumerate(tqdm(paths, desc="export", unit="episode")):
        episode = read_episode(path)
        task = tasks.setdefault(episode.instruction, len(tasks))
        for name, values in _rows(episode, number, begin, task).items():
            rows.setdefault(name, []).append(values)
        _copy_video(path.with_suffix(".mp4"), out, number)
        images.append(decode_frames(path.with_suffix(".mp4"), len(episode) // 2, 1, fps=episode.fps))
        index.append(_index_row(episode, number, begin))
        begin += len(episode)
    columns = {name: np.concatenate(values) for name, values in rows.items()}
    _write_rows(columns, out / DATA_PATH.format(chunk_index=0, file_index=0))
    meta = out / "meta"
    (meta / "episodes" / "chunk-000").mkdir(parents=True)
    parquet.write_table(pa.Table.from_pylist(index), meta / "episodes" / "chunk-000" / "file-000.parquet")
    _write_tasks(tasks, meta / "tasks.parquet")
    size = images[0].shape[1:3]
    _write_json(_info(len(paths), begin, len(tasks), size, robot=robot, fps=episode.fps), meta / "info.json")
    statistics = {name: _statistics(columns[name]) for name in ("action", "observation.state")}
    statistics[CAMERA] = _picture_statistics(np.concatenate(images))
    _write_json(statistics, meta / "stats.json")


def _write_json(values: Mapping[str, Any], path: Path) -> None:
    path.write_text(json.dumps(values, indent=4) + "\n", encoding="utf-8")


def _rows(episode: Episode, number: int, begin: int, task: int) -> dict[str, np.ndarray]:
    """Return the parquet columns of one episode."""
    steps = len(episode)
    sim = episode.sim
    pose = [sim.gripper_position, sim.gripper_quaternion, sim.gripper_opening[:, None]]
    return {
        "action": episode.actions,
        "observation.state": np.concatenate(pose, axis=1)[:steps].astype(np.float32),
        "next.success": sim.success[1:],
        "timestamp": (np.arange(steps) / episode.fps).astype(np.float32),
        "frame_index": np.arange(steps),
        "episode_index": np.full(steps, number),
        "index": np.arange(begin, begin + steps),
        "task_index": np.full(steps, task),
    }


def _place(number: int) -> dict[str, int]:
    return {"chunk_index": number // FILES_IN_CHUNK, "file_index": number % FILES_IN_CHUNK}


def _copy_video(source: Path, out: Path, number: int) -> None:
    target = out / VIDEO_PATH.format(video_key=CAMERA, **_place(number))
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(source, target)


def _index_row(episode: Episode, number: int, begin: int) -> dict[str, Any]:
    """Return one line of meta/episodes: where the episode's rows and images lie."""
    place = _place(number)
    return {
        "episode_index": number,
        "tasks": [episode.instruction],
        "length": len(episode),
        "data/chunk_index": 0,
        "data/file_index": 0,
        "dataset_from_index": begin,
        "dataset_to_index": begin + len(episode),
        f"videos/{CAMERA}/chunk_index": place["chunk_index"],
        f"videos/{CAMERA}/file_index": place["file_index"],
        f"videos/{CAMERA}/from_timestamp": 0.0,
        f"videos/{CAMERA}/to_timestamp": len(episode) / episode.fps,
        "meta/episodes/chunk_index": 0,
        "meta/episodes/file_index": 0,
    }


def _write_rows(columns: Mapping[str, np.ndarray], path: Path) -> None:
    path.parent.mkdir(parents=True)
    arrays = {}
    for name, values in columns.items():
        flat = pa.array(values.ravel())
        arrays[name] = pa.FixedSizeListArray.from_arrays(flat, values.shape[1]) if values.ndim == 2 else flat
    parquet.write_table(pa.table(arrays), path, row_group_size=4096)


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


def _info(episodes: int, frames: int, tasks: int, size: Sequence[int], *, robot: str, fps: float) -> dict[str, Any]:
    height, width = size
    # lerobot's own sets state whole numbers.
    fps = int(fps) if fps == int(fps) else fps
    video = {"video.height": height, "video.width": width, "video.channels": 3, "video.fps": fps}
    codec = {"video.codec": "h264", "video.pix_fmt": "yuv444p", "video.is_depth_map": False, "has_audio": False}
    number = lambda dtype: {"dtype": dtype, "shape": [1], "names": None}  # noqa: E731
    return {
        "codebase_version": "v3.0",
        "robot_type": robot,
        "total_episodes": episodes,
        "total_frames": frames,
        "total_tasks": tasks,
        "chunks_size": FILES_IN_CHUNK,
        "data_files_size_in_mb": 100,
        "video_files_size_in_mb": 200,
        "fps": fps,
        "splits": {"train": f"0:{episodes}"},
        "data_path": DATA_PATH,
        "video_path": VIDEO_PATH,
        "features": {
            CAMERA: {
                "dtype": "video",
                "shape": [height, width, 3],
                "names": ["height", "width", "channels"],
                "info": {**video, **codec},
            },
            "action": {"dtype": "float32", "shape": [len(ACTION_NAMES)], "names": ACTION_NAMES},
            "observation.state": {"dtype": "float32", "shape": [len(STATE_NAMES)], "names": STATE_NAMES},
            "next.success": number("bool"),
            "timestamp": number("float32"),
            **{name: number("int64") for name in ("frame_index", "episode_index", "index", "task_index")},
        },
    }


def _statistics(values: Float[np.ndarray, "n a"]) -> dict[str, list[float]]:
    """Return what policies normalise with, for each number."""
    wide = values.astype(np.float64)
    quantiles = {name: np.quantile(wide, share, axis=0).tolist() for name, share in _QUANTILES.items()}
    return {
        "min": wide.min(axis=0).tolist(),
        "max": wide.max(axis=0).tolist(),
        "mean": wide.mean(axis=0).tolist(),
        "std": wide.std(axis=0).tolist(),
        "count": [len(wide)],
        **quantiles,
    }


def _picture_statistics(frames: UInt8[np.ndarray, "n h w 3"]) -> dict[str, list[Any]]:
    """Return the same for each colour, 0 to 1, of every episode's middle frame, in lerobot's shape (3, 1, 1)."""
    found = _statistics(frames.reshape(-1, 3) / 255)
    return {name: [len(frames)] if name == "count" else [[[x]] for x in values] for name, values in found.items()}
