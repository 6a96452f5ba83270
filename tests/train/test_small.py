"""The whole recipe on a toy recording: every stage runs, is resumed, and ends in a checkpoint that dreams."""

import numpy as np
import pytest
import torch

from prophet_gym.data.recording import META, Episode, episode_path, write_episode
from prophet_gym.prophet.autoencoder import FrameAutoencoder
from prophet_gym.prophet.model import Prophet
from prophet_gym.train.autoencoder import tune_decoder
from prophet_gym.train.small import Args, main

STEPS = 36
CAMERA = np.array([[0.5, 0, 0.5, 0], [0, 0.5, 0.5, 0], [0, 0, 0, 1]])


def toy_episode(seed: int) -> tuple[Episode, np.ndarray]:
    """A white square that the first two commands push about; the camera looks straight down."""
    rng = np.random.default_rng(seed)
    actions = rng.uniform(-1, 1, (STEPS, 7)).astype(np.float32)
    path = np.zeros((STEPS + 1, 3), np.float32)
    path[1:, :2] = np.clip(np.cumsum(0.05 * actions[:, :2], axis=0), -0.8, 0.8)
    frames = np.full((STEPS + 1, 128, 128, 3), 60, np.uint8)
    for frame, (x, y, _) in zip(frames, path, strict=True):
        column, row = (np.array([x, y]) * 0.5 + 0.5) * 128
        frame[int(row) - 6 : int(row) + 6, int(column) - 6 : int(column) + 6] = 255
    episode = Episode(
        actions=actions,
        gripper_position=path,
        gripper_quaternion=np.tile(np.array([0, 0, 0, 1], np.float32), (STEPS + 1, 1)),
        gripper_opening=np.full(STEPS + 1, 0.08, np.float32),
        object_positions=path[:, None].copy(),
        object_names=("square",),
        target="square",
        success=np.zeros(STEPS + 1, bool),
        camera=CAMERA,
        init_state=np.zeros(1),
        instruction="push the square",
        suite="squares",
        task=0,
        mode="random",
        seed=seed,
        look="plain",
    )
    return episode, frames


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("recipe")
    (root / "data").mkdir()
    (root / "data" / META).write_text("{}")
    for index in range(4):
        episode, frames = toy_episode(index)
        write_episode(episode_path(root / "data", 0, index), episode, frames)
    return root


def recipe(folder, **changes):
    sizes = {"autoencoder_steps": 2, "decoder_steps": 2, "tracker_steps": 2, "steps": 2, "rows": 4, "layers": 1}
    return Args(data=folder / "data", out=folder / "out", held_out=4, width=96, device="cpu", **{**sizes, **changes})


def test_all_stages_end_in_a_checkpoint_that_dreams(folder):
    main(recipe(folder))
    prophet = Prophet.from_pretrained(folder / "out" / "checkpoint")
    np.testing.assert_allclose(prophet.camera.numpy(), CAMERA, atol=1e-6)
    _, frames = toy_episode(9)
    state = prophet.encode(torch.from_numpy(frames[None, :1]))
    chunk = prophet.rollout(state, torch.zeros(1, 8, 7), generators=[torch.Generator().manual_seed(0)])
    assert chunk.frames.shape == (1, 8, 128, 128, 3)
    assert all(torch.isfinite(value).all() for value in chunk.state.values())


def test_a_finished_stage_is_not_trained_again_and_a_longer_one_goes_on(folder):
    path = folder / "out" / "transformer" / "diffusion_pytorch_model.safetensors"
    before = path.read_bytes()
    main(recipe(folder, stage="transformer"))
    assert path.read_bytes() == before
    main(recipe(folder, stage="transformer", steps=3))
    assert path.read_bytes() != before
    assert torch.load(folder / "out" / "transformer.pt", weights_only=True)["step"] == 3


def test_the_decoder_is_tuned_without_changing_a_latent(folder, tmp_path):
    before = FrameAutoencoder.from_pretrained(folder / "out" / "autoencoder")
    before.save_pretrained(tmp_path / "autoencoder")
    paths = [episode_path(folder / "data", 0, index) for index in range(2)]
    tune_decoder(paths, tmp_path, steps=2, device=torch.device("cpu"), rows=4)
    after = FrameAutoencoder.from_pretrained(tmp_path / "autoencoder")
    frames = torch.from_numpy(toy_episode(0)[1][:2])
    assert torch.equal(before.encode(frames), after.encode(frames))
    assert not torch.equal(before.decode(before.encode(frames)), after.decode(after.encode(frames)))
