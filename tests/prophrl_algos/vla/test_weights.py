"""Every tensor of a checkpoint is accounted for, or named."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from prophet_gym.errors import CheckpointError, MissingWeightsError
from prophrl_algos.vla.weights import load_strictly, read_json, read_pt, read_safetensors, renamed, without_init


def state():
    return {
        "0.weight": torch.ones(2, 3),
        "0.bias": torch.zeros(2),
        "1.weight": torch.ones(1, 2),
        "1.bias": torch.ones(1),
    }


def net():
    return nn.Sequential(nn.Linear(3, 2), nn.Linear(2, 1))


def test_a_state_that_fits_is_loaded_in_the_models_precision():
    model = net().double()
    load_strictly(model, state())
    assert model[0].weight.dtype == torch.float64
    assert torch.equal(model[0].weight, torch.ones(2, 3, dtype=torch.float64))


def test_what_is_missing_unexpected_or_of_another_shape_is_named():
    given = state() | {"lm_head.weight": torch.ones(1), "1.weight": torch.ones(2, 2)}
    del given["0.bias"]
    with pytest.raises(CheckpointError) as error:
        load_strictly(net(), given, source="there")
    message = str(error.value)
    assert message.startswith("there does not fit a Sequential")
    assert "1 missing: 0.bias" in message
    assert "1 unexpected: lm_head.weight" in message
    assert "1 of another shape: 1.weight ((2, 2) for (1, 2))" in message


def test_named_deviations_are_let_pass_and_others_are_not():
    given = state() | {"lm_head.weight": torch.ones(1)}
    del given["0.bias"]
    load_strictly(net(), given, may_miss={"0.bias"}, may_ignore={"lm_head.weight"})
    with pytest.raises(CheckpointError, match=r"1 missing: 0.bias"):
        load_strictly(net(), given, may_ignore={"lm_head.weight"})


def test_shards_are_read_as_the_index_says(tmp_path):
    whole = state()
    first, second = {"0.weight": whole["0.weight"]}, {name: whole[name] for name in list(whole)[1:]}
    save_file(first, tmp_path / "model-1.safetensors")
    save_file(second, tmp_path / "model-2.safetensors")
    places = dict.fromkeys(first, "model-1.safetensors") | dict.fromkeys(second, "model-2.safetensors")
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": places}))
    assert read_safetensors(tmp_path).keys() == whole.keys()
    index.write_text(json.dumps({"weight_map": places | {"0.bias": "model-1.safetensors"}}))
    with pytest.raises(CheckpointError, match=r"does not hold what the index says: 0.bias differ"):
        read_safetensors(tmp_path)
    index.write_text(json.dumps({"weight_map": places | {"2.bias": "model-3.safetensors"}}))
    with pytest.raises(MissingWeightsError, match=r"model-3.safetensors"):
        read_safetensors(tmp_path)


def test_damaged_files_are_named(tmp_path):
    with pytest.raises(MissingWeightsError, match=r"holds no model.safetensors"):
        read_safetensors(tmp_path)
    (tmp_path / "model.safetensors").write_bytes(b"\x08" * 20)
    with pytest.raises(CheckpointError, match=r"cannot read .*model.safetensors: .*it is damaged or cut"):
        read_safetensors(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(CheckpointError, match="must be a JSON object, holds a list"):
        read_json(tmp_path / "config.json")
    assert read_json(tmp_path / "nothing.json") == {}


def test_pt_files_lose_the_prefix_of_distributed_training_and_run_no_code(tmp_path):
    torch.save({f"module.{name}": tensor for name, tensor in state().items()}, tmp_path / "head.pt")
    assert read_pt(tmp_path / "head.pt").keys() == state().keys()
    torch.save({"model": net()}, tmp_path / "whole.pt")
    with pytest.raises(CheckpointError, match="holds objects other than tensors, which are never unpickled"):
        read_pt(tmp_path / "whole.pt")
    torch.save({"step": 3}, tmp_path / "meta.pt")
    with pytest.raises(CheckpointError, match=r"must hold tensors alone, got step \(int\)"):
        read_pt(tmp_path / "meta.pt")


def test_renaming_drops_and_refuses_collisions():
    found = renamed(state(), lambda name: None if name.endswith("bias") else f"model.{name}")
    assert sorted(found) == ["model.0.weight", "model.1.weight"]
    with pytest.raises(CheckpointError, match="two tensors of the checkpoint would be called weight"):
        renamed(state(), lambda name: name.split(".")[1])


def test_layers_can_be_made_without_drawing_weights():
    before = torch.get_rng_state()
    with without_init():
        nn.Linear(3, 4)
    assert torch.equal(torch.get_rng_state(), before)
    nn.Linear(3, 4)
    assert not torch.equal(torch.get_rng_state(), before)
