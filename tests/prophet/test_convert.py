"""Released layouts: the config read off shapes, every misfit named, and Cosmos-Predict2 computing the same."""

import re
from pathlib import Path

import pytest
import torch
from diffusers.models.transformers.transformer_cosmos import CosmosTransformer3DModel
from safetensors.torch import load_file

from prophet_gym.errors import CheckpointError
from prophet_gym.prophet._transformer import ProphetTransformer3DModel
from prophet_gym.prophet.convert._layout import convert_transformer, without_text

GOLDEN = Path(__file__).parents[1] / "data" / "prophet_dit.safetensors"
SMALL = {"num_attention_heads": 2, "attention_head_dim": 12, "num_layers": 1, "text_embed_dim": 6, "adaln_lora_dim": 4}


def load(config, state):
    model = ProphetTransformer3DModel.from_config(config)
    model.load_state_dict(state, strict=True)
    return model.eval()


@pytest.fixture(scope="module")
def inputs():
    golden = load_file(GOLDEN)
    return {name.removeprefix("in."): value for name, value in golden.items() if name.startswith("in.")}


@torch.no_grad()
def run(model, inputs, actions=None, **conditions):
    return model(
        inputs["latents"],
        inputs["timesteps"],
        inputs["text_random"],
        condition_mask=inputs["condition_mask"],
        actions=inputs["actions"] if actions is None else actions,
        **conditions,
    )


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"num_layers": 3, "mlp_ratio": 2.0, "latent_channels": 8},
        {"num_attention_heads": 3, "attention_head_dim": 16, "actions_per_slot": 8},
        {"action_frames": "pooled"},
        {"history_order": "oldest_finest", "text_embed_dim": None},
    ],
)
def test_the_config_is_read_off_the_shapes(release, changes):
    config, state = convert_transformer(release(torch.bfloat16, **SMALL | changes))
    wanted = {"action_frames": None, "history_order": None, "action_dim": 14, "actions_per_slot": 20, **SMALL} | changes
    assert {name: config[name] for name in wanted} == wanted
    assert {value.dtype for value in state.values()} == {torch.bfloat16}
    load(config, state)


def test_the_prefix_may_be_missing(golden_state):
    bare = {key.removeprefix("net."): value for key, value in golden_state.items()}
    assert convert_transformer(bare)[1].keys() == convert_transformer(golden_state)[1].keys()


def cosmos(golden_state, *, actions):
    """The golden network as Cosmos-Predict2 would hold it: plain, or with the streams of its sample (12 x 7)."""
    kept = {k: v for k, v in golden_state.items() if not re.search("action_|framepack|mem_to", k)}
    if actions:
        streams = {k.replace("_agi", ""): v for k, v in golden_state.items() if "action_embedder" in k}
        kept |= {k: v[:, :84].clone() if k.endswith("fc1.weight") else v for k, v in streams.items()}
    return kept


def test_the_layout_says_how_many_numbers_an_action_has(golden_state):
    config, _ = convert_transformer(cosmos(golden_state, actions=True))
    assert (config["action_dim"], config["actions_per_slot"]) == (7, 12)
    config, _ = convert_transformer(golden_state, action_dim=28)
    assert (config["action_dim"], config["actions_per_slot"]) == (28, 10)
    with pytest.raises(CheckpointError, match=r"280 numbers.*action_dim=9"):
        convert_transformer(golden_state, action_dim=9)


@pytest.mark.parametrize("prefixes", [("module.",), ("_orig_mod.", "module."), ("net_ema.",)])
def test_what_wrappers_put_before_every_name_is_left_out(golden_state, prefixes):
    config, state = convert_transformer(golden_state)
    if prefixes == ("net_ema.",):
        wrapped = {name.replace("net.", "net_ema.", 1): value for name, value in golden_state.items()}
    else:
        wrapped = {f"{''.join(prefixes)}{name}": value for name, value in golden_state.items()}
    again, found = convert_transformer(wrapped)
    assert again == config
    assert found.keys() == state.keys()
    assert all(torch.equal(found[name], state[name]) for name in state)


def test_what_needs_no_conversion_or_a_choice_is_refused(golden_state):
    _, ours = convert_transformer(golden_state)
    with pytest.raises(CheckpointError, match=r"in the layout of this library already .* use the folder of"):
        convert_transformer(ours)
    average = {name.replace("net.", "net_ema.", 1): value for name, value in golden_state.items()}
    with pytest.raises(CheckpointError, match=r"two sets of weights.* and \d+ more\): choose one") as error:
        convert_transformer({**golden_state, **average})
    assert str(error.value).count("net_ema.") <= 12
    with pytest.raises(CheckpointError, match=r"low-rank adapters \(base_model.*merge_and_unload"):
        convert_transformer(
            {f"base_model.model.{name.replace('.weight', '.lora_A.weight')}": v for name, v in golden_state.items()}
        )


def test_at_most_ten_tensors_are_named(golden_state):
    strange = {f"net.strange.{number}": torch.zeros(1) for number in range(500)}
    with pytest.raises(CheckpointError, match=r"500 unexpected: .* and 490 more") as error:
        convert_transformer({**golden_state, **strange})
    assert len(str(error.value)) < 1000


def without(name):
    return lambda state: state.pop(name)


def put(name, *shape):
    return lambda state: state.update({name: torch.zeros(shape)})


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (without("net.x_embedder.proj.1.weight"), r"lacks patch_embed\.proj\.weight"),
        (without("net.blocks.1.self_attn.q_proj.weight"), r"1 missing: transformer_blocks\.1\.attn1\.to_q"),
        (
            put("net.blocks.7.self_attn.q_proj.weight", 64, 64),
            r"missing: transformer_blocks\.2.* unexpected: tr\w+\.7",
        ),
        (put("net.blocks.99999999999.mlp.layer1.weight", 1, 1), r"unexpected: transformer_blocks\.99999999999"),
        (put("net.blocks.x.mlp.layer1.weight", 1, 1), r"unexpected: transformer_blocks\.x"),
        (put("net.x_embedder.proj.1.weight", 64), "must have 2 axes"),
        (put("net.x_embedder.proj.1.weight", 0, 72), "the width 0 must be"),
        (put("net.blocks.0.self_attn.q_norm.weight", 10), "head size of at least 12, got head size 10"),
        (put("net.blocks.0.self_attn.q_norm.weight", 48), "the width 64 must be a multiple"),
        (put("net.mem_to_k.weight", 3), r"history_memory\.to_k\.weight has shape \(3,\)"),
        (put("x_embedder.proj.1.weight", 64, 72), r"patch_embed\.proj\.weight is there twice"),
        (lambda state: [state.pop(key) for key in list(state) if "action_embedder" in key], "follows no actions"),
        (lambda state: state.clear(), "it lacks"),
    ],
)
def test_what_fits_no_prophet_is_refused(golden_state, damage, message):
    state = dict(golden_state)
    damage(state)
    with pytest.raises(CheckpointError, match=message):
        convert_transformer(state)


def stock(config, state):
    """diffusers' own Cosmos with the same weights; its padding channel is put in by hand."""
    names = ("num_attention_heads", "attention_head_dim", "num_layers", "text_embed_dim", "adaln_lora_dim", "mlp_ratio")
    model = CosmosTransformer3DModel(
        in_channels=18, concat_padding_mask=False, extra_pos_embed_type=None, rope_scale=(1.0, 3.0, 3.0),
        **{name: config[name] for name in names},
    )  # fmt: skip
    model.load_state_dict({name: state[name] for name in model.state_dict()}, strict=True)
    for name, module in model.named_modules():
        if name.endswith(("norm_q", "norm_k")):
            module.eps = 1e-6
    return model.eval()


@torch.no_grad()
def test_without_its_actions_it_computes_what_cosmos_does(golden_state, inputs):
    sample = cosmos(golden_state, actions=True)
    sample |= {name: torch.zeros_like(value) for name, value in sample.items() if "fc2" in name}
    config, state = convert_transformer(sample)
    mask = inputs["condition_mask"]
    base = stock(config, state)(
        torch.cat([inputs["latents"], mask, torch.zeros_like(mask)], dim=1),
        inputs["timesteps"][:, None, :, None, None],
        inputs["text_random"],
    ).sample
    out = run(load(config, state), inputs, inputs["actions"][:, :12, :7])
    torch.testing.assert_close(out, base, atol=1e-4, rtol=0)


def test_text_that_is_off_can_be_left_out(golden_state, inputs):
    config, state = convert_transformer(golden_state)
    whole, less = load(config, state), load(*without_text(config, state))
    args = (inputs["latents"], inputs["timesteps"])
    kwargs = {"condition_mask": inputs["condition_mask"], "actions": inputs["actions"]}
    with torch.no_grad():
        assert torch.equal(whole(*args, **kwargs), less(*args, **kwargs))
    assert sum(p.numel() for p in less.parameters()) < sum(p.numel() for p in whole.parameters())
