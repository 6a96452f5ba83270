"""docs/how-to/robot.md, command by command, on a data set that lerobot itself wrote; and the same set as v2.1."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from benchmarks.robot.arm import CAMERAS, JOINTS, SIZE, TASKS, record
from prophet_gym.checkpoint import bundled_checkpoints
from prophet_gym.cli.main import main
from prophet_gym.data._stacked import StackedSource
from prophet_gym.train._inspect import inspected
from tests.interop import test_lerobot_export as export

pytestmark = [
    pytest.mark.vla,
    pytest.mark.skipif(not bundled_checkpoints().get("libero_small"), reason="no checkpoint is bundled"),
]
PAGE = Path(__file__).parents[2] / "docs" / "how-to" / "robot.md"
EPISODES = 9
SMALL = {
    "train": "--steps 2 --autoencoder-steps 1 --decoder-steps 1 --batch-size 2 --held-out 4 --device cpu",
    "train-reward": "--steps 4 --held-out 0.25 --image-size 32",
    "evaluate": "--horizons 8 64 --device cpu",
    "distill": "--steps 1 --batch-size 2",
}
"""What makes a command of the page small; the checksums of the episodes' names put some into every part."""


opened = export.opened


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with `datasets/my_set`, as the page makes it, with fewer episodes."""
    place = tmp_path_factory.mktemp("robot")
    record(place / "datasets" / "my_set", EPISODES, writer="lerobot")
    return place


def blocks() -> list[tuple[str, str]]:
    """The code of the page from top to bottom: commands one by one, Python as it stands."""
    found = []
    for kind, code in re.findall(r"```(sh|python)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL):
        lines = code.replace("\\\n", " ").strip().splitlines() if kind == "sh" else [code]
        found += [(kind, line) for line in lines]
    return found


def run(line: str) -> None:
    program, *words = shlex.split(line)
    assert program == "prophet", line
    main([*words, *SMALL.get(words[0], "").split()])


def test_every_block_of_the_page_runs_and_the_env_has_frames_reward_and_card(folder, monkeypatch):
    monkeypatch.chdir(folder)
    scope: dict = {}
    kinds = {kind for kind, _ in blocks()}
    assert kinds == {"sh", "python"}
    for kind, code in blocks():
        if kind == "python":
            exec(compile(code, PAGE.name, "exec"), scope)
        elif "benchmarks.robot.arm" in code:
            assert shlex.split(code)[-4:-2] == ["--out", "datasets/my_set"]  # which `folder` has written
        else:
            run(code)
    height, width = SIZE
    assert scope["observation"]["image"].shape == (2 * height, width, 3)
    assert scope["env"].action_space.shape[1] == len(JOINTS)
    assert scope["info"]["scored"]
    assert scope["info"]["instruction"] in TASKS
    model = Path("outputs/my_robot/checkpoint")
    card, measures = (model / "README.md").read_text(), json.loads((model / "evaluation.json").read_text())
    assert {*measures["horizons"]["64"]["conditions"]} == {"dream", "other_actions", "copy", "autoencoder"}
    assert {"psnr", "ssim", "tssim", "epe"} <= {*measures["horizons"]["64"]["conditions"]["dream"]}
    psnr = measures["horizons"]["64"]["conditions"]["copy"]["psnr"]["mean"]
    assert f"\nlast frame copied  {psnr:.2f}" in re.sub(" +", "  ", card).replace(
        "last  frame  copied", "last frame copied"
    )
    assert "It has `success_head`, `starts`" in card
    assert measures["marks"] == json.loads((model / "prophet.json").read_text())["save"]


def as_second(third: Path, out: Path) -> Path:
    """Write a set of layout v3.0 as v2.1, a file per episode, as lerobot 0.3.3 did."""
    import pyarrow as pa
    from pyarrow import compute, parquet

    info = json.loads((third / "meta" / "info.json").read_text())
    rows = parquet.read_table(third / "data")
    tasks = parquet.read_table(third / "meta" / "tasks.parquet").to_pylist()
    index = sorted(parquet.read_table(third / "meta" / "episodes").to_pylist(), key=lambda each: each["episode_index"])
    data = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
    video = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
    keys = [name for name, feature in info["features"].items() if feature["dtype"] == "video"]
    lines: dict[str, list] = {"episodes": [], "episodes_stats": []}
    for each in index:
        number = each["episode_index"]
        place = {"episode_chunk": number // info["chunks_size"], "episode_index": number}
        path = out / data.format(**place)
        path.parent.mkdir(parents=True, exist_ok=True)
        parquet.write_table(rows.filter(compute.equal(rows["episode_index"], pa.scalar(number))), path)
        for key in keys:
            target = out / video.format(**place, video_key=key)
            target.parent.mkdir(parents=True, exist_ok=True)
            source = third / info["video_path"].format(
                video_key=key,
                chunk_index=each[f"videos/{key}/chunk_index"],
                file_index=each[f"videos/{key}/file_index"],
            )
            cut(source, target, each[f"videos/{key}/from_timestamp"], each["length"])
        lines["episodes"].append({"episode_index": number, "tasks": each["tasks"], "length": each["length"]})
        stats: dict[str, dict] = {}
        for name, value in each.items():
            if name.startswith("stats/"):
                _, feature, statistic = name.split("/")
                stats.setdefault(feature, {})[statistic] = value
        lines["episodes_stats"].append({"episode_index": number, "stats": stats})
    lines["tasks"] = [
        {"task_index": row["task_index"], "task": next(value for value in row.values() if isinstance(value, str))}
        for row in sorted(tasks, key=lambda row: row["task_index"])
    ]
    dropped = ("data_files_size_in_mb", "video_files_size_in_mb")
    told = {name: value for name, value in info.items() if name not in dropped}
    told |= {"codebase_version": "v2.1", "data_path": data, "video_path": video}
    told |= {"total_chunks": 1, "total_videos": len(keys) * len(index)}
    (out / "meta").mkdir(parents=True)
    (out / "meta" / "info.json").write_text(json.dumps(told))
    for name, content in lines.items():
        (out / "meta" / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in content))
    return out


def cut(source: Path, target: Path, begin: float, frames: int) -> None:
    """Write some frames of a video to a file of their own, without loss."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-loglevel", "error", "-ss", f"{begin:.6f}", "-i", str(source)]
    coded = ["-frames:v", str(frames), "-c:v", "libx264", "-qp", "0", "-pix_fmt", "yuv420p", str(target)]
    subprocess.run([*command, *coded], check=True)


@pytest.fixture(scope="module")
def second(folder):
    return as_second(folder / "datasets" / "my_set", folder / "second" / "my_set")


def test_the_same_set_as_layout_v21_has_the_same_actions_outcomes_and_images(folder, second):
    names = list(CAMERAS)
    one, other = (StackedSource(f"lerobot:{each}", names) for each in (folder / "datasets" / "my_set", second))
    assert (one.layout, other.layout) == ("v3.0", "v2.1")
    assert one.action_names == other.action_names == tuple(f"{joint}.pos" for joint in JOINTS)
    assert len(one) == len(other) == EPISODES
    for number in (0, 1, EPISODES - 1):
        here, there = one.episode(number), other.episode(number)
        np.testing.assert_array_equal(here.actions, there.actions)
        np.testing.assert_array_equal(here.done, there.done)
        assert here.instruction == there.instruction
        for frame in (0, 40, len(here)):
            seen = [each.frames(frame, frame + 1).astype(int) for each in (here, there)]
            assert np.abs(seen[0] - seen[1]).max() <= 3, (number, frame)
    told = [inspected(str(each.root)) for each in (one, other)]
    assert told[0]["success"] == told[1]["success"] == {"labelled": EPISODES, "successful": 6}


def test_our_writer_writes_what_lerobots_writes(folder, tmp_path, opened):
    theirs, ours = folder / "datasets" / "my_set", record(tmp_path / "my_set", EPISODES, writer="ours")
    told = [json.loads((each / "meta" / "info.json").read_text()) for each in (theirs, ours)]
    for each in told:  # videos have another codec
        for feature in each["features"].values():
            feature.pop("info", None)
    assert told[0] == told[1]
    one, other = opened(theirs), opened(ours)
    assert (one.num_episodes, len(one)) == (other.num_episodes, len(other))
    for step in (0, 1, len(one) - 1):
        assert one[step].keys() == other[step].keys()
        for name, value in one[step].items():
            if name.startswith("observation.images."):
                assert (value - other[step][name]).abs().mean() < 0.02
            else:
                assert value == other[step][name] if isinstance(value, str) else (value == other[step][name]).all(), (
                    name
                )


def test_lerobots_own_converter_takes_the_set_of_layout_v21(second, tmp_path):
    """So what the reader was tried on is a set of v2.1 in the eyes of those who made that layout."""
    from lerobot.datasets.v30.convert_dataset_v21_to_v30 import convert_dataset

    place = tmp_path / "local" / "arm"
    shutil.copytree(second, place)
    convert_dataset("local/arm", root=tmp_path, push_to_hub=False)
    back, given = (StackedSource(f"lerobot:{each}", list(CAMERAS)) for each in (place, second))
    assert back.layout == "v3.0"
    here, there = back.episode(EPISODES - 1), given.episode(EPISODES - 1)
    np.testing.assert_array_equal(here.actions, there.actions)
    assert np.abs(here.frames(60, 61).astype(int) - there.frames(60, 61)).max() <= 3


def test_a_set_of_layout_v21_trains(second, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    run(f"prophet train --data lerobot:{second} --cameras up side --width 48 --layers 1 --out outputs/second")
    run(f"prophet evaluate --data lerobot:{second} --world-model outputs/second/checkpoint --json measured.json")
    assert json.loads(Path("measured.json").read_text())["successes"] is not None
