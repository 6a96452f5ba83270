"""Prompts as the policies were trained on them, and sequences of unequal length in one batch."""

import numpy as np
import pytest
import torch

from prophet_gym.errors import MissingWeightsError
from prophrl_algos.vla.prismatic._config import read_tokenizer
from prophrl_algos.vla.prismatic._policy import attention_bias, windows


def said(policy, instruction):
    obs = policy.prepare({"image": np.zeros((1, 28, 28, 3), np.uint8)}, [instruction])
    return obs["tokens"][0][obs["token_mask"][0]].tolist()


def test_vla_adapters_prompt_is_qwens_chat(loaded):
    policy = loaded("vla-adapter", without_state="mean")
    tokens = said(policy, "Pick up the MILK")
    assert policy.tokenizer.decode(tokens, skip_special_tokens=False) == (
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nWhat action should the robot take to pick up the milk?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokens[0] == policy.tokenizer.encode("<|im_start|>").ids[0]


def test_ofts_prompt_begins_a_text_and_ends_with_the_empty_token_once(loaded, monkeypatch):
    policy = loaded("openvla-oft", without_state="mean")
    inside = said(policy, "Stop")
    assert inside[0] == policy.tokenizer.encode("").ids[0] == 1
    assert inside[-1] == 29871
    text = "In: What action should the robot take to stop?\nOut:"
    assert inside[1:-1] == policy.tokenizer.encode(text).ids[1:]
    monkeypatch.setattr(type(policy), "LAST", inside[-2])
    assert said(policy, "Stop") == inside[:-1]


def test_a_prompt_that_is_too_long_is_refused_not_cut(loaded):
    with pytest.raises(ValueError, match="at most 96 tokens, got"):
        said(loaded("openvla-oft", without_state="mean"), "stop " * 40)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(MissingWeightsError, match=r"holds no tokenizer\.json"):
        read_tokenizer(tmp_path, None)


def test_windows_are_taken_where_each_row_wants():
    batch = torch.tensor([[0, 1, 2, 10, 11], [10, 11, 0, 0, 0]])[:, :, None]
    assert windows(batch.float(), torch.tensor([3, 0]), 2)[:, :, 0].tolist() == [[10, 11], [10, 11]]


@pytest.mark.parametrize("causal", [True, False])
def test_nothing_sees_padding_and_a_causal_model_not_what_comes(causal):
    seen = attention_bias(torch.tensor([3, 2]), 3, torch.float32, causal=causal)[:, 0] == 0
    after = [[True, causal < 1, causal < 1], [True, True, causal < 1], [True, True, True]]
    assert seen[0].tolist() == after
    assert not seen[1, :, 2].any()
