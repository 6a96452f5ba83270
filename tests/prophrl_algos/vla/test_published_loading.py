"""Checkpoints in the published layouts, at tiny size: every tensor and every scale arrives, or the error names it."""

import json
from contextlib import contextmanager

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from prophet_gym.errors import CheckpointError, MissingWeightsError, UnknownOptionError
from prophrl_algos import LoadOptions, load_policy
from prophrl_algos.vla._experts import Pi0Policy, Pi05Policy
from prophrl_algos.vla._load import choose
from prophrl_algos.vla._processor import prompt_text, tokenizer_of

from . import tiny

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
FEATURES = {"observation.images.image": "VISUAL", "observation.images.image2": "VISUAL", "observation.state": "STATE"}
ACTIONS = {"mean": np.linspace(-0.1, 0.1, 7), "std": np.linspace(0.2, 0.4, 7)}
ACTIONS |= {"q01": np.linspace(-0.9, -0.5, 7), "q99": np.linspace(0.5, 0.8, 7)}
STATES = {name: np.linspace(values[0], values[-1], 8) for name, values in ACTIONS.items()}
WORDS = tiny.char_tokenizer()
OPTIONS = LoadOptions(dtype=torch.float32, tokenizer=WORDS, without_state="mean")


def write_state(folder, state, dtype=torch.float32, shards=1):
    """`model.safetensors`, or shards with an index; equal tensors are not shared."""
    copies = {name: tensor.detach().clone().to(dtype) for name, tensor in state.items()}
    names = sorted(copies)
    if shards == 1:
        save_file(copies, folder / "model.safetensors")
        return
    places = {name: f"model-{number % shards}.safetensors" for number, name in enumerate(names)}
    for place in set(places.values()):
        save_file({name: copies[name] for name in names if places[name] == place}, folder / place)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))


def write_lerobot(folder, kind, mode, **config):
    """What lerobot writes beside the weights."""
    inputs = {name: {"type": kind_of, "shape": [8]} for name, kind_of in FEATURES.items()}
    outputs = {"action": {"type": "ACTION", "shape": [7]}}
    given = {"type": kind, "input_features": inputs, "output_features": outputs, **config}
    (folder / "config.json").write_text(json.dumps(given))
    norm_map = {"VISUAL": "IDENTITY", "STATE": mode, "ACTION": mode}
    for which, name in (("pre", "normalizer"), ("post", "unnormalizer")):
        file = f"policy_{which}processor_step_2_{name}_processor.safetensors"
        feature, statistics = ("observation.state", STATES) if which == "pre" else ("action", ACTIONS)
        save_file(
            {f"{feature}.{key}": torch.tensor(values, dtype=torch.float32) for key, values in statistics.items()},
            folder / file,
        )
        step = {"registry_name": f"{name}_processor", "config": {"eps": 1e-8, "norm_map": norm_map}}
        steps = [{"registry_name": "device_processor", "config": {}}, {**step, "state_file": file}]
        (folder / f"policy_{which}processor.json").write_text(json.dumps({"steps": steps}))


def write_norm_stats(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    # openpi's own files have numbers for the padding as well
    padded = {name: [*values, *[0.0] * 25] for name, values in ACTIONS.items()}
    stats = {"actions": padded, "state": {name: list(values) for name, values in STATES.items()}}
    path.write_text(json.dumps({"norm_stats": stats}))


def assert_scaled(policy, mode):
    """A latent of 1 is what the statistics say it is, before gripper and rotation."""
    expected = ACTIONS["q99"] if mode == "QUANTILES" else ACTIONS["mean"] + ACTIONS["std"]
    by = policy.processor.actions
    np.testing.assert_allclose(by.offset + by.scale, expected, atol=1e-5)
    decoded = policy.decode(torch.ones(1, policy.spec.horizon, policy.spec.latent_dim), {})[0, 0]
    np.testing.assert_allclose(decoded[:6], expected[:6], atol=1e-5)


def assert_same(network, state):
    loaded = network.state_dict()
    assert loaded
    for name, tensor in loaded.items():
        assert torch.equal(tensor.float(), state[name].float()), name


@contextmanager
def of_tiny_pi05(monkeypatch):
    with tiny.pi05_sizes():
        network = Pi05Policy.make_network({"chunk_size": 4, **tiny.PI05_CONFIG})
        tiny.randomise(network)
        yield network, {name: tensor.clone() for name, tensor in network.state_dict().items()}


PI05 = {"chunk_size": 4, "max_action_dim": 8, "max_state_dim": 32, "image_resolution": [28, 28], "n_action_steps": 4}


@pytest.mark.vla
@pytest.mark.parametrize("mode", ["QUANTILES", "MEAN_STD"])
def test_pi05_of_lerobot(tmp_path, monkeypatch, mode, seen):
    with of_tiny_pi05(monkeypatch) as (_, state):
        write_state(tmp_path, {f"model.{name}": tensor for name, tensor in state.items()})
        write_lerobot(tmp_path, "pi05", mode, **PI05)
        assert str(choose(tmp_path)).endswith("is read as pi05: config.json says type pi05, as lerobot writes it")
        policy = load_policy(tmp_path, OPTIONS)
    assert_same(policy.network, state)
    assert_scaled(policy, mode)
    assert (policy.spec.horizon, policy.spec.exec_steps, policy.spec.num_steps) == (4, 4, 10)
    prompt = policy.prepare(*seen)["token_mask"].sum(1)
    texts = [prompt_text(policy.processor.prompt, text, torch.zeros(32)) for text in seen[1]]
    assert texts[1] == f"Task: stop, State: {' '.join(['128'] * 32)};\nAction: "
    assert prompt.max() > 100


@pytest.mark.vla
def test_pi05_of_a_later_lerobot_names_the_state_unpadded(tmp_path, monkeypatch):
    with of_tiny_pi05(monkeypatch) as (_, state):
        write_state(tmp_path, state)
        write_lerobot(tmp_path, "pi05", "QUANTILES", **PI05, use_relative_actions=False)
        assert load_policy(tmp_path, OPTIONS).processor.state_columns == 8
        write_lerobot(tmp_path, "pi05", "QUANTILES", **PI05, use_relative_actions=True)
        with pytest.raises(CheckpointError, match="relative to the state"):
            load_policy(tmp_path, OPTIONS)


@pytest.mark.vla
@pytest.mark.parametrize("where", ["physical-intelligence/libero", "assets/physical-intelligence/libero"])
def test_pi05_of_rlinf_and_openpi(tmp_path, monkeypatch, where):
    with of_tiny_pi05(monkeypatch) as (network, _):
        network = Pi05Policy.make_network({})
        tiny.randomise(network)
        state = network.state_dict()
        write_state(tmp_path, state, dtype=torch.bfloat16)
        write_norm_stats(tmp_path / where / "norm_stats.json")
        assert choose(tmp_path).adapter == "pi05"
        policy = load_policy(tmp_path, OPTIONS)
    assert_same(policy.network, {name: tensor.bfloat16() for name, tensor in state.items()})
    assert_scaled(policy, "QUANTILES")
    assert (policy.spec.horizon, policy.spec.latent_dim, policy.spec.exec_steps) == (10, 32, 5)
    assert policy.processor.state is None
    assert prompt_text(policy.processor.prompt, "Pick_up", None) == "Pick up\n"


@pytest.mark.vla
def test_pi05_of_prophrl_has_no_statistics_and_says_so(tmp_path, monkeypatch):
    with of_tiny_pi05(monkeypatch):
        write_state(tmp_path, Pi05Policy.make_network({}).state_dict())
        (tmp_path / "optimizer.pt").write_bytes(b"")
        options = LoadOptions(benchmark="bridge", dtype=torch.float32, tokenizer=WORDS)
        with pytest.raises(CheckpointError, match=r"no norm_stats.json: give one with LoadOptions\(statistics="):
            load_policy(tmp_path, options)
        write_norm_stats(tmp_path.parent / "mine.json")
        given = LoadOptions(
            benchmark="bridge", dtype=torch.float32, tokenizer=WORDS, statistics=tmp_path.parent / "mine.json"
        )
        policy = load_policy(tmp_path, given)
    assert policy.processor.convention.benchmark == "bridge"
    assert policy.processor.convention.views == ("image",)


@pytest.mark.vla
def test_pi05_with_old_names_and_a_tied_embedding(tmp_path, monkeypatch):
    with of_tiny_pi05(monkeypatch) as (_, state):
        old = {name.replace("time_mlp_", "action_time_mlp_"): tensor for name, tensor in state.items()}
        embedding = "paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"
        old["paligemma_with_expert.paligemma.lm_head.weight"] = old.pop(embedding)
        old |= {"state_proj.weight": torch.ones(2, 2), "state_proj.bias": torch.ones(2)}
        del old["paligemma_with_expert.gemma_expert.lm_head.weight"]
        write_state(tmp_path, {f"model.{name}": tensor for name, tensor in old.items()})
        write_lerobot(tmp_path, "pi05", "QUANTILES", **PI05)
        assert_same(load_policy(tmp_path, OPTIONS).network, state)


@pytest.mark.vla
def test_pi05_in_shards(tmp_path, monkeypatch):
    with of_tiny_pi05(monkeypatch) as (_, state):
        write_state(tmp_path, {f"model.{name}": tensor for name, tensor in state.items()}, torch.bfloat16, shards=3)
        write_lerobot(tmp_path, "pi05", "QUANTILES", **PI05)
        policy = load_policy(tmp_path, LoadOptions(tokenizer=WORDS))
    assert_same(policy.network, {name: tensor.bfloat16() for name, tensor in state.items()})
    trained = {weight.dtype for weight in policy.parameters() if weight.requires_grad}
    frozen = policy.network.paligemma_with_expert.paligemma.model.language_model.layers[0].mlp.up_proj.weight
    assert trained == {torch.float32}
    assert frozen.dtype == torch.bfloat16


@pytest.mark.vla
def test_pi05_names_what_is_missing_and_unexpected(tmp_path, monkeypatch):
    with of_tiny_pi05(monkeypatch) as (_, state):
        norm = "paligemma_with_expert.gemma_expert.model.norm.dense.weight"
        write_lerobot(tmp_path, "pi05", "QUANTILES", **PI05)
        write_state(
            tmp_path, {name: tensor for name, tensor in state.items() if name != norm} | {"value.w": state[norm]}
        )
        with pytest.raises(CheckpointError) as error:
            load_policy(tmp_path, OPTIONS)
    assert f"1 missing: {norm}" in str(error.value)
    assert "1 unexpected: value.w" in str(error.value)


def pi0_state():
    pytest.importorskip("transformers", minversion="5.4", reason="pi0 needs transformers >= 5.4")
    network = tiny.pi0_network(4)
    return network, {name: tensor.clone() for name, tensor in network.state_dict().items()}


def in_lerobots_names(state):
    """Of a transformers network, under the names of lerobot's and openpi's files."""
    changes = {
        "model.vlm.language_model.": "paligemma_with_expert.paligemma.model.language_model.",
        "model.vlm.vision_tower.": "paligemma_with_expert.paligemma.model.vision_tower.vision_model.",
        "model.vlm.": "paligemma_with_expert.paligemma.model.",
        "model.dit.embed_tokens.": "paligemma_with_expert.gemma_expert.lm_head.",
        "model.dit.": "paligemma_with_expert.gemma_expert.model.",
        "embed_action_time.": "",
    }
    found = {}
    for name, tensor in state.items():
        begin = next((each for each in changes if name.startswith(each)), "")
        found[changes.get(begin, "") + name[len(begin) :]] = tensor
    return found


def without_expert_words(state):
    return {name: tensor for name, tensor in state.items() if name != "model.dit.embed_tokens.weight"}


@pytest.mark.parametrize("shards", [1, 3])
def test_pi0_of_transformers(tmp_path, shards, seen):
    network, state = pi0_state()
    if shards == 1:
        network.save_pretrained(tmp_path)
    else:
        write_state(tmp_path, state, shards=shards)
    (tmp_path / "config.json").write_text(json.dumps(tiny.pi0_config(4)))
    with pytest.raises(CheckpointError, match="must hold mean and std of 'actions'"):
        load_policy(tmp_path, OPTIONS)
    named = {"actions": ACTIONS, "state": STATES}
    read = {f"{which}_{key}": list(named[which][key]) for which in named for key in ("mean", "std")}
    (tmp_path / "processor_config.json").write_text(json.dumps(read))
    assert "model_type pi0" in choose(tmp_path).reason
    policy = load_policy(tmp_path, OPTIONS)
    assert_same(policy.network, state)
    assert_scaled(policy, "MEAN_STD")
    obs = policy.prepare({"image": seen[0]["image"]}, seen[1])
    assert torch.equal(obs["state"], torch.zeros(3, 8))
    assert policy.encode(obs, grad=False)["key.0"].shape[0] == 3


def test_pi0_of_lerobot(tmp_path, monkeypatch):
    fresh, state = pi0_state()
    tiny.randomise(fresh, seed=1)
    named = in_lerobots_names(state)
    write_state(tmp_path, {f"model.{name}": tensor for name, tensor in named.items()})
    write_lerobot(tmp_path, "pi0", "MEAN_STD", chunk_size=4)
    monkeypatch.setattr(Pi0Policy, "make_network", staticmethod(lambda config: fresh))
    assert "as lerobot writes it" in choose(tmp_path).reason
    policy = load_policy(tmp_path, OPTIONS)
    assert_same(policy.network, state)
    assert_scaled(policy, "MEAN_STD")


def test_pi0_of_openpi_with_a_tied_embedding(tmp_path, monkeypatch):
    fresh, state = pi0_state()
    tiny.randomise(fresh, seed=1)
    named = in_lerobots_names(without_expert_words(state))
    embedding = "paligemma_with_expert.paligemma.model.language_model.embed_tokens.weight"
    named["paligemma_with_expert.paligemma.lm_head.weight"] = named.pop(embedding)
    write_state(tmp_path, named)
    write_norm_stats(tmp_path / "assets" / "one" / "libero" / "norm_stats.json")
    write_norm_stats(tmp_path / "assets" / "one" / "droid" / "norm_stats.json")
    monkeypatch.setattr(Pi0Policy, "make_network", staticmethod(lambda config: fresh))
    assert "as openpi writes pi0" in choose(tmp_path).reason
    with pytest.raises(CheckpointError, match=r"several norm_stats.json .*unnorm_key="):
        load_policy(tmp_path, OPTIONS)
    with pytest.raises(UnknownOptionError, match="unknown unnorm_key 'bridge'"):
        load_policy(tmp_path, LoadOptions(tokenizer=WORDS, unnorm_key="bridge"))
    policy = load_policy(tmp_path, LoadOptions(dtype=torch.float32, tokenizer=WORDS, unnorm_key="libero"))
    assert_same(policy.network, state)
    assert_scaled(policy, "MEAN_STD")


def test_a_state_is_asked_for_and_a_tokenizer_that_is_not_there_named(tmp_path, seen):
    network, _ = pi0_state()
    network.save_pretrained(tmp_path)
    write_norm_stats(tmp_path / "norm_stats.json")
    options = LoadOptions(dtype=torch.float32, tokenizer=WORDS, statistics=tmp_path / "norm_stats.json")
    with pytest.raises(ValueError, match=r"load it with LoadOptions.without_state='mean'"):
        load_policy(tmp_path, options).prepare({"image": seen[0]["image"]}, seen[1])
    nowhere = LoadOptions(tokenizer=str(tmp_path), statistics=tmp_path / "norm_stats.json")
    with pytest.raises(MissingWeightsError, match="could not get the tokenizer"):
        load_policy(tmp_path, nowhere)


SMOLVLA = {"chunk_size": 4, "max_action_dim": 8, "max_state_dim": 8, "num_vlm_layers": 2, "n_action_steps": 3}
SMOLVLA |= {"expert_width_multiplier": 0.5, "resize_imgs_with_padding": [32, 32], "num_steps": 5}


@pytest.mark.vla
def test_smolvla_of_lerobot(tmp_path):
    from prophrl_algos.vla._experts import SmolVLAPolicy

    with tiny.smolvlm_sizes():
        network = SmolVLAPolicy.make_network(SMOLVLA)
        tiny.randomise(network)
        state = network.state_dict()
        write_state(tmp_path, {f"model.{name}": tensor for name, tensor in state.items()})
        write_lerobot(tmp_path, "smolvla", "MEAN_STD", **SMOLVLA)
        assert choose(tmp_path).adapter == "smolvla"
        policy = load_policy(tmp_path, OPTIONS)
        assert_same(policy.network, state)
        assert_scaled(policy, "MEAN_STD")
        assert (policy.spec.exec_steps, policy.spec.num_steps) == (3, 5)
        write_state(tmp_path, {f"model.{name}": t for name, t in state.items() if "action_in_proj.bias" not in name})
        with pytest.raises(CheckpointError, match=r"1 missing: action_in_proj\.bias"):
            load_policy(tmp_path, OPTIONS)
        (tmp_path / "model.safetensors").unlink()
        write_state(tmp_path, {f"model.{name}": tensor for name, tensor in state.items()}, torch.bfloat16, shards=2)
        again = load_policy(tmp_path, LoadOptions(tokenizer=WORDS))
    assert_same(again.network, {name: tensor.bfloat16() for name, tensor in state.items()})


def test_a_tokenizer_may_be_given_as_hugging_face_makes_them():
    from transformers import PreTrainedTokenizerFast

    backend = tiny.byte_tokenizer("<s>")
    with_start = PreTrainedTokenizerFast(tokenizer_object=backend)
    texts = ["pick up", "stop"]
    said = tokenizer_of(with_start, "nowhere/here")(texts)["input_ids"]
    assert [each[0] for each in said] == [1, 1]
    assert [with_start.decode(each[1:]) for each in said] == texts
    assert tokenizer_of(WORDS, "nowhere/here") is WORDS
