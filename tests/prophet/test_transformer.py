"""The transformer against the original implementation's numbers (reference.md section 1) and its own contract."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from prophet_gym.prophet._transformer import ProphetTransformer3DModel, history_levels
from prophet_gym.prophet.convert._layout import convert_transformer

GOLDEN = Path(__file__).parents[1] / "data" / "prophet_dit.safetensors"
CONDITIONS = {
    "scalar_action": {},
    "history": {"history": "history"},
    "action_frames": {"action_frames": "action_frames"},
    "full": {"history": "history", "action_frames": "action_frames"},
    "text": {"encoder_hidden_states": "text_random"},
}


@pytest.fixture(scope="module")
def golden():
    return load_file(GOLDEN)


@pytest.fixture(scope="module")
def released(golden):
    config, state = convert_transformer({k: v for k, v in golden.items() if k.startswith("net.")})
    model = ProphetTransformer3DModel.from_config(config)
    model.load_state_dict(state, strict=True)
    return model.eval()


@pytest.mark.parametrize("name", CONDITIONS)
@torch.no_grad()
def test_reproduces_the_original_outputs(golden, released, name):
    chosen = {argument: golden[f"in.{source}"] for argument, source in CONDITIONS[name].items()}
    out = released(
        golden["in.latents"],
        golden["in.timesteps"],
        condition_mask=golden["in.condition_mask"],
        actions=golden["in.actions"],
        **chosen,
    )
    torch.testing.assert_close(out, golden[f"out.{name}"], atol=1e-4, rtol=0)


@torch.no_grad()
def test_rows_outside_the_mask_have_no_action_frames_to_the_bit(golden, released):
    """The conditioner's position table and biases say something of black pictures too: left out is not drawn black."""

    def twice(name):
        return golden[f"in.{name}"][:1].repeat(2, *[1] * (golden[f"in.{name}"].ndim - 1))

    inputs = {"condition_mask": twice("condition_mask"), "actions": twice("actions")}
    base = (twice("latents"), twice("timesteps"))
    plain = released(*base, **inputs)
    drawn = released(*base, **inputs, action_frames=twice("action_frames"))
    black = released(*base, **inputs, action_frames=torch.zeros_like(twice("action_frames")))
    mask = torch.tensor([False, True])
    mixed = released(*base, **inputs, action_frames=twice("action_frames"), action_frames_mask=mask)
    assert torch.equal(mixed[0], plain[0])
    assert torch.equal(mixed[1], drawn[1])
    assert (drawn - plain).abs().max() > 1e-3
    assert (black - plain).abs().max() > 1e-3
    blind = ProphetTransformer3DModel.from_config(dict(released.config) | {"action_frames": None})
    with pytest.raises(ValueError, match='does not have action_frames="pooled"'):
        blind(*base, **inputs, action_frames_mask=mask)


def test_convert_names_every_tensor_that_does_not_fit(golden):
    state = {k: v for k, v in golden.items() if k.startswith("net.")}
    state["net.blocks.1.mlp.layer2.weight"] = torch.zeros(3, 3)
    state["net.surprise"] = torch.zeros(2)
    del state["net.t_embedding_norm.weight"]
    with pytest.raises(ValueError, match="not a Prophet transformer") as error:
        convert_transformer(state)
    for name in ("transformer_blocks.1.ff.net.2.weight", "surprise", "time_embed.norm.weight"):
        assert name in str(error.value)


def test_full_model_has_the_published_size():
    with torch.device("meta"):
        model = ProphetTransformer3DModel(action_frames="pooled", history_order="oldest_finest")
    assert sum(p.numel() for p in model.parameters()) / 1e9 == pytest.approx(2.0577, abs=1e-3)


def test_history_levels_count_from_the_chosen_end():
    assert history_levels(5, "oldest_finest") == [0, 1, 2, 2, 2]
    assert history_levels(5, "newest_finest") == [2, 2, 2, 1, 0]


def small(**changes):
    config = {
        "num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 2, "text_embed_dim": None,
        "adaln_lora_dim": 4, "action_dim": 3, "actions_per_slot": 4, "action_stream": "frame",
        "action_frames": "input", "action_frame_channels": 5, "history_order": "newest_finest",
    }  # fmt: skip
    torch.manual_seed(0)
    return ProphetTransformer3DModel(**{**config, **changes})


def inputs(rows):
    g = torch.Generator().manual_seed(1)
    draw = lambda *shape: torch.randn(rows, *shape, generator=g)  # noqa: E731
    mask = torch.zeros(rows, 1, 3, 8, 8)
    mask[:, :, 0] = 1
    return (draw(16, 3, 8, 8), torch.rand(rows, 3, generator=g)), {
        "condition_mask": mask,
        "actions": draw(12, 3),
        "action_frames": draw(5, 3, 8, 8),
        "history": draw(16, 4, 8, 8),
    }


@torch.no_grad()
def test_rows_do_not_see_each_other():
    model = small().eval()
    args, kwargs = inputs(3)
    whole = model(*args, **kwargs)
    alone = model(*(a[1:2] for a in args), **{k: v[1:2] for k, v in kwargs.items()})
    torch.testing.assert_close(whole[1:2], alone, atol=1e-5, rtol=1e-5)


def test_every_input_reaches_the_output():
    model = small()
    args, kwargs = inputs(2)
    leaves = {"latents": args[0], "timestep": args[1], **kwargs}
    for leaf in leaves.values():
        leaf.requires_grad_()
    model(*args, **kwargs).square().sum().backward()
    for name, leaf in leaves.items():
        assert leaf.grad is not None, name
        assert leaf.grad.abs().sum() > 0, name


def test_per_frame_actions_of_the_wrong_length_are_refused():
    args, kwargs = inputs(2)
    kwargs["actions"] = kwargs["actions"][:, :8]
    with pytest.raises(ValueError, match="actions must hold 3 x 12 numbers"):
        small()(*args, **kwargs)
