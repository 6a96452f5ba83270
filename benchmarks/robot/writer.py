"""Write a data set in lerobot's layout v3.0 without lerobot: a video for each episode and camera, one table of rows."""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from pyarrow import parquet

from prophet_gym._io.atomic import atomic_directory
from prophet_gym.data import _lerobot_export as layout
from prophet_gym.data._video import write_video


class PlainDataset:
    """Take frames as `LeRobotDataset` of lerobot does: `add_frame` for each, `save_episode`, and at last `finalize`.

    Nothing is in the folder before `finalize`. FileExistsError if the folder is there already.
    """

    def __init__(self, root: Path, fps: int, features: Mapping[str, Mapping[str, Any]], robot_type: str):
        if root.exists():
            raise FileExistsError(f"{root} is there already, and a set is written into a new folder")
        self.fps, self.robot_type = fps, robot_type
        self.videos = {name: each["shape"] for name, each in features.items() if each["dtype"] == "video"}
        self.vectors = {name: each for name, each in features.items() if name not in self.videos}
        self._frames: list[Mapping[str, Any]] = []
        self._rows: dict[str, list[np.ndarray]] = defaultdict(list)
        self._images: dict[str, list[np.ndarray]] = defaultdict(list)  # of each episode one
        self._index: list[dict[str, Any]] = []
        self._tasks: dict[str, int] = {}
        self._open = ExitStack()
        self._folder = self._open.enter_context(atomic_directory(root, last="meta"))

    def __enter__(self) -> "PlainDataset":
        return self

    def __exit__(self, *error: object) -> None:
        self._open.__exit__(*error)  # type: ignore[arg-type]

    def add_frame(self, frame: Mapping[str, Any]) -> None:
        """Keep a frame of the current episode."""
        self._frames.append(frame)

    def save_episode(self) -> None:
        """Write the videos of the frames since the last episode, and keep their numbers."""
        frames, number, steps = self._frames, len(self._index), len(self._frames)
        self._frames, words = [], frames[0]["task"]
        begin = self._index[-1]["dataset_to_index"] if self._index else 0
        for name in self.vectors:
            self._rows[name].append(np.stack([frame[name] for frame in frames]))
        counted = {
            "timestamp": (np.arange(steps) / self.fps).astype(np.float32),
            "frame_index": np.arange(steps),
            "episode_index": np.full(steps, number),
            "index": np.arange(begin, begin + steps),
            "task_index": np.full(steps, self._tasks.setdefault(words, len(self._tasks))),
        }
        for name, values in counted.items():
            self._rows[name].append(values)
        place = dict(zip(("chunk_index", "file_index"), divmod(number, layout._FILES_IN_CHUNK), strict=True))
        for name in self.videos:
            images = np.stack([frame[name] for frame in frames])
            path = self._folder / layout._VIDEO_PATH.format(video_key=name, **place)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_video(path, images, self.fps)
            self._images[name].append(images[steps // 2])
        seconds = {"from_timestamp": 0.0, "to_timestamp": steps / self.fps}
        self._index.append(
            {
                "episode_index": number,
                "tasks": [words],
                "length": steps,
                "dataset_from_index": begin,
                "dataset_to_index": begin + steps,
                **{f"videos/{name}/{key}": value for name in self.videos for key, value in (place | seconds).items()},
                **{f"{part}/{name}_index": 0 for part in ("data", "meta/episodes") for name in ("chunk", "file")},
            }
        )

    def finalize(self) -> None:
        """Write the table of rows and what describes the set."""
        columns = {name: np.concatenate(values) for name, values in self._rows.items()}
        columns |= {name: columns[name][:, 0] for name, each in self.vectors.items() if tuple(each["shape"]) == (1,)}
        data, meta = self._folder / layout._DATA_PATH.format(chunk_index=0, file_index=0), self._folder / "meta"
        data.parent.mkdir(parents=True)
        parquet.write_table(pa.table({name: layout._column(each) for name, each in columns.items()}), data)
        (meta / "episodes" / "chunk-000").mkdir(parents=True)
        parquet.write_table(pa.Table.from_pylist(self._index), meta / "episodes" / "chunk-000" / "file-000.parquet")
        layout._write_tasks(self._tasks, meta / "tasks.parquet")
        wide = [name for name, values in columns.items() if values.ndim == 2]
        statistics = {name: layout._statistics(columns[name]) for name in wide}
        for name, images in self._images.items():
            statistics[name] = _of_colours(images)
        for name, values in (("info", self._info(columns)), ("stats", statistics)):
            (meta / f"{name}.json").write_text(json.dumps(values, indent=4) + "\n", encoding="utf-8")
        self._open.close()

    def _info(self, columns: Mapping[str, np.ndarray]) -> dict[str, Any]:
        videos = {name: layout._video_feature(shape[:2], self.fps) for name, shape in self.videos.items()}
        vectors = {name: {**each, "shape": list(each["shape"])} for name, each in self.vectors.items()}
        counted = {
            name: {"dtype": str(values.dtype), "shape": [1], "names": None}
            for name, values in columns.items()
            if name not in vectors
        }
        return {
            "codebase_version": "v3.0",
            "robot_type": self.robot_type,
            "total_episodes": len(self._index),
            "total_frames": len(columns["index"]),
            "total_tasks": len(self._tasks),
            "chunks_size": layout._FILES_IN_CHUNK,
            "data_files_size_in_mb": 100,
            "video_files_size_in_mb": 200,
            "fps": self.fps,
            "splits": {"train": f"0:{len(self._index)}"},
            "data_path": layout._DATA_PATH,
            "video_path": layout._VIDEO_PATH,
            "features": {**videos, **vectors, **counted},
        }


def _of_colours(images: Sequence[np.ndarray]) -> dict[str, Any]:
    """Return statistics of each colour, 0 to 1, in lerobot's shape (3, 1, 1)."""
    found = layout._statistics(np.stack(images).reshape(-1, 3) / 255) | {"count": [len(images)]}
    return {name: value if name == "count" else [[[x]] for x in value] for name, value in found.items()}
