"""The full Prophet: conditions, history and sampler as released, on tiny networks."""

import subprocess
import sys
from dataclasses import replace

import jaxtyping
import numpy as np
import pytest
import torch

from prophet_gym.embodiments import get_embodiment
from prophet_gym.embodiments._libero import to_model_actions
from prophet_gym.prophet import FullProphet, Prophet, tiny_full_prophet
from prophet_gym.prophet._action_frames import plan
from prophet_gym.prophet._flow import karras_sigmas, sample_ab2
from prophet_gym.prophet._full import (
    FullConfig,
    encode_conditions,
    history_video,
    last_frames,
    sample_chunk,
)
from prophet_gym.prophet._transformer import predict_velocity
from prophet_gym.testing import check_world_model
from prophet_gym.world_model import TracksGripper


@pytest.fixture(scope="module")
def prophet():
    prophet = tiny_full_prophet()
    torch.nn.init.normal_(prophet.transformer.action_frame_embedder.proj_in.weight)
    return prophet


def video(rows, frames, seed=0):
    g = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (rows, frames, 32, 32, 3), generator=g, dtype=torch.uint8)


def numbers(*shape, seed=1):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def test_keeps_the_contract_of_a_world_model(prophet):
    check_world_model(prophet, tolerance=2)


def test_commands_become_the_numbers_of_the_released_model():
    actions = 2 * torch.rand(1, 5, 7) - 1
    planned = plan(get_embodiment("libero"), actions, None, 14)
    np.testing.assert_allclose(planned.actions[0].numpy(), to_model_actions(actions[0].numpy()), atol=1e-7)
    assert planned.tools is None


def test_the_released_history_loses_its_newest_frames_and_ours_the_oldest():
    past = torch.arange(60, dtype=torch.uint8)[None, :, None, None, None].expand(1, 60, 1, 1, 3)
    assert history_video(past, "oldest_finest")[0, :, 0, 0, 0].tolist() == list(range(57))
    assert history_video(past, "newest_finest")[0, :, 0, 0, 0].tolist() == list(range(3, 60))


def test_before_the_first_frame_it_is_repeated():
    frames = video(1, 2)
    kept = last_frames(frames, 4)
    assert torch.equal(kept, torch.cat([frames[:, :1], frames[:, :1], frames], dim=1))
    assert torch.equal(last_frames(video(1, 6), 4), video(1, 6)[:, 2:])


def test_generated_frames_join_the_history(prophet):
    state = prophet.encode(video(1, 1))
    chunk = prophet.rollout(state, numbers(1, 4, 7), generators=[torch.Generator()])
    assert torch.equal(chunk.state["frames"], torch.cat([state["frames"][:, 4:], chunk.frames], dim=1))


def sampled(prophet, conditions, noise):
    return sample_chunk(prophet.transformer, conditions, noise, karras_sigmas(3))


def conditions_of(prophet, past, actions, order="oldest_finest", action_video=None):
    return encode_conditions(prophet.autoencoder, past, actions, order, action_video)


@pytest.mark.parametrize("what", ["given", "history", "actions", "action video", "noise"])
@torch.no_grad()
def test_the_chunk_depends_on(prophet, what):
    past, actions, noise, drawn = video(1, 6), numbers(1, 4, 14), numbers(1, 16, 1, 4, 4), video(1, 5, seed=4)
    base = sampled(prophet, conditions_of(prophet, past, actions, action_video=drawn), noise)
    other = past.clone()
    other[:, -1 if what == "given" else 0] = 255 - other[:, -1 if what == "given" else 0]
    past = other if what in ("given", "history") else past
    actions = actions + 1 if what == "actions" else actions
    drawn = 255 - drawn if what == "action video" else drawn
    noise = noise + 1 if what == "noise" else noise
    changed = sampled(prophet, conditions_of(prophet, past, actions, action_video=drawn), noise)
    assert not torch.equal(base, changed)


@torch.no_grad()
def test_the_given_slot_is_replaced_in_every_call(prophet):
    """The EDM form over all slots: input (1 - tau) x, x0 = (1 - tau) x - tau out, the given slot put into both."""
    conditions = conditions_of(prophet, video(2, 6), numbers(2, 4, 14))
    noise, sigmas = numbers(2, 16, 2, 4, 4), karras_sigmas(4)
    mask = torch.tensor([1.0, 0.0])[None, None, :, None, None].expand(2, 1, 2, 4, 4)

    def predict(x, sigma):
        tau = sigma / (1 + sigma)
        given = conditions.given.expand_as(x)
        out = prophet.transformer(
            mask * given + (1 - mask) * (1 - tau) * x,
            torch.tensor([[1e-4, tau]]).expand(2, 2),
            condition_mask=mask,
            actions=conditions.actions,
            history=conditions.history,
        )
        return mask * given + (1 - mask) * ((1 - tau) * x - tau * out)

    x = predict(sample_ab2(predict, sigmas[0].item() * noise, sigmas), 0.01)
    ours = sample_chunk(prophet.transformer, conditions, noise[:, :, 1:], sigmas)
    torch.testing.assert_close(ours, x[:, :, 1:], atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_the_past_is_read_once_a_chunk(prophet):
    conditions, noise = conditions_of(prophet, video(2, 6), numbers(2, 4, 14)), numbers(2, 16, 1, 4, 4)
    kept = replace(conditions, history=None, memory=prophet.transformer.remember(conditions.history))
    each, once, never = (
        predict_velocity(prophet.transformer, read, noise, torch.tensor([0.3, 0.7]))
        for read in (conditions, kept, replace(conditions, history=None))
    )
    assert torch.equal(each, once)
    assert not torch.equal(each, never)
    calls = []
    hook = prophet.transformer.history_memory.register_forward_hook(lambda *_: calls.append(1))
    sampled(prophet, conditions, noise)
    hook.remove()
    assert len(calls) == 1


def test_compiled_it_dreams_as_without():
    # In a process without the checks of shapes, which dynamo cannot trace; inductor would need a C++ compiler.
    code = """
import torch
from functools import partial
torch.compile = partial(torch.compile, backend="eager")
from prophet_gym.prophet import tiny_full_prophet
def dream(engine):
    model = tiny_full_prophet()
    model.use_engine(engine)
    state = model.encode(torch.arange(32, dtype=torch.uint8)[:, None].expand(2, 1, 32, 32, 3).contiguous())
    return model.rollout(state, torch.ones(2, 4, 7), generators=[torch.Generator(), torch.Generator()]).frames
assert (dream("compiled").int() - dream("eager").int()).abs().max() <= 1
"""
    subprocess.run([sys.executable, "-c", code], check=True, timeout=300)


@torch.no_grad()
def test_bfloat16_is_close():
    prophet = tiny_full_prophet()
    conditions, noise = conditions_of(prophet, video(1, 6), numbers(1, 4, 14)), numbers(1, 16, 1, 4, 4)
    full = sampled(prophet, conditions, noise)
    prophet.transformer.to(torch.bfloat16)
    half = sampled(prophet, conditions, noise)
    assert half.dtype == torch.float32
    assert (half - full).norm() < 0.05 * full.norm()


def test_real_frames_are_reconstructed_whatever_their_number(prophet):
    frames = video(1, 3)
    assert prophet.reconstruct(frames).shape == frames.shape
    alone = prophet.reconstruct(frames[:, :1])
    assert (prophet.reconstruct(frames)[:, :1].int() - alone.int()).abs().max() <= 1


def test_there_is_no_gripper_to_read(prophet):
    assert not isinstance(prophet, TracksGripper)


def test_save_and_load_give_the_same_dream(prophet, tmp_path):
    prophet.save_pretrained(tmp_path, half=False)
    loaded = Prophet.from_pretrained(tmp_path, offload_autoencoder=True)
    assert loaded.config == prophet.config
    actions = numbers(1, 4, 7)
    frames = [
        model.rollout(model.encode(video(1, 2)), actions, generators=[torch.Generator().manual_seed(0)]).frames
        for model in (prophet, loaded)
    ]
    assert torch.equal(*frames)


def test_wrong_numbers_and_networks_are_refused(prophet, monkeypatch):
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)  # what users read, who have no such checks
    with pytest.raises(ValueError, match="chunk=6 must be a multiple of 4"):
        FullConfig(chunk=6)
    with pytest.raises(ValueError, match="action_dim=8 must be the 7 dimensions of an action of libero"):
        FullConfig(action_dim=8)
    from prophet_gym.prophet import tiny_prophet

    with pytest.raises(TypeError, match="the autoencoder of a FullProphet must be a WanAutoencoder"):
        FullProphet(prophet.transformer, tiny_prophet().autoencoder, prophet.config)
