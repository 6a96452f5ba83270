"""Every numbered example runs as its command says, with `--tiny`."""

import subprocess
import sys
from pathlib import Path

import pytest

from prophet_gym.data.recording import read_video

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("[0-9]*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(example, tmp_path):
    assert len(example.read_text().splitlines()) <= 150
    out = tmp_path / "film.mp4"
    done = subprocess.run(
        [sys.executable, str(example), "--tiny", "--out", str(out)], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[1] == "2 chunks, 16 frames dreamt"
    assert len(read_video(out)) == 17
