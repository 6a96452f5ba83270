"""Adapters leave the first output alone, learn, travel alone, merge; and `prophet train` makes a checkpoint of them."""

import json
from dataclasses import replace

import gymnasium as gym
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from prophet_gym._io.lora import add_lora, load_lora, merge_lora, save_lora
from prophet_gym.errors import CheckpointError
from prophet_gym.prophet import Prophet, SmallConfig, SmallProphet, small_transformer
from prophet_gym.prophet._autoencoder import FrameAutoencoder
from prophet_gym.prophet._gripper import GripperTracker
from prophet_gym.train._small import Args, main

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


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda folder: (folder / "adapter_config.json").write_text("{"), "damaged adapter_config.json"),
        (lambda folder: (folder / "adapter_config.json").unlink(), "damaged adapter_config.json"),
        (lambda folder: rewrite(folder, r=10**9), "damaged adapter_config.json: r=1000000000"),
        (lambda folder: rewrite(folder, r="four"), "damaged adapter_config.json: r must be an integer"),
        (lambda folder: rewrite(folder, r=2), "for another model"),
        (lambda folder: rewrite(folder, target_modules="nothing"), "damaged adapter_config.json"),
        (lambda folder: cut_in_half(folder / "adapter_model.safetensors"), "cannot read .*it is damaged or cut"),
        (lambda folder: poison(folder / "adapter_model.safetensors"), "hold numbers that are not finite"),
    ],
)
def test_damaged_adapters_are_named_in_one_line(damage, said, tmp_path):
    save_lora(trained(awake()), tmp_path)
    damage(tmp_path)
    with pytest.raises(CheckpointError, match=said) as error:
        load_lora(awake(), tmp_path)
    assert str(tmp_path) in str(error.value)
    assert "\n" not in str(error.value)


def rewrite(folder, **changes):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def cut_in_half(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def poison(path):
    save_file({name: value * torch.nan for name, value in load_file(path).items()}, path)


@pytest.fixture(scope="module")
def base(tmp_path_factory, toys):
    folder = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    config = SmallConfig(suite="elsewhere", reader_weight=0.2)
    SmallProphet(small_transformer(96, 1), FrameAutoencoder(), GripperTracker(), config).save_pretrained(folder)
    return folder


def test_adaptation_makes_a_checkpoint_for_the_new_scene(base, toys, toy_recording, tmp_path):
    args = Args(
        data=(toy_recording,), out=tmp_path / "out", base=str(base), lora_rank=4, steps=2, batch_size=4,
        tracker_steps=2, decoder_steps=2, held_out=4, device="cpu",
    )  # fmt: skip
    main(args)
    prophet = Prophet.from_pretrained(tmp_path / "out" / "checkpoint")
    assert (prophet.config.suite, prophet.config.reader_weight) == ("squares", 0.2)
    np.testing.assert_allclose(np.array(prophet.config.camera), toys.camera, atol=1e-6)
    assert (tmp_path / "out" / "lora" / "adapter_model.safetensors").exists()
    state = prophet.encode(torch.from_numpy(toys.episode(0)[1][None, :1]))
    chunk = prophet.rollout(state, torch.zeros(1, 8, 7), generators=[torch.Generator().manual_seed(0)])
    with pytest.warns(UserWarning, match="no success head"):  # the base's, of another scene, would judge it wrongly
        env = gym.make("Prophet-LIBERO-v0", weights=str(tmp_path / "out" / "checkpoint"))
    assert env.reset(seed=0)[1]["instruction"] == "push the square"
    env.close()
    with pytest.raises(ValueError, match=r"learning_rate was 0\.001, is 0\.1; use another folder"):
        main(replace(args, learning_rate=0.1))
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("states/*/step-*")}
    main(args)
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").rglob("states/*/step-*")}
    again = Prophet.from_pretrained(tmp_path / "out" / "checkpoint")
    repeated = again.rollout(
        again.encode(torch.from_numpy(toys.episode(0)[1][None, :1])),
        torch.zeros(1, 8, 7),
        generators=[torch.Generator().manual_seed(0)],
    )
    assert torch.equal(chunk.frames, repeated.frames)
