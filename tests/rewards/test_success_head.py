"""The success head: its verdict rule by hand, its words, its files."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from prophet_gym.errors import CheckpointError, MissingWeightsError
from prophet_gym.rewards import FunctionReward, SuccessHead, SuccessHeadConfig
from prophet_gym.rewards._classifier import best_consecutive, hash_words, shrink


def brightness_head(min_consecutive: int = 3) -> SuccessHead:
    """A head whose probability is above one half exactly where the frame is brighter than grey."""
    head = SuccessHead(SuccessHeadConfig(min_consecutive=min_consecutive))

    def forward(frames, words):
        return frames.float().mean((1, 2, 3)) - 127.5

    head.forward = forward
    return head.eval()


def video(*levels: int) -> torch.Tensor:
    return torch.tensor(levels, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 16, 16, 3).contiguous()


def test_success_must_be_held():
    videos = [
        video(0, 255, 255, 255, 0),
        video(255, 255, 0, 255, 255),
        video(255, 255),
        video(0, 0, 255, 255, 255),
        video(0, 0, 0, 0),
    ]
    output = brightness_head(min_consecutive=3).score(videos, ["x"] * 5)
    assert output.reward.tolist() == [1.0, 0.0, 0.0, 1.0, 0.0]
    assert output.scored.all()
    assert brightness_head(min_consecutive=2).score(videos, ["x"] * 5).reward.tolist() == [1.0, 1.0, 1.0, 1.0, 0.0]


@pytest.mark.parametrize(
    ("above", "frames", "expected"),
    [([1, 1, 0, 1], 2, True), ([1, 0, 1, 0], 2, False), ([1], 1, True), ([1, 1], 3, False), ([], 1, False)],
)
def test_held(above, frames, expected):
    assert (best_consecutive(torch.tensor(above, dtype=torch.float32), frames) >= 0.5) is expected


def test_the_window_reaches_back_over_the_chunk_border():
    config = SuccessHeadConfig()
    assert config.max_frames == 8 + config.min_consecutive - 1
    assert SuccessHead(config).max_frames == config.max_frames


def test_words_are_the_same_on_every_machine_and_in_any_order():
    one = hash_words("put the soup in the basket", 128)
    assert torch.equal(one, hash_words("In the basket, put the SOUP.", 128))
    assert one.nonzero()[:, 0].tolist() == [78, 84, 102, 123, 124]
    assert float(one.norm()) == pytest.approx(1.0)
    assert float(one @ hash_words("put the milk in the basket", 128)) < 0.95


def test_shrink_averages_areas():
    frames = torch.zeros(1, 4, 4, 3, dtype=torch.uint8)
    frames[0, 0, 0] = 255
    assert shrink(frames, 2)[0, 0].tolist() == [[-0.5, -1.0], [-1.0, -1.0]]


def test_instruction_and_picture_both_reach_the_output():
    torch.manual_seed(0)
    head = SuccessHead().eval()
    frames = torch.randint(256, (2, 128, 128, 3), dtype=torch.uint8)
    soup = head.probabilities(frames, "put the soup in the basket")
    milk = head.probabilities(frames, "put the milk in the basket")
    assert (soup != milk).all()
    assert soup[0] != soup[1]


def test_it_is_small():
    assert sum(parameter.numel() for parameter in SuccessHead().parameters()) < 300_000


def test_save_and_load_give_the_same_judge(tmp_path):
    torch.manual_seed(1)
    head = SuccessHead(SuccessHeadConfig(min_consecutive=2, width=8)).eval().with_threshold(0.3)
    head.save_pretrained(tmp_path)
    loaded = SuccessHead.from_pretrained(tmp_path)
    frames = torch.randint(256, (3, 128, 128, 3), dtype=torch.uint8)
    assert loaded.config == head.config
    assert loaded.config.threshold == 0.3
    assert torch.equal(loaded.probabilities(frames, "x"), head.probabilities(frames, "x"))


def test_missing_and_damaged_files(tmp_path):
    with pytest.raises(MissingWeightsError, match="success head is a folder"):
        SuccessHead.from_pretrained(tmp_path)
    SuccessHead().save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps(config | {"width": 8}))
    with pytest.raises(CheckpointError, match="of another shape"):
        SuccessHead.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config | {"depth": 8}))
    with pytest.raises(CheckpointError, match="config keys: image_size, width"):
        SuccessHead.from_pretrained(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    (tmp_path / "model.safetensors").write_bytes(b"\0" * 10)
    with pytest.raises(CheckpointError, match="damaged"):
        SuccessHead.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("threshold", {}),
        ("threshold", 1.5),
        ("threshold", float("nan")),
        ("threshold", "0.5"),
        ("clearly_not", 1.5),
        ("min_consecutive", 0),
        ("min_consecutive", 1.0),
        ("min_consecutive", True),
        ("max_frames", 2),
        ("width", 6),
        ("width", 10**9),
        ("words", -1),
        ("image_size", 10**6),
        ("image_size", None),
    ],
)
def test_a_config_that_makes_no_sense(tmp_path, key, value):
    SuccessHead().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(CheckpointError, match=rf"the success head in .* is damaged: .*{key}"):
        SuccessHead.from_pretrained(tmp_path)


@pytest.mark.parametrize("number", [float("nan"), float("-inf")])
def test_weights_that_are_not_finite(tmp_path, number):
    SuccessHead().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    weights["out.bias"][0] = number
    save_file(
        weights, tmp_path / "model.safetensors", metadata=safe_open(tmp_path / "model.safetensors", "pt").metadata()
    )
    with pytest.raises(CheckpointError, match=r"out\.bias hold numbers that are not finite"):
        SuccessHead.from_pretrained(tmp_path)


def test_a_function_that_declines_leaves_the_row_unjudged():
    reward_model = FunctionReward(lambda clip, text: None if text == "skip" else float(clip[-1, 0, 0, 0]))
    output = reward_model.score([video(1, 2), video(3), video(4)], ["a", "skip", "b"])
    assert output.reward.tolist() == [2.0, 0.0, 4.0]
    assert output.scored.tolist() == [True, False, True]


def test_a_function_is_not_asked_about_no_frames():
    reward_model = FunctionReward(lambda clip, text: float(clip[-1, 0, 0, 0]))
    output = reward_model.score([video(7)[:0], video(3)], ["a", "b"])
    assert (output.reward.tolist(), output.scored.tolist()) == ([0.0, 3.0], [False, True])
    assert reward_model.score([], []).reward.shape == (0,)


def test_a_function_judge_with_bad_arguments():
    with pytest.raises(ValueError, match="stride must be an integer of at least 1, got 0"):
        FunctionReward(lambda *_: 1.0, stride=0)
