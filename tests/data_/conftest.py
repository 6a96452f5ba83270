"""Data sets of two robots in the layouts in which others publish theirs, a few frames each.

Frame i of episode e has the grey level `grey(e, i)`, action i of episode e is 100 e + i in every number.
"""

import json
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import h5py
import imageio_ffmpeg
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from prophet_gym.data import Episode, Simulation
from prophet_gym.data._recording import simulated_episode

LENGTHS = (9, 6, 12)
FPS = 10
CAMERA = "observation.images.top"
SIZE = (64, 96)


def grey(episode: int, frame: int) -> int:
    return 30 + 60 * episode + 4 * frame


def images(episode: int, count: int) -> np.ndarray:
    """Bright along the top, so that upside down shows; the left half says which frame it is, the right half is red."""
    frames = np.empty((count, *SIZE, 3), np.uint8)
    for index, frame in enumerate(frames):
        frame[:, : SIZE[1] // 2] = grey(episode, index)
        frame[:, SIZE[1] // 2 :] = (200, 40, 40)
        frame[:8] = 250
    return frames


def libero_episode(task: int, steps: int, **simulation) -> Episode:
    """An episode of `libero_object` with random numbers, and success at its end."""
    rng = np.random.default_rng(task)
    return simulated_episode(
        actions=rng.uniform(-1, 1, (steps, 7)).astype(np.float32),
        instruction=f"do task {task}",
        camera=np.eye(3, 4),
        simulation=Simulation(
            gripper_position=rng.normal(size=(steps + 1, 3)).astype(np.float32),
            gripper_quaternion=rng.normal(size=(steps + 1, 4)).astype(np.float32),
            gripper_opening=rng.uniform(0, 0.08, steps + 1).astype(np.float32),
            object_positions=rng.normal(size=(steps + 1, 1, 3)).astype(np.float32),
            object_names=("milk_1",),
            target="milk_1",
            success=np.arange(steps + 1) >= steps,
            init_state=np.zeros(3),
            suite="libero_object",
            task=task,
            mode="noisy",
            seed=0,
            look="light",
            **simulation,
        ),
    )


def actions(episode: int, count: int, width: int = 7) -> np.ndarray:
    return (100 * episode + np.arange(count, dtype=np.float32))[:, None] * np.ones((1, width), np.float32)


def level(frames: np.ndarray) -> np.ndarray:
    """The grey level that each frame shows."""
    height, width = frames.shape[1:3]
    return frames[:, height // 2 :, width // 8 : 3 * width // 8].mean(axis=(1, 2, 3))


def encode(path: Path, frames: np.ndarray, codec: str = "libx264", fps: float = FPS) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    size = f"{frames.shape[2]}x{frames.shape[1]}"
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", size, "-r", str(fps), "-i", "-"]
    target = ["-c:v", codec, "-pix_fmt", "yuv420p", "-g", "4", "-crf", "18", str(path)]
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", *source, *target]
    subprocess.run(command, input=frames.tobytes(), check=True, stderr=subprocess.DEVNULL)


@dataclass
class LeRobotWriter:
    """Writes the two layouts by hand, as lerobot 0.3.3 and 0.4.4 do."""

    root: Path
    codec: str = "libx264"
    dtype: str = "video"
    fps: int = FPS
    lengths: tuple[int, ...] = LENGTHS
    tasks: tuple[str, ...] = ("stack the cups", "open the drawer", "stack the cups")
    changes: dict = field(default_factory=dict)

    def columns(self, episode: int) -> dict:
        count = self.lengths[episode]
        given = {
            "action": actions(episode, count).tolist(),
            "timestamp": (np.arange(count) / self.fps).astype(np.float32),
            "frame_index": np.arange(count),
            "episode_index": np.full(count, episode),
            "task_index": np.full(count, sorted(set(self.tasks)).index(self.tasks[episode])),
        }
        if self.dtype == "image":
            encoded = [cv2.imencode(".png", frame[..., ::-1])[1].tobytes() for frame in images(episode, count)]
            given[CAMERA] = [{"bytes": cell, "path": f"frame-{i:06d}.png"} for i, cell in enumerate(encoded)]
        return given

    def info(self, version: str, data: str, video: str) -> None:
        number = {"dtype": "float32", "shape": [1], "names": None}
        features = {
            "action": {"dtype": "float32", "shape": [7], "names": None},
            CAMERA: {"dtype": self.dtype, "shape": [3, *SIZE], "names": ["channels", "height", "width"]},
            "timestamp": number,
        }
        info = {
            "codebase_version": version,
            "robot_type": "so100",
            "total_episodes": len(self.lengths),
            "total_frames": sum(self.lengths),
            "chunks_size": 2 if version < "v3" else 1000,
            "fps": self.fps,
            "data_path": data,
            "video_path": video if self.dtype == "video" else None,
            "features": features,
        }
        (self.root / "meta").mkdir(parents=True, exist_ok=True)
        (self.root / "meta" / "info.json").write_text(json.dumps({**info, **self.changes}))

    def v2(self) -> Path:
        data = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
        video = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
        self.info("v2.1", data, video)
        lines = []
        for number, (length, task) in enumerate(zip(self.lengths, self.tasks, strict=True)):
            place = {"episode_chunk": number // 2, "episode_index": number, "video_key": CAMERA}
            path = self.root / data.format(**place)
            path.parent.mkdir(parents=True, exist_ok=True)
            parquet.write_table(pa.table(self.columns(number)), path)
            if self.dtype == "video":
                encode(self.root / video.format(**place), images(number, length), self.codec, self.fps)
            lines.append(json.dumps({"episode_index": number, "tasks": [task], "length": length}))
        (self.root / "meta" / "episodes.jsonl").write_text("\n".join(lines) + "\n")
        return self.root

    def v3(self) -> Path:
        """Episodes 0 and 1 share a parquet file and a video, episode 2 has its own."""
        data = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
        video = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"
        self.info("v3.0", data, video)
        rows = []
        for file, members in enumerate([(0, 1), (2,)]):
            place = {"chunk_index": 0, "file_index": file, "video_key": CAMERA}
            path = self.root / data.format(**place)
            path.parent.mkdir(parents=True, exist_ok=True)
            parquet.write_table(pa.concat_tables([pa.table(self.columns(number)) for number in members]), path)
            if self.dtype == "video":
                frames = np.concatenate([images(number, self.lengths[number]) for number in members])
                encode(self.root / video.format(**place), frames, self.codec, self.fps)
            begin = 0
            for number in members:
                end = begin + self.lengths[number]
                row = {"episode_index": number, "tasks": [self.tasks[number]], "length": self.lengths[number]}
                row |= {"data/chunk_index": 0, "data/file_index": file}
                row |= {f"videos/{CAMERA}/chunk_index": 0, f"videos/{CAMERA}/file_index": file}
                row |= {f"videos/{CAMERA}/from_timestamp": begin / self.fps}
                row |= {f"videos/{CAMERA}/to_timestamp": end / self.fps}
                rows.append(row)
                begin = end
        folder = self.root / "meta" / "episodes" / "chunk-000"
        folder.mkdir(parents=True)
        parquet.write_table(pa.Table.from_pylist(rows), folder / "file-000.parquet")
        return self.root


@pytest.fixture
def lerobot(tmp_path):
    """`lerobot(layout, **options)` writes a data set and returns its folder."""

    def write(layout: str = "v3", **options) -> Path:
        return getattr(LeRobotWriter(tmp_path / "set", **options), layout)()

    return write


@pytest.fixture
def libero_file(tmp_path):
    """`libero_file(name)` writes LIBERO's layout: picture i is taken after action i, bottom row first."""

    def write(name: str = "pick_up_the_milk_demo.hdf5", *, upright: bool = False, **attributes) -> Path:
        path = tmp_path / name
        with h5py.File(path, "w") as file:
            data = file.create_group("data")
            settings = {"robots": ["Panda"], "control_freq": 20}
            given = {
                "problem_info": json.dumps({"language_instruction": list('"pick up the milk"')}),
                "env_args": json.dumps({"env_name": "Libero_Floor_Manipulation", "env_kwargs": settings}),
                "macros_image_convention": "opencv" if upright else "opengl",
                **attributes,
            }
            for key, value in given.items():
                if value is not None:
                    data.attrs[key] = value
            for number, length in enumerate(LENGTHS):
                demo = data.create_group(f"demo_{number}")
                demo["actions"] = actions(number, length).astype(np.float64)
                frames = images(number, length)
                demo["obs/agentview_rgb"] = frames if upright else frames[:, ::-1]
                demo["obs/ee_states"] = np.zeros((length, 6))
                demo.attrs["num_samples"] = length
        return path

    return write
