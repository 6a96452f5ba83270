"""Training dreams against a recording whose every latent says which frame it is."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from prophet_gym.data._latents import LatentEpisodes
from prophet_gym.prophet import SmallConfig, small_transformer
from prophet_gym.prophet._autoencoder import stack_frames
from prophet_gym.prophet._gripper import GripperTracker
from prophet_gym.train import _dynamics
from prophet_gym.train import _dynamics as dynamics
from prophet_gym.train._dynamics import Dreams, Rehearsal, dream_loss, inputs_of, train_transformer
from prophet_gym.train._fit import FitConfig

LENGTHS = (50, 9, 90)
CHUNK, PAST = 8, 20
CAMERA = torch.tensor([[1.0, 0, 0.5, 0], [0, 1.0, 0.5, 0], [0, 0, 1.0, 0]])


CONFIG = SmallConfig(camera=tuple(map(tuple, CAMERA.tolist())), noise_scale=0.0)


@pytest.fixture
def data():
    """Frame n of episode e has latent (100 e + n) / 100, and so has the command after it."""
    numbers = np.concatenate([100 * e + np.arange(t + 1) for e, t in enumerate(LENGTHS)]) / 100
    return LatentEpisodes(
        latents=numbers.astype(np.float16)[:, None, None, None] * np.ones((1, 4, 8, 8), np.float16),
        actions=numbers.astype(np.float32)[:, None] * np.ones((1, 7), np.float32),
        gripper=np.ones((len(numbers), 4), np.float32),
        starts=np.cumsum([0, *(t + 1 for t in LENGTHS)], dtype=np.int64),
    )


@pytest.fixture
def tracker():
    torch.manual_seed(0)
    return GripperTracker(latent_size=(8, 8), hidden=8)


def begin(data, tracker, rows=300):
    return Dreams.begin(data, tracker, rows, PAST, torch.Generator().manual_seed(0))


def chunk_later(dreams, data, tracker, offset=0.0):
    """What really came, plus an offset, as the dream of every row."""
    clips = dreams.windows(data, CHUNK)
    inputs = inputs_of(dreams, clips, tracker, CONFIG)
    return dreams.go_on(tracker, inputs, stack_frames(clips.future + offset), 0.1)


def test_a_dream_that_is_right_is_the_recording(data, tracker):
    dreams = chunk_later(begin(data, tracker), data, tracker)
    real = data.window(dreams.current, dreams.first, past=PAST, chunk=CHUNK, ahead=0)
    torch.testing.assert_close(dreams.past, real.past)
    assert (dreams.age == 1).all()


def test_a_dream_goes_on_from_what_it_dreamt(data, tracker):
    before = begin(data, tracker)
    after = chunk_later(before, data, tracker, offset=5.0)
    clips = after.renewed(data, tracker, np.inf, torch.Generator()).windows(data, CHUNK)
    going_on = torch.from_numpy(after.current + CHUNK <= after.last)
    assert 0 < going_on.sum() < len(going_on)
    assert (clips.past[going_on, -CHUNK:] > 4).all()
    torch.testing.assert_close(clips.past[going_on, :-CHUNK], before.past[going_on, CHUNK:])
    assert (clips.past[~going_on] < 4).all()
    torch.testing.assert_close(clips.future[going_on, 0], clips.future[going_on, 7] - 0.07, atol=2e-3, rtol=0)


def test_dreams_begin_anew_at_the_end_of_their_episode_and_by_chance(data, tracker):
    dreams = begin(data, tracker)
    for step in range(20):
        assert (dreams.current + CHUNK <= dreams.last).all()
        assert ((dreams.first <= dreams.current) & (dreams.age * CHUNK <= dreams.current - dreams.first)).all()
        dreams = chunk_later(dreams, data, tracker).renewed(data, tracker, np.inf, torch.Generator().manual_seed(step))
    assert dreams.age.max() >= 8
    assert (dreams.age == 0).mean() < 0.4
    assert (dreams.renewed(data, tracker, 1, torch.Generator()).age == 0).all()
    rested = dreams.renewed(data, tracker, 4, torch.Generator().manual_seed(1))
    kept = (dreams.age > 0) & (rested.age > 0)
    assert kept.sum() / (dreams.age > 0).sum() == pytest.approx(0.75, abs=0.08)


def test_the_gripper_is_followed_through_the_commands(data, tracker):
    before = begin(data, tracker, rows=5)
    inputs = inputs_of(before, before.windows(data, CHUNK), tracker, CONFIG)
    after = chunk_later(before, data, tracker)
    torch.testing.assert_close(after.gripper, 0.9 * inputs.path[:, -4:] + 0.1 * tracker.read_frames(after.past[:, -4:]))


def test_the_loss_is_of_the_next_chunk_and_is_logged_against_copying(data, tracker):
    torch.manual_seed(0)
    model = small_transformer(width=24, layers=1, head=12)
    dreams = replace(begin(data, tracker, rows=4), age=np.array([0, 0, 3, 9]))
    loss, figures, after = dream_loss(model, tracker, data, CONFIG, dreams, torch.Generator().manual_seed(0))
    # An untrained model predicts its source, the last frame: its error is that of copying.
    change = (dreams.windows(data, CHUNK).future - dreams.past[:, -1:]).square().mean((1, 2, 3, 4))
    assert loss.item() == pytest.approx(change.mean().item(), rel=1e-4)
    assert figures == pytest.approx({"against_copy": 1.0}, rel=1e-4)
    assert (after.current == dreams.current + CHUNK).all()
    torch.testing.assert_close(after.past[:, -1], dreams.past[:, -1])


def test_a_killed_training_resumes_in_the_middle_of_its_dreams(data, tracker, tmp_path, monkeypatch):
    config = SmallConfig(camera=tuple(map(tuple, CAMERA.tolist())))
    schedule = FitConfig(8, 1e-2, warmup=1, save_every=0.0)
    calls = []

    def killed(*given, **options):
        calls.append(1)
        if len(calls) == 5:
            raise KeyboardInterrupt
        return dream_loss(*given, **options)

    def train(folder):
        torch.manual_seed(0)
        model = small_transformer(width=24, layers=1, head=12)
        return train_transformer(model, tracker, data, config, folder, schedule, Rehearsal(4, 3, 0.0)).state_dict()

    whole = train(tmp_path / "whole")
    monkeypatch.setattr(_dynamics, "dream_loss", killed)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed")
    resumed = train(tmp_path / "killed")
    assert len(calls) == 5 + 4
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())


def test_a_training_state_of_another_version_is_named(data, tracker):
    carried = dynamics._Carried(torch.device("cpu"), begin(data, tracker, rows=2))
    state = carried.state_dict()
    carried.load_state_dict(state)
    assert torch.equal(carried.dreams.known, torch.tensor([True, True]))
    del state["initial"], state["known"]
    with pytest.raises(
        ValueError, match="must hold age, current, first, gripper, initial, initial_gripper, known, last, past of its"
    ):
        carried.load_state_dict(state)
