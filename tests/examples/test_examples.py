"""Every numbered example runs as its command says, with `--tiny`."""

import subprocess
import sys
from pathlib import Path

import pytest

from prophet_gym.data._video import frame_times

ROOT = Path(__file__).parents[2]
EXAMPLES = sorted((ROOT / "examples").glob("[0-9]*.py"))
EXPECTED = {
    "01_first_dream": "2 chunks, 16 frames dreamt",
    "02_ppo_in_the_dream": "update 1: mean reward",
    "03_reach_with_sb3": "32 chunk-steps: mean return",
    "04_improve_in_the_dream": "update 1: success",
    "05_published_policies": "update 1: success",
}


def run(example: Path, *arguments: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, str(example), "--tiny", *arguments], check=False, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(example, tmp_path):
    assert len(example.read_text().splitlines()) <= 150
    if "sb3" in example.stem:
        pytest.importorskip("stable_baselines3")
    if "published" in example.stem:
        pytest.importorskip("transformers", minversion="5.4")
    videos = example.stem == "01_first_dream"
    writes = {"01_first_dream": "film.mp4", "04_improve_in_the_dream": "policy"}
    out = ("--out", str(tmp_path / writes[example.stem])) if example.stem in writes else ()
    lines = run(example, *out)
    assert lines[1].startswith(EXPECTED[example.stem])
    if videos:
        assert len(frame_times(tmp_path / "film.mp4")) == 17
