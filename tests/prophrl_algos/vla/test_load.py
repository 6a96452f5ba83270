"""A folder is read by the adapter whose layout it has, and an unknown one is one clear error."""

import json

import pytest

from prophet_gym.errors import CheckpointError, MissingWeightsError, UnknownOptionError
from prophrl_algos import LoadOptions, load_policy
from prophrl_algos.vla.load import choose


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
