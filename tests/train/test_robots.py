"""The small Prophet trains on any robot: action size, chunk, no-op, camera and frame size come from the data."""

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from prophet_gym.data._recording import META, episode_path, write_episode
from prophet_gym.embodiments import EMBODIMENTS, get_embodiment
from prophet_gym.errors import CheckpointError
from prophet_gym.prophet import SmallProphet
from prophet_gym.train import _small as small

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize("robot", ["agibot", "bridge"])
def test_a_tiny_run_on_another_robot_ends_in_a_checkpoint_that_dreams_its_actions(robot, toys, tmp_path, monkeypatch):
    known = get_embodiment(robot)
    # What a recording must know of a gripper; it is not published for these robots.
    monkeypatch.setitem(EMBODIMENTS, robot, replace(known, gripper=replace(known.gripper, opening=0.08)))
    spec = known.action_spec
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / META).write_text("{}")
    for index in range(4):
        episode, frames = toys.episode(index)
        drawn = np.random.default_rng(index).uniform(spec.low, spec.high, (len(episode), spec.dim))
        other = replace(episode, robot=robot, actions=drawn.astype(np.float32), fps=known.control_hz)
        write_episode(episode_path(tmp_path / "data", 0, index), other, frames[:, 32:96, ::2])
    args = small.Args(
        tmp_path / "out", (tmp_path / "data",), chunk=4, width=96, layers=1, held_out=4, device="cpu", batch_size=4,
        autoencoder_steps=2, decoder_steps=2, tracker_steps=2, steps=2, single_until=0.5,
    )  # fmt: skip
    small.main(args)
    prophet = SmallProphet.from_pretrained(tmp_path / "out" / "checkpoint")
    assert (prophet.chunk, prophet.action_dim, prophet.frame_size) == (4, spec.dim, (64, 64))
    assert prophet.config.embodiment == robot
    assert known.rest_action is None or prophet.config.no_op == pytest.approx(known.rest_action)
    state = prophet.encode(torch.zeros(1, 1, 64, 64, 3, dtype=torch.uint8))
    chunk = prophet.rollout(state, torch.zeros(1, 4, spec.dim), generators=[torch.Generator()])
    assert chunk.frames.shape == (1, 4, 64, 64, 3)


@pytest.mark.parametrize("left", ["transformer.pt", "states/step-00000010.pt"])
def test_a_run_that_an_earlier_version_left_half_finished_is_refused(left, toy_recording, tmp_path):
    path = tmp_path / "out" / left
    path.parent.mkdir(parents=True)
    torch.save({"step": 10}, path)
    (tmp_path / "out" / "arguments.json").write_text(json.dumps({}))
    with pytest.raises(CheckpointError, match=rf"{left} .* an earlier version .* begin again in another folder"):
        small.main(small.Args(tmp_path / "out", (toy_recording,), device="cpu"))
    assert torch.load(path, weights_only=True) == {"step": 10}


def test_commands_are_imported_without_what_only_training_needs():
    code = (
        "import sys; from prophet_gym.train import _objects, _pretrain, _reward, _small; "
        "print('diffusers.training_utils' in sys.modules, 'peft' in sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    assert result.stdout.split() == ["False", "False"]
