"""Prompts as the policies were trained on them, and sequences of unequal length in one batch."""

import pytest
import torch

from prophet_gym.errors import MissingWeightsError
from prophrl_algos.vla.prismatic import OpenVLAOFT, VLAAdapter
from prophrl_algos.vla.prismatic._sequence import Prompt, Tokenizer, attention_bias, padded, prompt_tokens, windows


@pytest.fixture
def tokenizer(checkpoint):
    """`tokenizer(family)`: the checkpoint's own."""
    return lambda family: Tokenizer(checkpoint(family).tokenizer.to_str())


def test_vla_adapters_prompt_is_qwens_chat(tokenizer):
    read = tokenizer("vla-adapter")
    tokens, mask = prompt_tokens(read, VLAAdapter.PROMPT, ["Pick up the MILK"])
    text = read._backend.decode(tokens[0][mask[0]].tolist(), skip_special_tokens=False)
    assert text == (
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\nWhat action should the robot take to pick up the milk?<|im_end|>\n<|im_start|>assistant\n"
    )
    assert tokens[0, 0] == read("<|im_start|>")[0]


def test_ofts_prompt_begins_a_text_and_ends_with_the_empty_token_once(tokenizer):
    read = tokenizer("openvla-oft")
    tokens, mask = prompt_tokens(read, OpenVLAOFT.PROMPT, ["Stop"])
    inside = tokens[0][mask[0]].tolist()
    assert inside[0] == read("")[0] == 1
    assert inside[-1] == 29871
    assert inside[1:-1] == read("In: What action should the robot take to stop?\nOut:")[1:]
    ends = Prompt("{task}", last=inside[-2], stop=2)
    again, seen = prompt_tokens(read, ends, ["Out:"])
    assert again[0][seen[0]].tolist().count(inside[-2]) == 1


def test_a_prompt_that_is_too_long_is_refused_not_cut(tokenizer):
    with pytest.raises(ValueError, match="at most 5 tokens, got"):
        prompt_tokens(tokenizer("openvla-oft"), OpenVLAOFT.PROMPT, ["stop"], max_tokens=5)


def test_a_folder_without_a_tokenizer_is_refused(tmp_path):
    with pytest.raises(MissingWeightsError, match=r"holds no tokenizer\.json"):
        Tokenizer.from_folder(tmp_path)


def test_rows_are_padded_behind_and_windows_are_taken_where_each_row_wants():
    one, two = torch.arange(3.0)[:, None], torch.arange(10.0, 12)[:, None]
    batch, lengths = padded([[one, two], [two]])
    assert batch[:, :, 0].tolist() == [[0, 1, 2, 10, 11], [10, 11, 0, 0, 0]]
    assert lengths.tolist() == [5, 2]
    assert windows(batch, lengths - 2, 2)[:, :, 0].tolist() == [[10, 11], [10, 11]]


@pytest.mark.parametrize("causal", [True, False])
def test_nothing_sees_padding_and_a_causal_model_not_what_comes(causal):
    seen = attention_bias(torch.tensor([3, 2]), 3, torch.float32, causal=causal)[:, 0] == 0
    after = [[True, causal < 1, causal < 1], [True, True, causal < 1], [True, True, True]]
    assert seen[0].tolist() == after
    assert not seen[1, :, 2].any()
