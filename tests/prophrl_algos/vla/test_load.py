"""A folder is read by the adapter whose layout it has, and an unknown one is one clear error."""

import json

import pytest
import torch
from safetensors.torch import save_file

from prophet_gym.errors import CheckpointError, MissingWeightsError, UnknownOptionError
from prophrl_algos import LoadOptions, load_policy
from prophrl_algos.vla._load import choose


def test_an_unknown_layout_lists_what_there_is_and_what_is_known(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "gr00t"}))
    (tmp_path / "weights.bin").write_bytes(b"")
    with pytest.raises(CheckpointError) as error:
        load_policy(tmp_path)
    message = str(error.value)
    assert "config.json, weights.bin" in message
    assert "{'model_type': 'gr00t'}" in message
    assert "Known are:" in message


def test_a_folder_that_is_not_there_and_a_file_are_refused(tmp_path):
    with pytest.raises(MissingWeightsError, match="found no folder or file"):
        choose(tmp_path / "nothing")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="is a file; give the folder"):
        choose(tmp_path / "model.safetensors")


OFT = {"model_type": "openvla", "text_config": {"model_type": "llama"}}


@pytest.mark.parametrize(
    ("config", "files", "said"),
    [
        ({"type": "pi05"}, [], r"no model\.safetensors .*; it holds config\.json alone: fetch"),
        (
            {"model_type": "pi0"},
            ["pytorch_model.bin"],
            r"no model\.safetensors .*; it holds pytorch_model\.bin, weights",
        ),
        ({"type": "smolvla"}, ["model.fp16.safetensors"], r"no model\.safetensors .*weights of one variant: rename it"),
        ({"type": "pi0"}, ["model-00001-of-00003.safetensors"], r"no model\.safetensors .*shards without their"),
        (OFT, ["model.safetensors"], r"no action_head--\*\.pt"),
        (OFT, ["lora_adapter/adapter_model.safetensors"], r"no model\.safetensors .*merge_lora"),
        ({"places": 4, "max_bytes": 9}, [], r"no model\.safetensors .*config\.json alone"),
    ],
)
def test_a_folder_that_lacks_something_says_what_and_what_is_there_instead(tmp_path, config, files, said):
    (tmp_path / "config.json").write_text(json.dumps(config))
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        save_file({"w": torch.zeros(1)}, tmp_path / name)
    with pytest.raises(MissingWeightsError, match=rf"{tmp_path.name} holds {said}"):
        load_policy(tmp_path)


def test_ten_names_at_most_are_listed(tmp_path):
    for number in range(300):
        (tmp_path / f"{number:03d}.txt").write_text("")
    with pytest.raises(CheckpointError, match=r"It holds 000\.txt, .*009\.txt and 290 more, config"):
        choose(tmp_path)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"train": "expret"}, "unknown train 'expret'. Did you mean 'expert'"),
        ({"without_state": "zero"}, "unknown without_state 'zero'"),
        ({"exec_steps": 0}, "exec_steps must be at least 1 or None"),
    ],
)
def test_options_are_checked(wrong, message):
    error = UnknownOptionError if "unknown" in message else ValueError
    with pytest.raises(error, match=message):
        LoadOptions(**wrong)
