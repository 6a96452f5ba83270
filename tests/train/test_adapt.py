"""Adapters leave the first output alone, learn, travel alone, merge; and `prophet adapt` makes a checkpoint of them."""

import numpy as np
import pytest
import torch

from prophet_gym.errors import CheckpointError
from prophet_gym.prophet.autoencoder import FrameAutoencoder
from prophet_gym.prophet.gripper import GripperTracker
from prophet_gym.prophet.lora import add_lora, load_lora, merge_lora, save_lora
from prophet_gym.prophet.model import Prophet, ProphetConfig
from prophet_gym.prophet.presets import small_transformer
from prophet_gym.train.adapt import Args, main

pytest.importorskip("peft")


def awake(seed: int = 0):
    """A small transformer whose blocks are not silent."""
    torch.manual_seed(seed)
    model = small_transformer(96, 2).requires_grad_(requires_grad=False)
    for parameter in model.parameters():
        parameter.add_(0.05 * torch.randn(parameter.shape))
    return model


def output(model):
    g = torch.Generator().manual_seed(0)
    latents, discs = torch.randn(1, 16, 3, 8, 8, generator=g), torch.randn(1, 12, 3, 8, 8, generator=g)
    actions, history = torch.randn(1, 12, 11, generator=g), torch.randn(1, 16, 4, 8, 8, generator=g)
    mask, label = torch.zeros(1, 1, 3, 8, 8), torch.full((1, 3), 0.5)
    return model(latents, label, condition_mask=mask, actions=actions, action_frames=discs, history=history)


def trained(model):
    """The model with adapters after a few steps towards nothing."""
    add_lora(model, 4)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for _ in range(3):
        loss = output(model).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model


def test_adapters_change_nothing_at_first_and_only_they_learn():
    model = awake()
    plain = output(model)
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    add_lora(model, 4)
    torch.testing.assert_close(output(model), plain)
    learning = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert len(learning) == 2 * 2 * 6
    assert all("lora_" in name for name in learning)
    model = trained(awake())
    assert not torch.allclose(output(model), plain, atol=1e-4)
    kept = {name.replace(".base_layer", ""): v for name, v in model.state_dict().items() if "lora_" not in name}
    assert all(torch.equal(weights[name], value) for name, value in kept.items())


def test_merged_and_loaded_adapters_give_the_same_output(tmp_path):
    model = trained(awake())
    adapted = output(model)
    save_lora(model, tmp_path)
    merge_lora(model)
    assert not any("lora" in name for name in model.state_dict())
    torch.testing.assert_close(output(model), adapted, atol=1e-5, rtol=1e-4)
    fresh = awake()
    load_lora(fresh, tmp_path)
    torch.testing.assert_close(output(fresh), adapted, atol=1e-5, rtol=1e-4)
    fresh.load_state_dict(fresh.state_dict())


def test_adapters_of_another_model_and_wrong_ranks_are_refused(tmp_path):
    save_lora(trained(awake()), tmp_path)
    with pytest.raises(CheckpointError, match="another model"):
        load_lora(small_transformer(96, 3), tmp_path)
    with pytest.raises(CheckpointError, match="not found"):
        load_lora(awake(), tmp_path / "nowhere")
    with pytest.raises(ValueError, match="at least 1, got 0"):
        add_lora(awake(), 0)


@pytest.fixture(scope="module")
def base(tmp_path_factory, toys):
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    config = ProphetConfig(suite="elsewhere", reader_trust=0.2)
    Prophet(small_transformer(96, 1), FrameAutoencoder(), GripperTracker(), config).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("rank", [4, 0])
def test_adaptation_makes_a_checkpoint_for_the_new_scene(rank, base, toys, toy_recording, tmp_path):
    args = Args(
        data=toy_recording, out=tmp_path / "out", base=base, lora_rank=rank, steps=2, rows=4, tracker_steps=2,
        decoder_steps=2, held_out=4,
    )  # fmt: skip
    main(args)
    prophet = Prophet.from_pretrained(tmp_path / "out" / "checkpoint")
    assert (prophet.config.suite, prophet.config.reader_trust) == ("squares", 0.2)
    np.testing.assert_allclose(np.array(prophet.config.camera), toys.camera, atol=1e-6)
    assert (tmp_path / "out" / "lora" / "adapter_model.safetensors").exists() is bool(rank)
    state = prophet.encode(torch.from_numpy(toys.episode(0)[1][None, :1]))
    chunk = prophet.rollout(state, torch.zeros(1, 8, 7), generators=[torch.Generator().manual_seed(0)])
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.pt")}
    main(args)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").glob("*.pt")}
    again = Prophet.from_pretrained(tmp_path / "out" / "checkpoint")
    repeated = again.rollout(
        again.encode(torch.from_numpy(toys.episode(0)[1][None, :1])),
        torch.zeros(1, 8, 7),
        generators=[torch.Generator().manual_seed(0)],
    )
    assert torch.equal(chunk.frames, repeated.frames)
