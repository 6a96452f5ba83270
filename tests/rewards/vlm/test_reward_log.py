"""The log of judgements: whole lines and whole pictures, and no judgement lost with them."""

import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import cv2
import pytest
import torch

from prophet_gym.rewards import Prompt, Reply, RewardLog, VlmReward
from prophet_gym.rewards._vlm.reward_log import append_line


class Sure:
    name = "sure"

    def answer(self, questions):
        return [Reply(r"\box{Success}") for _ in questions]


def videos(count: int) -> list[torch.Tensor]:
    source = torch.Generator().manual_seed(0)
    return [torch.randint(256, (2, 32, 32, 3), generator=source, dtype=torch.uint8) for _ in range(count)]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a disk that is always full")
def test_a_full_disk_costs_the_line_and_not_the_judgement(tmp_path):
    path = tmp_path / "full.jsonl"
    path.symlink_to("/dev/full")
    log = RewardLog(path)
    reward_model = VlmReward(Sure(), samples=1, prompt=Prompt("$instruction"), log=log)
    with pytest.warns(RuntimeWarning, match=r"could not be written to .*full.jsonl \(No space left on device\)"):
        output = reward_model.score(videos(3), ["x"] * 3)
    assert (output.reward.tolist(), output.scored.tolist()) == ([1.0] * 3, [True] * 3)
    assert log.lost == 3
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        reward_model.score(videos(1), ["x"])  # said once
    assert log.lost == 4


FULL = """
import json, resource, sys, warnings
import torch
from prophet_gym.rewards import RewardLog, Prompt, Reply, VlmReward

class Sure:
    name = "sure"
    def answer(self, questions):
        return [Reply(r"\\box{Success}") for _ in questions]

warnings.simplefilter("ignore")
judge = VlmReward(Sure(), samples=1, prompt=Prompt("$instruction"), log=RewardLog(sys.argv[1]))
small = torch.zeros(1, 8, 8, 3, dtype=torch.uint8)
large = torch.randint(256, (4, 64, 64, 3), dtype=torch.uint8)
judge.score([small] * 3, ["x"] * 3)
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
resource.setrlimit(resource.RLIMIT_FSIZE, (1500, hard))  # no file may grow beyond it: as a disk that is full
paid = judge.score([large, small, small, small], ["x"] * 4).reward.tolist()
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
judge.score([large], ["y"])
print(json.dumps([paid, judge.log.lost]))
"""


@pytest.mark.skipif(os.name == "nt", reason="needs limits of POSIX")
def test_nothing_is_left_cut_where_the_disk_fills_up(tmp_path):
    path = tmp_path / "log.jsonl"
    run = subprocess.run([sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, check=True)
    paid, lost = json.loads(run.stdout.splitlines()[-1])
    assert paid == [1.0] * 4
    assert lost >= 1
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert len(lines) == 8 - lost
    assert lines[-1]["instruction"] == "y"
    images = list((tmp_path / "log_frames").iterdir())
    assert {line["image"] for line in lines} == {f"log_frames/{path.name}" for path in images}
    assert all(path.suffix == ".png" and cv2.imread(str(path)) is not None for path in images)
    assert cv2.imread(str(tmp_path / lines[-1]["image"])).shape == (64, 256, 3)


def test_what_is_appended_keeps_what_was_there(tmp_path):
    path = tmp_path / "file"
    append_line(path, b"one\n")
    append_line(path, "zwei 汤\n".encode())
    assert path.read_text(encoding="utf-8") == "one\nzwei 汤\n"
