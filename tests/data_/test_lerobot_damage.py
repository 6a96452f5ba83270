"""LeRobot data sets as people have them: other rates, shared films that are off, indices of other types, damage."""

import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from pyarrow import parquet

from prophet_gym.data import LeRobotSource
from prophet_gym.data._video import decode_frames
from prophet_gym.errors import UnknownOptionError

from .conftest import CAMERA, LENGTHS, actions, encode, grey, images, level

LAYOUTS = pytest.mark.parametrize("layout", ["v2", "v3"])
INDEX = "meta/episodes/chunk-000/file-000.parquet"
FILM = f"videos/{CAMERA}/"


def change_info(root: Path, **changes) -> None:
    path = root / "meta/info.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def change_index(root: Path, change) -> None:
    """Rewrite an index; `change(lines)` works on its lines in place."""
    if (root / INDEX).exists():
        rows = parquet.read_table(root / INDEX).to_pylist()
        change(rows)
        parquet.write_table(pa.Table.from_pylist(rows), root / INDEX)
        return
    path = root / "meta/episodes.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    change(rows)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def numbered(count: int) -> np.ndarray:
    """Frames that say in 12 black or white fields which one they are."""
    frames = np.zeros((count, 16, 192, 3), np.uint8)
    for number, frame in enumerate(frames):
        for bit in range(12):
            frame[:, 16 * bit : 16 * bit + 16] = 255 * (number >> bit & 1)
    return frames


def numbers_in(frames: np.ndarray) -> list[int]:
    bits = frames.reshape(len(frames), 16, 12, 16, 3).mean(axis=(1, 3, 4)) > 127
    return [int((row << np.arange(12)).sum()) for row in bits]


def test_a_film_at_another_rate_gives_the_right_frame_or_an_error(tmp_path):
    path = tmp_path / "film.mp4"
    encode(path, numbered(700), fps=30000 / 1001)
    assert numbers_in(decode_frames(path, 490, 5, fps=30)) == [490, 491, 492, 493, 494]
    assert numbers_in(decode_frames(path, 690, 10, fps=30000 / 1001)) == list(range(690, 700))
    with pytest.raises(ValueError, match=r"frame 600 of .*, frame 600 of .*film\.mp4, must be shown 20\.000 s"):
        decode_frames(path, 600, 1, fps=30)


def test_frames_come_by_their_own_time_stamps(tmp_path):
    """A frame that is missing in the middle of a film moves none of those after it."""
    import imageio_ffmpeg

    whole, path = tmp_path / "whole.mp4", tmp_path / "film.mp4"
    encode(whole, numbered(30))
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-loglevel", "error", "-i", str(whole), "-vf", "select=not(eq(n\\,12))"]
    subprocess.run([*command, "-fps_mode", "passthrough", str(path)], check=True)
    assert numbers_in(decode_frames(path, 9, 3, fps=10)) == [9, 10, 11]
    with pytest.raises(ValueError, match=r"frame 12 of .*, frame 12 of .* must be shown 1\.200 s .* after 1\.3"):
        decode_frames(path, 10, 5, fps=10)


@pytest.mark.parametrize("seconds", [-0.06, 0.06, -0.1, 0.1])
def test_an_episode_never_gets_frames_of_its_neighbours(lerobot, seconds):
    """Episode 1 begins at 0.9 s of the film of episode 0; its index says otherwise."""
    root = lerobot("v3")
    change_index(root, lambda rows: rows[1].update({f"{FILM}from_timestamp": 0.9 + seconds}))
    with pytest.raises(ValueError, match=r"episode 1 .*file-000.*|episode 0 has 9 rows.* episode 1, which begins"):
        LeRobotSource(root, CAMERA).episode(1).frames(0, 6)
    source = LeRobotSource(root, CAMERA, without=[1])
    np.testing.assert_allclose(level(source.episode(0).frames(0, 9)), [grey(0, i) for i in range(9)], atol=1.5)


@pytest.mark.parametrize("seconds", [-0.06, 0.06, -0.1, 0.1])
def test_nor_where_both_ends_are_off(lerobot, seconds):
    root = lerobot("v3")

    def change(rows):
        rows[1][f"{FILM}from_timestamp"] += seconds
        rows[1][f"{FILM}to_timestamp"] += seconds

    change_index(root, change)
    with pytest.raises(ValueError, match=r"file-000\.mp4"):
        LeRobotSource(root, CAMERA).episode(1).frames(0, 6)


def test_a_shared_film_with_a_frame_too_few_is_refused(lerobot):
    root = lerobot("v3")
    video = root / "videos" / CAMERA / "chunk-000/file-000.mp4"
    encode(video, np.concatenate([images(0, 8), images(1, 6)]))
    for source in (LeRobotSource(root, CAMERA), LeRobotSource(root, CAMERA, episodes=[0])):
        with pytest.raises(ValueError, match=r"file-000\.mp4 must last until 1\.5000 s.* no telling which episode"):
            source.episode(0).frames(0, 2)

    def shift(rows):
        rows[0][f"{FILM}to_timestamp"] = 0.8
        rows[1].update({f"{FILM}from_timestamp": 0.8, f"{FILM}to_timestamp": 1.4})

    change_index(root, shift)
    with pytest.raises(ValueError, match=r"episode 0 in .* must have a frame for each of its 9 rows.* room for 8"):
        LeRobotSource(root, CAMERA)
    frames = LeRobotSource(root, CAMERA, without=[0]).episode(0).frames(0, 6)
    np.testing.assert_allclose(level(frames), [grey(1, i) for i in range(6)], atol=1.5)


@LAYOUTS
def test_a_text_is_one_task(lerobot, layout):
    root = lerobot(layout)
    change_index(root, lambda rows: [row.update(tasks="pick up the cup") for row in rows])
    assert LeRobotSource(root, CAMERA).episode(0).instruction == "pick up the cup"


@pytest.mark.parametrize("tasks", [3, [], ["a", None], {"a": 1}, None])
def test_tasks_that_are_no_texts_are_refused(lerobot, tasks):
    root = lerobot("v2")
    change_index(root, lambda rows: rows[1].update(tasks=tasks))
    with pytest.raises(ValueError, match=r"tasks of episode 1 in .*episodes\.jsonl must be a text or a list of texts"):
        LeRobotSource(root, CAMERA)
    assert len(LeRobotSource(root, CAMERA, without=[1])) == 2


@LAYOUTS
def test_whole_floats_of_pandas_are_whole_numbers(lerobot, layout):
    root = lerobot(layout)
    names = ["episode_index", "length"]
    names += ["data/chunk_index", "data/file_index", f"{FILM}chunk_index", f"{FILM}file_index"] * (layout == "v3")
    change_index(root, lambda rows: [row.update({name: float(row[name])}) for row in rows for name in names])
    source = LeRobotSource(root, CAMERA)
    assert [source.steps(index) for index in range(3)] == [length - 1 for length in LENGTHS]
    np.testing.assert_allclose(level(source.episode(2).frames(3, 5)), [grey(2, 3), grey(2, 4)], atol=1.5)


WHOLE = ("length", "data/chunk_index", f"{FILM}file_index")
GAPS = (None, float("nan"), -1.0, float("inf"))


@pytest.mark.parametrize(
    ("column", "value"),
    [*product((*WHOLE, f"{FILM}from_timestamp"), GAPS), *product(WHOLE, [0.5])],
)
def test_gaps_in_the_index_name_file_episode_and_column(lerobot, column, value):
    root = lerobot("v3")

    def change(rows):
        for number, row in enumerate(rows):
            row[column] = value if number == 1 else float(row[column])

    change_index(root, change)
    with pytest.raises(ValueError, match=rf"{column} of episode 1 in .*file-000\.parquet must be a"):
        LeRobotSource(root, CAMERA)
    assert len(LeRobotSource(root, CAMERA, without=[1])) == 2


@LAYOUTS
def test_episodes_can_be_chosen(lerobot, layout):
    root = lerobot(layout)
    source = LeRobotSource(root, CAMERA, episodes=[2, 1], without=[1])
    assert len(source) == 1
    np.testing.assert_array_equal(source.episode(0).actions, actions(2, LENGTHS[2] - 1))
    with pytest.raises(UnknownOptionError, match=r"has no episode 7; it has 3 episodes: 0 \.\. 2"):
        LeRobotSource(root, CAMERA, without=[7])


def change_rows(root: Path, **columns) -> None:
    path = root / "data/chunk-000/episode_000000.parquet"
    table = parquet.read_table(path)
    for name, values in columns.items():
        table = table.set_column(table.column_names.index(name), name, pa.array(values))
    parquet.write_table(table, path)


def test_jitter_needs_a_tolerance(lerobot):
    root = lerobot("v2")
    late = 0.02 * np.array([0, 1, -1, 1, -1, 1, -1, 1, 0])
    change_rows(root, timestamp=(np.arange(9) / 10 + late).astype(np.float32))
    with pytest.raises(ValueError, match=r"up to 0\.0200 s off, 0\.2 of a frame; .* allow more than tolerance=0\.1"):
        LeRobotSource(root, CAMERA).episode(0)
    frames = LeRobotSource(root, CAMERA, tolerance=0.25).episode(0).frames(0, 9)
    np.testing.assert_allclose(level(frames), [grey(0, i) for i in range(9)], atol=1.5)
    for tolerance in (0.5, 0, -1, float("nan")):
        with pytest.raises(ValueError, match="tolerance must be"):
            LeRobotSource(root, CAMERA, tolerance=tolerance)


@pytest.mark.parametrize(
    ("name", "values", "told"),
    [
        ("timestamp", [np.nan] * 9, "timestamp of episode 0 of .* must be finite"),
        ("timestamp", [None] * 9, "timestamp of episode 0 of .* must be as many numbers in each row"),
        ("timestamp", [str(i) for i in range(9)], "timestamp of episode 0 of .* must be as many numbers in each row"),
        ("action", [[0.0] * (6 + i % 2) for i in range(9)], "action of episode 0 of .* must be as many numbers"),
        ("action", [[0.0] * 7] * 8 + [None], "action of episode 0 of .* must be as many numbers"),
        ("action", [[0.0] * 7] * 8 + [[1e300] * 7], "action of episode 0 of .* must be finite"),
        ("action", [["a"] * 7] * 9, "action of episode 0 of .* must be as many numbers"),
    ],
)
def test_rows_that_are_no_numbers_are_refused(lerobot, name, values, told):
    root = lerobot("v2")
    change_rows(root, **{name: values})
    with pytest.raises(ValueError, match=told):
        LeRobotSource(root, CAMERA).episode(0)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"video_path": None}, r"video_path of .*info\.json must be a pattern of paths, is None"),
        ({"chunks_size": None}, r"chunks_size of .*info\.json must be a whole number of at least 1, is None"),
        ({"chunks_size": 0}, "chunks_size of .* at least 1, is 0"),
        ({"fps": "10"}, "fps of .* must be a number above 0 and below 1e.06, is '10'"),
        ({"fps": 10**400}, "fps of .* must be a number above 0"),
        ({"fps": float("nan")}, "fps of .* must be a number above 0"),
        ({"features": ["action"]}, "features of .* must map names to features"),
        ({"features": {"action": None}}, "features of .* must map names to features"),
        ({"codebase_version": 2.1}, "must be of layout v2 or v3, is 2.1"),
        ({"data_path": "data/{episode}.parquet"}, "data_path of .* names episode"),
        ({"data_path": "../{episode_index}.parquet"}, "data_path of .* must lead to a file inside the data set"),
        ({"data_path": "/etc/{episode_index}"}, "data_path of .* must lead to a file inside the data set"),
        ({"data_path": "{episode_index.__class__}"}, "data_path of .* names episode_index.__class__"),
        ({"data_path": "{episode_index:999999999d}"}, "data_path of .* must be a pattern of paths"),
        ({"data_path": 3}, "data_path of .* must be a pattern of paths, is 3"),
        ({"total_episodes": "three"}, "total_episodes of .* must be a whole number"),
    ],
)
def test_what_a_data_set_says_of_itself_is_checked(lerobot, changes, told):
    with pytest.raises(ValueError, match=told):
        LeRobotSource(lerobot("v2", changes=changes), CAMERA)


@pytest.mark.parametrize("name", ["meta/info.json", "meta/episodes.jsonl", "data/chunk-000/episode_000000.parquet"])
def test_pointer_files_and_cut_off_files_are_named(lerobot, name):
    root = lerobot("v2")
    whole = (root / name).read_bytes()
    (root / name).write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")
    with pytest.raises(ValueError, match=rf"{Path(name).name} is a Git LFS pointer.*git lfs pull"):
        LeRobotSource(root, CAMERA).episode(0)
    (root / name).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=Path(name).name):
        LeRobotSource(root, CAMERA).episode(0)


def test_a_pointer_in_place_of_a_film_or_of_an_index_is_named(lerobot):
    root = lerobot("v3")
    pointer = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
    source = LeRobotSource(root, CAMERA)
    (root / "videos" / CAMERA / "chunk-000/file-001.mp4").write_bytes(pointer)
    with pytest.raises(ValueError, match=r"file-001\.mp4 is a Git LFS pointer"):
        source.episode(2).frames(0, 1)
    (root / INDEX).write_bytes(pointer)
    with pytest.raises(ValueError, match=r"file-000\.parquet is a Git LFS pointer"):
        LeRobotSource(root, CAMERA)


@LAYOUTS
def test_any_script_is_read_whatever_the_locale(lerobot, layout):
    tasks = ("öffne die Tür", "把杯子\u2028叠起来", "a\u0085b")
    root = lerobot(layout, tasks=tasks)
    if layout == "v2":
        lines = [
            json.dumps({"episode_index": i, "tasks": [task], "length": LENGTHS[i]}, ensure_ascii=False)
            for i, task in enumerate(tasks)
        ]
        (root / "meta/episodes.jsonl").write_bytes("\n".join(lines).encode("utf-8-sig"))
    code = (
        "import sys; from prophet_gym.data import LeRobotSource\n"
        f"source = LeRobotSource(sys.argv[1], {CAMERA!r})\n"
        "print(ascii([source.episode(i).instruction for i in range(3)]))"
    )
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    done = subprocess.run([sys.executable, "-c", code, str(root)], capture_output=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr.decode()
    assert done.stdout.decode().strip() == ascii(list(tasks))
