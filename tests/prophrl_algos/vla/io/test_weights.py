"""Every tensor of a checkpoint is accounted for, or named."""

import json
import zipfile
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from prophet_gym._io.tensor_files import read_tensors
from prophet_gym.errors import CheckpointError, MissingWeightsError
from prophrl_algos.vla.io._weights import (
    load_strictly,
    read_json,
    read_safetensors,
    renamed,
    require_sizes,
    tensor_names,
    unwrapped,
    without_init,
)


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
    assert "1 missing: 0.bias (2,)" in message
    assert "1 unexpected: lm_head.weight (1,)" in message
    assert "1 of another shape: 1.weight has shape (2, 2), expected (1, 2)" in message


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


def test_a_whole_file_beside_shards_is_one_save_too_many(tmp_path):
    whole = state()
    save_file(whole, tmp_path / "model.safetensors")
    save_file(whole, tmp_path / "model-00001-of-00001.safetensors")
    with pytest.raises(CheckpointError, match=r"model\.safetensors and also model-00001-of-00001.*delete that one"):
        read_safetensors(tmp_path)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(whole, "model-00001-of-00001.safetensors")}))
    with pytest.raises(
        CheckpointError, match=r"and also model\.safetensors\.index\.json: one of them is of an earlier"
    ):
        read_safetensors(tmp_path)
    (tmp_path / "model.safetensors").unlink()
    assert read_safetensors(tmp_path).keys() == whole.keys()
    for places in ({"0.bias": 3}, {"0.bias": "../x"}, ["0.bias"]):
        index.write_text(json.dumps({"weight_map": places}))
        with pytest.raises(CheckpointError, match="must have a weight_map of tensors to files in the same folder"):
            read_safetensors(tmp_path)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("pytorch_model.bin", r"it holds pytorch_model\.bin, weights of torch\.save: write them again"),
        ("model.fp16.safetensors", r"it holds model\.fp16\.safetensors, weights of one variant: rename it"),
        ("diffusion_pytorch_model.safetensors", "weights under another name: if they are the policy's"),
        ("model-00001-of-00002.safetensors", r"shards without their model\.safetensors\.index\.json: fetch it"),
        ("lora_adapter/adapter_model.safetensors", "adapters without the weights that they adapt: merge them"),
        ("config.json", r"it holds config\.json alone: fetch the weights too"),
    ],
)
def test_weights_under_other_names_are_named_with_what_to_do(tmp_path, name, said):
    (tmp_path / name).parent.mkdir(exist_ok=True)
    (tmp_path / name).write_bytes(b"{}")
    with pytest.raises(MissingWeightsError, match=rf"holds no model\.safetensors and no .*{said}"):
        read_safetensors(tmp_path)


def test_wrappers_before_every_name_are_left_out_and_other_beginnings_named(tmp_path):
    model = net()
    for prefix in ("module.", "_orig_mod.", "module._orig_mod."):
        save_file({f"{prefix}{name}": tensor for name, tensor in state().items()}, tmp_path / "model.safetensors")
        load_strictly(model, read_safetensors(tmp_path))
        assert tensor_names(tmp_path) == set(state())
    for prefix in ("net_ema.", "base_model.model."):
        given = {f"{prefix}{name}": tensor for name, tensor in state().items()}
        with pytest.raises(CheckpointError, match=rf"names that begin with '{prefix}' would fit without it: save"):
            load_strictly(model, given)
    with pytest.raises(CheckpointError, match=r"300 unexpected: (\w+ \(1,\), ){9}\w+ \(1,\) and 290 more") as error:
        load_strictly(model, state() | {f"more{number}": torch.zeros(1) for number in range(300)})
    assert len(str(error.value)) < 300


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_numbers_that_are_not_finite_are_refused(tmp_path, bad):
    broken = state() | {"1.bias": torch.full((1,), bad)}
    save_file(broken, tmp_path / "model.safetensors")
    with pytest.raises(
        CheckpointError, match=r"model\.safetensors is damaged: 1\.bias hold numbers that are not finite"
    ):
        read_safetensors(tmp_path)
    torch.save(broken, tmp_path / "head.pt")
    with pytest.raises(CheckpointError, match=r"head\.pt is damaged: 1\.bias"):
        unwrapped(read_tensors(tmp_path / "head.pt"))


def test_a_head_that_unpacks_to_more_than_its_file_or_was_not_fetched_is_refused(tmp_path):
    path = tmp_path / "action_head--1_checkpoint.pt"
    torch.save({"weight": torch.zeros(2**22)}, path)
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)
    assert path.stat().st_size < 2**16
    with pytest.raises(CheckpointError, match="unpacks to more than its own size"):
        unwrapped(read_tensors(path))
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    with pytest.raises(CheckpointError, match=r"action_head--1_checkpoint\.pt is a Git LFS pointer.*git lfs pull"):
        unwrapped(read_tensors(path))
    torch.save(state(), path, _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"format of torch before 1\.6"):
        unwrapped(read_tensors(path))


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
    assert unwrapped(read_tensors(tmp_path / "head.pt")).keys() == state().keys()
    torch.save({"model": net()}, tmp_path / "whole.pt")
    with pytest.raises(CheckpointError, match="holds objects other than tensors, which are never unpickled"):
        unwrapped(read_tensors(tmp_path / "whole.pt"))
    torch.save({"step": 3}, tmp_path / "meta.pt")
    with pytest.raises(CheckpointError, match=r"must hold tensors alone, got step \(int\)"):
        unwrapped(read_tensors(tmp_path / "meta.pt"))


def test_renaming_drops_and_refuses_collisions():
    found = renamed(state(), ((r"^(\d)\.bias$", r"shift.\1"), ("^", "model.")))
    assert sorted(found) == ["model.0.weight", "model.1.weight", "model.shift.0", "model.shift.1"]
    with pytest.raises(CheckpointError, match="two tensors of the checkpoint would be called weight"):
        renamed(state(), ((r"^\d\.", ""),))


def test_layers_can_be_made_without_drawing_weights():
    before = torch.get_rng_state()
    with without_init():
        nn.Linear(3, 4)
    assert torch.equal(torch.get_rng_state(), before)
    nn.Linear(3, 4)
    assert not torch.equal(torch.get_rng_state(), before)


def test_a_config_of_a_network_that_no_machine_holds_is_refused_and_numbers_of_its_training_are_not():
    training = {"scheduler_warmup_steps": 10_000, "scheduler_decay_steps": 30_000, "num_inference_steps": 10}
    require_sizes({**training, "chunk_size": 50, "text_config": {"vocab_size": 257_152}}, Path("config.json"))
    with pytest.raises(CheckpointError, match=r"config\.json: text_config\.num_hidden_layers must be from -1 to 4096"):
        require_sizes({**training, "text_config": {"num_hidden_layers": 10**9}}, Path("config.json"))
    with pytest.raises(CheckpointError, match=r"config\.json: num_steps must be from -1 to 4096"):
        require_sizes({"num_steps": 10**9}, Path("config.json"))
    with pytest.raises(CheckpointError, match=r"config\.json: num_attention_heads must be from 1 to 4096, got -1"):
        require_sizes({"num_expert_layers": -1, "num_attention_heads": -1}, Path("config.json"))


@pytest.mark.vla
@pytest.mark.parametrize("family", ["pi0.configuration_pi0:PI0Config", "pi05.configuration_pi05:PI05Config",
                                    "smolvla.configuration_smolvla:SmolVLAConfig"])  # fmt: skip
def test_the_configs_that_lerobot_writes_are_of_networks_that_a_machine_holds(family):
    module, name = family.split(":")
    config = getattr(import_module(f"lerobot.policies.{module}"), name)()
    require_sizes(json.loads(json.dumps(asdict(config), default=str)), Path("config.json"))
