"""The losses of a few steps, as they were before all training went through one loop: seeds, draws and numerics stay."""

import numpy as np
import pytest
import torch

from prophet_gym.data import list_episodes
from prophet_gym.prophet import SmallConfig, small_transformer
from prophet_gym.prophet._autoencoder import FrameAutoencoder
from prophet_gym.prophet._gripper import GripperTracker
from prophet_gym.rewards._classifier import SuccessHeadConfig
from prophet_gym.train._autoencoder import encode_episodes, train_autoencoder, tune_decoder
from prophet_gym.train._dynamics import Rehearsal, train_tracker, train_transformer
from prophet_gym.train._fit import CosineConfig, FitConfig
from prophet_gym.train._reward import train_success_head

from .test_success import labelled

CPU = torch.device("cpu")
# The tracker also learns its path by the actions alone, so its losses are larger than before it did.
GOLDEN = {
    "autoencoder": [0.6288242340087891, 0.6208269000053406, 0.6309540867805481, 0.6082630157470703],
    "decoder": [0.6288242340087891, 0.6209332346916199, 0.6312694549560547, 0.6089044213294983],
    "tracker": [4.896746635437012, 6.635439872741699, 3.707315444946289, 4.1666154861450195],
    "transformer": [
        0.010221026837825775, 0.008064517751336098, 0.014069903641939163, 0.024704165756702423,
        0.19953502714633942, 0.12197557091712952, 0.06542674452066422, 0.05250977724790573,
    ],
    "head": [0.6879095435142517, 0.6405066251754761, 0.6935102343559265, 0.6825404167175293],
    "full": [1.5913479328155518, 1.4729456901550293, 1.4866443872451782, 1.5725421905517578],
    "adapters, accumulated": [
        0.8786803483963013, 0.6259851455688477, 0.6749500036239624,
        0.7871116995811462, 0.7046267986297607, 0.8055682182312012,
    ],
}  # fmt: skip


@pytest.fixture
def losses(monkeypatch):
    """What is minimised, step by step."""
    found, backward = [], torch.Tensor.backward
    monkeypatch.setattr(
        torch.Tensor, "backward", lambda loss, *rest, **options: (found.append(loss.item()), backward(loss, *rest))
    )
    return found


def assert_golden(losses, name):
    # The machine that they are of gives them to the last digit; others may add in another order.
    np.testing.assert_allclose(losses, GOLDEN[name], rtol=1e-4)


def test_the_autoencoder(losses, toy_recording, tmp_path):
    train_autoencoder(list_episodes(toy_recording), tmp_path, steps=4, device=CPU, rows=4)
    assert_golden(losses, "autoencoder")


def test_the_decoder(losses, toy_recording, tmp_path):
    torch.manual_seed(0)
    FrameAutoencoder().save_pretrained(tmp_path / "autoencoder")
    tune_decoder(list_episodes(toy_recording), tmp_path, steps=4, device=CPU, rows=4)
    assert_golden(losses, "decoder")


def test_tracker_and_transformer(losses, toys, toy_recording, tmp_path):
    torch.manual_seed(0)
    data = encode_episodes(list_episodes(toy_recording), FrameAutoencoder())
    config = SmallConfig(camera=tuple(map(tuple, toys.camera.tolist())))
    train_tracker(data, config, tmp_path, steps=4, device=CPU, rows=8)
    assert_golden(losses, "tracker")
    losses.clear()
    torch.manual_seed(0)
    transformer, tracker = small_transformer(96, 1), GripperTracker()
    schedule, rehearsal = FitConfig(8, 1e-2, warmup=2), Rehearsal(4, chunks=2, single_until=0.4)
    train_transformer(transformer, tracker, data, config, tmp_path, schedule, rehearsal)
    assert_golden(losses, "transformer")


def test_the_success_head(losses):
    videos = [labelled("red", index) for index in range(4)]
    train_success_head(videos, SuccessHeadConfig(image_size=16, width=4), CosineConfig(4, 2e-3, seed=1), batch=8)
    assert_golden(losses, "head")


def test_the_full_prophet(losses, tmp_path):
    pytest.importorskip("peft")
    from .full.toy_full import run

    run(tmp_path / "full", steps=4, rows=2, chunks=2)
    assert_golden(losses, "full")
    losses.clear()
    run(tmp_path / "adapters", steps=3, rows=1, accumulate=2, lora_rank=2)
    assert_golden(losses, "adapters, accumulated")
