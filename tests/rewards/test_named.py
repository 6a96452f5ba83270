"""Judges by name: each form gives its judge, with its options; what does not exist is refused with what does."""

import pytest
import torch

from prophet_gym._checks import read_options
from prophet_gym.errors import MissingWeightsError, UnknownOptionError
from prophet_gym.rewards import (
    LikelihoodReward,
    RelativeReward,
    SuccessHead,
    SuccessHeadConfig,
    VlmReward,
    make_reward_model,
)


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    folder = tmp_path_factory.mktemp("head")
    torch.manual_seed(0)
    SuccessHead(SuccessHeadConfig(threshold=0.25)).save_pretrained(folder)
    return folder


def test_the_head_of_a_checkpoint(head):
    reward_model = make_reward_model("success", head)
    assert isinstance(reward_model, SuccessHead)
    assert reward_model.config.threshold == 0.25
    assert make_reward_model("success", head) is reward_model
    assert make_reward_model("classifier", head).config == reward_model.config
    assert make_reward_model(str(head)).config == reward_model.config
    relative = make_reward_model("classifier?reward=relative&chunk=5", head)
    assert isinstance(relative, RelativeReward)
    assert relative.chunk == 5
    assert make_reward_model("classifier?reward=relative", head, chunk=3).chunk == 3
    with pytest.raises(ValueError, match="chunk belongs to reward=relative"):
        make_reward_model("classifier?chunk=5", head)
    with pytest.raises(MissingWeightsError, match="does not exist"):
        make_reward_model("classifier", head / "none")
    with pytest.raises(UnknownOptionError, match=r"'dense'.*Known: relative, sparse"):
        make_reward_model("classifier?reward=dense", head)


def test_an_endpoint_with_options(tmp_path):
    prompt = tmp_path / "mine.txt"
    prompt.write_text("$instruction?")
    name = f"vlm:https://host:8000/v1?samples=3&when=chunk&timeout=7&max_tokens=9&prompt={prompt}#Qwen/Qwen3-VL-8B"
    reward_model = make_reward_model(name)
    assert isinstance(reward_model, VlmReward)
    assert (reward_model.ballot.samples, reward_model.when, reward_model.prompt.text) == (3, "chunk", "$instruction?")
    model = reward_model.model
    assert (model.host, model.url, model.model) == ("host", "https://host:8000/v1", "Qwen/Qwen3-VL-8B")
    assert (model.patience.timeout, model.max_tokens) == (7.0, 9)


def test_models_on_this_machine(tiny_qwen):
    pytest.importorskip("transformers", reason="needs the extra vlm")
    votes = make_reward_model(f"vlm:{tiny_qwen}?samples=1&max_new_tokens=2&stride=2&shown=4")
    assert (votes.ballot.samples, votes.stride, votes.shown, votes.model.max_new_tokens) == (1, 2, 4, 2)
    likely = make_reward_model(f"likelihood:{tiny_qwen}?reward=progress&threshold=0.7&when=chunk")
    assert isinstance(likely, LikelihoodReward)
    assert (likely.config.reward, likely.config.threshold, likely.when) == ("progress", 0.7, "chunk")
    output = likely.score([torch.zeros(1, 8, 8, 3, dtype=torch.uint8)], ["x"])
    assert 0 < float(output.reward) < 1
    with pytest.raises(ValueError, match="bits must be 4, 8 or None, got 3"):
        make_reward_model(f"vlm:{tiny_qwen}?bits=3")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sucess", "Did you mean 'success'"),
        ("oracle", "a dream has no oracle"),
        ("None", r"^the text 'None' names no reward; where none is wanted, give None itself: reward=None$"),
        ("vlm:MODEL?x=1", "unknown option of this reward 'x'"),
        ("vlm:http://host/v1", "needs the name of a model"),
        ("vlm:http://host/v1?sample=3#m", "Did you mean 'samples'"),
        ("vlm:http://host/v1?samples=many#m", "samples must be a whole number, got 'many'"),
        ("vlm:http://host/v1?samples=0#m", "samples must be an integer of at least 1, got 0"),
        ("vlm:http://host/v1?bits=4#m", "unknown option of this reward 'bits'"),
        ("vlm:/nowhere/at/all", "could not load the vision-language model"),
        ("vlm:http://host/v1?prompt=gone#m", "got 'gone'"),
        ("vlm:http://host/v1?timeout=nan#m", "timeout must be a finite number above 0, got nan"),
        # what is asked is read before weights are looked for
        ("vlm:/nowhere/at/all?samples=0", "samples must be an integer"),
        ("vlm:/nowhere/at/all?batch=0", "batch must be an integer"),
        ("likelihood:/nowhere/at/all?threshold=2", "threshold must be between 0 and 1"),
    ],
)
def test_what_does_not_exist(name, message):
    with pytest.raises((UnknownOptionError, ValueError, FileNotFoundError), match=message):
        make_reward_model(name)


MODULE = """
import torch
from prophet_gym.rewards import FunctionReward

def brightness(video, instruction):
    return float(video[-1].float().mean()) / 255

class Dark(FunctionReward):
    def __init__(self):
        super().__init__(lambda video, instruction: 1 - brightness(video, instruction), when="end")

nothing = 3
"""


def test_a_function_or_class_of_a_module(tmp_path, monkeypatch):
    (tmp_path / "my_rewards.py").write_text(MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))
    white = [torch.full((2, 4, 4, 3), 255, dtype=torch.uint8)]
    bright = make_reward_model("my_rewards:brightness?stride=4&max_frames=2")
    assert (bright.stride, bright.max_frames, bright.when) == (4, 2, "chunk")
    assert bright.score(white, ["x"]).reward.tolist() == [1.0]
    dark = make_reward_model("my_rewards:Dark")
    assert (dark.when, dark.score(white, ["x"]).reward.tolist()) == ("end", [0.0])
    for name, message in {
        "my_rewards:nothing": "must be a function of a video",
        "my_rewards:gone": "my_rewards has no 'gone'",
        "no_such_module:f": "needs an importable module 'no_such_module'",
        "my_rewards:brightness?strides=4": "Did you mean 'stride'",
        "my_rewards:Dark?stride=4": "unknown option",
    }.items():
        with pytest.raises(UnknownOptionError, match=message):
            make_reward_model(name)


def test_values_are_read():
    assert read_options("option", {"a": "3", "b": ""}, {"a": int, "b": str}) == {"a": 3, "b": ""}
