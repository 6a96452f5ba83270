"""Record the arm of docs/how-to/robot.md without lerobot, as the reader expects it."""

import sys

import numpy as np
import pytest

from benchmarks.robot import arm
from prophet_gym.data._stacked import StackedSource
from prophet_gym.train._inspect import inspected


def test_our_writer_needs_no_lerobot(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "lerobot", None)
    arm.main(["--out", str(tmp_path / "my_set"), "--episodes", "3"])
    found = inspected(f"lerobot:{tmp_path / 'my_set'}")
    assert found["success"] == {"labelled": 3, "successful": 2}
    source = StackedSource(f"lerobot:{tmp_path / 'my_set'}", list(arm.CAMERAS))
    assert source.action_names == tuple(f"{joint}.pos" for joint in arm.JOINTS)
    episode = source.episode(1)
    assert episode.instruction == arm.TASKS[1]
    # The first image is of the arm at rest, from both cameras.
    rest = arm.Scene(np.array([0.2, 0, arm.HALF]), 1)
    drawn = np.concatenate([rest.drawn(camera) for camera in arm.CAMERAS.values()]).astype(int)
    assert np.abs(episode.frames(0, 1)[0] - drawn).mean() < 3
    assert {"arm.urdf", "cameras.json"} < {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize(("missing", "writer", "advice"), [
    ("pyarrow", "ours", r"--writer ours needs pyarrow: pip install -e '\.\[data\]'"),
    ("lerobot", "lerobot", "--writer lerobot needs lerobot: run it in .venv-vla"),
])  # fmt: skip
def test_what_is_missing_is_said_in_a_line(missing, writer, advice, tmp_path, monkeypatch):
    for name in [
        each for each in sys.modules if each.startswith(("benchmarks.robot.writer", "prophet_gym.data._lerobot_export"))
    ]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(SystemExit, match=advice):
        arm.main(["--out", str(tmp_path / "set"), "--episodes", "1", "--writer", writer])
    assert not list(tmp_path.iterdir())


def test_a_set_that_is_there_stays(tmp_path):
    with pytest.raises(SystemExit, match="is there already, and a set is written into a new folder"):
        arm.main(["--out", str(tmp_path), "--episodes", "1"])
