"""Damaged data sets: every one is read right, or refused with an error that names the file.

Small sets of each kind are written once; a case copies one, damages it in one place and reads all that is in it.
"""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import h5py
import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from prophet_gym.data import LIBERO, Episode, EpisodeSource, Hdf5Source, LeRobotSource, Simulation, ToolReading
from prophet_gym.data._latents import LatentEpisodes
from prophet_gym.data._recording import META, RecordingSource, episode_path, simulated_episode, write_episode
from prophet_gym.data._video import write_video

CAMERA = "observation.images.top"
LENGTHS = (6, 4)
FPS = 20
SIZE = (32, 48)
STATES = ToolReading(("observation.state",), ("xyz", "euler", "gripper"))
JUNK = (None, float("nan"), float("inf"), -1, 0, 1e300, 2**70, 0.5, True, "", "x", "../x", [], [1], {}, {"a": None})


def images(episode: int, count: int) -> np.ndarray:
    frames = np.full((count, *SIZE, 3), 40 + 60 * episode, np.uint8)
    for index, frame in enumerate(frames):
        frame[:, : 4 + 4 * index] = 220
    return frames


def numbers(episode: int, count: int, width: int = 7) -> np.ndarray:
    return np.float32(0.1 * episode + 0.01 * np.arange(count))[:, None] * np.ones((1, width), np.float32)


def write_recording(root: Path) -> None:
    root.mkdir()
    (root / META).write_text(json.dumps({"suite": "libero_object", "look": "light", "starts": "random"}))
    for number, steps in enumerate(LENGTHS):
        frames = steps + 1
        episode = simulated_episode(
            actions=numbers(number, steps),
            instruction="lift the can",
            camera=np.eye(3, 4),
            simulation=Simulation(
                gripper_position=numbers(number, frames, 3),
                gripper_quaternion=np.tile(np.float32([0, 0, 0, 1]), (frames, 1)),
                gripper_opening=np.full(frames, 0.04, np.float32),
                object_positions=np.zeros((frames, 1, 3), np.float32),
                object_names=("can",),
                target="can",
                success=np.zeros(frames, bool),
                init_state=np.zeros(3),
                suite="libero_object",
                task=0,
                mode="expert",
                seed=number,
                look="light",
            ),
        )
        write_episode(episode_path(root, 0, number), episode, images(number, frames))


def rows(number: int, *, stored: bool) -> dict:
    count = LENGTHS[number]
    columns = {
        "action": numbers(number, count).tolist(),
        "observation.state": numbers(number, count).tolist(),
        "timestamp": (np.arange(count) / FPS).astype(np.float32),
        "episode_index": np.full(count, number),
    }
    if stored:
        encoded = [cv2.imencode(".png", frame)[1].tobytes() for frame in images(number, count)]
        columns[CAMERA] = [{"bytes": cell, "path": None} for cell in encoded]
    return columns


def write_lerobot(root: Path, version: str, *, stored: bool) -> None:
    third = version.startswith("v3")
    chunk = "chunk_index" if third else "episode_chunk"
    file = "file_index" if third else "episode_index"
    data, video = (f"{kind}/{{{chunk}}}-{{{file}:03d}}.{end}" for kind, end in [("data", "parquet"), ("films", "mp4")])
    features = {name: {"dtype": "float32"} for name in ("action", "observation.state", "timestamp")}
    features[CAMERA] = {"dtype": "image" if stored else "video"}
    info = {"codebase_version": version, "fps": FPS, "total_episodes": 2, "chunks_size": 10, "robot_type": "arm"}
    info |= {"data_path": data, "video_path": None if stored else video, "features": features}
    for folder in ("meta/episodes/chunk-000", "data", "films"):
        (root / folder).mkdir(parents=True)
    (root / "meta/info.json").write_text(json.dumps(info))
    tables = [pa.table(rows(number, stored=stored)) for number in range(2)]
    lines = [{"episode_index": number, "length": LENGTHS[number], "tasks": ["lift"]} for number in range(2)]
    if third:
        parquet.write_table(pa.concat_tables(tables), root / "data/0-000.parquet")
        begin = 0.0
        for line in lines:
            line |= {"data/chunk_index": 0, "data/file_index": 0}
            if not stored:
                place = {"chunk_index": 0, "file_index": 0, "from_timestamp": begin}
                begin += line["length"] / FPS
                place["to_timestamp"] = begin
                line |= {f"videos/{CAMERA}/{name}": value for name, value in place.items()}
        parquet.write_table(pa.Table.from_pylist(lines), root / "meta/episodes/chunk-000/file-000.parquet")
        if not stored:
            write_video(root / "films/0-000.mp4", np.concatenate([images(n, LENGTHS[n]) for n in range(2)]), 20)
        return
    (root / "meta/episodes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    for number, table in enumerate(tables):
        parquet.write_table(table, root / f"data/0-{number:03d}.parquet")
        if not stored:
            write_video(root / f"films/0-{number:03d}.mp4", images(number, LENGTHS[number]), 20)


def write_hdf5(root: Path) -> None:
    root.mkdir()
    with h5py.File(root / "demo.hdf5", "w") as file:
        data = file.create_group("data")
        data.attrs["env_args"] = json.dumps({"env_kwargs": {"control_freq": FPS, "robots": ["Panda"]}})
        data.attrs["problem_info"] = json.dumps({"language_instruction": "lift"})
        data.attrs["macros_image_convention"] = "opengl"
        for number, count in enumerate(LENGTHS):
            data[f"demo_{number}/actions"] = numbers(number, count).astype(np.float64)
            data[f"demo_{number}/obs/agentview_rgb"] = images(number, count)[:, ::-1]
            data[f"demo_{number}/obs/pose"] = numbers(number, count).astype(np.float64)
        file["mask/train"] = np.array([b"demo_0", b"demo_1"])


def write_latents(root: Path) -> None:
    root.mkdir()
    count = sum(LENGTHS) + len(LENGTHS)
    starts = np.cumsum([0, *(length + 1 for length in LENGTHS)], dtype=np.int64)
    latents = np.zeros((count, 4, 2, 2), np.float16)
    LatentEpisodes(latents, numbers(0, count), numbers(0, count, 4), starts).save(root / "latents.npz")


def lerobot(root: Path) -> EpisodeSource:
    return LeRobotSource(root, CAMERA, tools=STATES)


def hdf5(root: Path) -> EpisodeSource:
    pose = ToolReading(("pose",), ("xyz", "euler", "gripper"))
    return Hdf5Source(root / "demo.hdf5", LIBERO, split="train", tools=pose)


KINDS: dict[str, tuple[Callable[[Path], None], Callable[[Path], EpisodeSource]]] = {
    "recording": (write_recording, RecordingSource),
    "v2": (lambda root: write_lerobot(root, "v2.1", stored=False), lerobot),
    "v3": (lambda root: write_lerobot(root, "v3.0", stored=False), lerobot),
    "v3_stored": (lambda root: write_lerobot(root, "v3.0", stored=True), lerobot),
    "hdf5": (write_hdf5, hdf5),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> dict[str, Path]:
    """Undamaged sets, by kind."""
    root = tmp_path_factory.mktemp("sets")
    for name, (write, _) in {**KINDS, "latents": (write_latents, None)}.items():
        write(root / name)
    return {name: root / name for name in [*KINDS, "latents"]}


def read_all(source: EpisodeSource) -> None:
    """Read every episode whole, as training does, and check that it is sane."""
    for index in range(len(source)):
        episode = source.episode(index)
        assert len(episode) == source.steps(index)
        check(episode)


def check(episode: Episode) -> None:
    assert episode.actions.dtype == np.float32
    assert np.isfinite(episode.actions).all()
    assert 0 < episode.fps < np.inf
    assert isinstance(episode.instruction, str)
    assert isinstance(episode.robot, str)
    frames = episode.frames(0, len(episode) + 1)
    assert frames.dtype == np.uint8
    assert frames.shape[0] == len(episode) + 1
    assert frames.shape[3] == 3
    assert episode.tools is not None
    assert episode.tools.dtype == np.float32
    assert np.isfinite(episode.tools).all()


def damage_bytes(path: Path, rng: np.random.Generator) -> None:
    content = bytearray(path.read_bytes())
    how = rng.integers(4)
    if how == 0:
        del content[rng.integers(len(content)) :]
    elif how == 1:
        for _ in range(rng.integers(1, 20)):
            content[rng.integers(len(content))] = rng.integers(256)
    elif how == 2:
        first = int(rng.integers(len(content)))
        content[first : first + 16] = bytes(rng.integers(0, 256, 16, dtype=np.uint8))
    else:
        content = bytearray(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    path.write_bytes(content)


def damage_json(values: object, rng: np.random.Generator) -> None:
    """Replace one value, somewhere inside, in place; or leave it out."""
    while True:
        keys = list(values) if isinstance(values, dict) else list(range(len(values)))
        key = keys[rng.integers(len(keys))]
        inner = values[key]
        if isinstance(inner, dict | list) and inner and rng.random() < 0.7:
            values = inner
            continue
        if isinstance(values, dict) and rng.random() < 0.2:
            del values[key]
        else:
            values[key] = JUNK[rng.integers(len(JUNK))]
        return


def odd_column(length: int, rng: np.random.Generator) -> pa.Array:
    made = [
        lambda: pa.array([None] * length, pa.float64()),
        lambda: pa.array(np.full(length, np.nan)),
        lambda: pa.array(np.full(length, 1e300)),
        lambda: pa.array(np.full(length, -1)),
        lambda: pa.array(np.full(length, 2**62)),
        lambda: pa.array(np.arange(length) * 1.0),
        lambda: pa.array(["x"] * length),
        lambda: pa.array([b"\xff"] * length),
        lambda: pa.array([[0.0] * (1 + i % 2) for i in range(length)]),
        lambda: pa.array([[]] * length, pa.list_(pa.float32())),
        lambda: pa.array([{"bytes": b"x", "path": "x"}] * length),
        lambda: pa.array([True] * length),
        lambda: pa.array([0] * length, pa.timestamp("us")),
    ]
    return made[rng.integers(len(made))]()


def damage_table(path: Path, rng: np.random.Generator) -> None:
    table = parquet.read_table(path)
    place = int(rng.integers(table.num_columns))
    how = rng.integers(4)
    if how == 0:
        table = table.remove_column(place)
    elif how == 1:
        table = table.slice(0, int(rng.integers(len(table))))
    elif how == 2:
        table = pa.concat_tables([table, table])
    else:
        table = table.set_column(place, table.column_names[place], odd_column(len(table), rng))
    parquet.write_table(table, path)


def odd_array(array: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    made = [
        lambda: array[:-1] if array.ndim else array,
        lambda: array[None],
        lambda: np.zeros((0, *array.shape[1:])),
        lambda: np.full(array.shape, np.nan),
        lambda: np.full(array.shape, np.inf, np.float32),
        lambda: np.full(array.shape, 1e300),
        lambda: np.full(array.shape, 3, np.int64),
        lambda: np.full(array.shape, b"x"),
        lambda: np.zeros(array.shape, np.complex64),
        lambda: np.zeros(array.shape, bool),
        lambda: array[..., :1] if array.ndim else np.zeros(2),
        lambda: np.float64(3),
    ]
    return made[rng.integers(len(made))]()


def damage_arrays(path: Path, rng: np.random.Generator) -> None:
    with np.load(path) as stored:
        values = dict(stored)
    name = list(values)[rng.integers(len(values))]
    if rng.random() < 0.15:
        del values[name]
    else:
        values[name] = odd_array(values[name], rng)
    np.savez(path, **values)


def damage_groups(path: Path, rng: np.random.Generator) -> None:
    with h5py.File(path, "a") as file:
        if rng.random() < 0.4:
            attributes = file["data"].attrs
            name = list(attributes)[rng.integers(len(attributes))]
            values = json.loads(attributes[name]) if name != "macros_image_convention" else {"a": "b"}
            damage_json(values, rng)
            odd = [
                json.dumps(values),
                json.dumps(values).encode(),
                np.bytes_(b"\xff"),
                3,
                "{",
                "null",
                "[]",
                np.zeros(2),
            ]
            attributes[name] = odd[rng.integers(len(odd))]
            return
        names: list[str] = []
        file.visit(names.append)
        name = names[rng.integers(len(names))]
        node = file[name]
        array = node[()] if isinstance(node, h5py.Dataset) else None
        del file[name]
        if array is not None and rng.random() < 0.8:
            file[name] = odd_array(array, rng)
        elif rng.random() < 0.5:
            file[name] = h5py.SoftLink("/nowhere")


def damage(root: Path, rng: np.random.Generator) -> Path:
    """Damage one file of a set and return it."""
    paths = sorted(path for path in root.rglob("*") if path.is_file())
    path = paths[rng.integers(len(paths))]
    if rng.random() < 0.35:
        damage_bytes(path, rng)
    elif path.suffix == ".json":
        values = json.loads(path.read_text())
        damage_json(values, rng)
        path.write_text(json.dumps(values))
    elif path.suffix == ".jsonl":
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        damage_json(lines, rng)
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    elif path.suffix == ".parquet":
        damage_table(path, rng)
    elif path.suffix == ".npz":
        damage_arrays(path, rng)
    elif path.suffix == ".hdf5":
        damage_groups(path, rng)
    elif rng.random() < 0.5:
        path.unlink()
    else:
        write_video(path, images(0, int(rng.integers(1, 8))), 20)
    return path


def read_or_refuse(read: Callable[[], None], root: Path, path: Path) -> None:
    """Read, or raise one of the documented errors with a message that names the data set's file or folder."""
    try:
        read()
    except (ValueError, FileNotFoundError) as error:
        refusal = error
    else:
        return
    # Subclasses of ValueError that libraries raise are not ours to show.
    ours = type(refusal) in (ValueError, FileNotFoundError) or type(refusal).__module__.startswith("prophet_gym")
    assert ours, f"{path}: {refusal!r}"
    said = str(refusal)
    assert str(root) in said or path.name in said or "unknown " in said, f"{path}: {said}"


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_set_is_read_right_or_refused_by_name(cases, whole, tmp_path, kind):
    read_all(KINDS[kind][1](whole[kind]))
    for rng in cases(9):
        root = tmp_path / "set"
        shutil.copytree(whole[kind], root)
        path = damage(root, rng)
        read_or_refuse(lambda root=root: read_all(KINDS[kind][1](root)), root, path)
        shutil.rmtree(root)


def test_damaged_latents_are_read_right_or_refused_by_name(cases, whole, tmp_path):
    for rng in cases(10):
        path = tmp_path / "latents.npz"
        shutil.copyfile(whole["latents"] / "latents.npz", path)
        damage(tmp_path, rng)
        read_or_refuse(lambda path=path: LatentEpisodes.load(path), tmp_path, path)
