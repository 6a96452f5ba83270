"""Training judges: the vision-language backbone learns a separable toy set through its adapters alone."""

import importlib.util
import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra vlm")
pytest.importorskip("peft", reason="needs the extra train")

from prophet_gym.data._episode import LabelledVideo
from prophet_gym.data._recording import META
from prophet_gym.rewards import LikelihoodConfig, LikelihoodReward, LocalVlm, Prompt
from prophet_gym.train._fit import CosineConfig
from prophet_gym.train._reward import Args, Clip, add_adapters, clip_at, main, measure, train_adapters

ADAPTERS = CosineConfig(40, 2e-2, weight_decay=0.0, clip=1.0)


@pytest.fixture(scope="module")
def tiny_qwen(tmp_path_factory) -> Path:
    spec = importlib.util.spec_from_file_location("tiny", Path(__file__).parents[1] / "rewards" / "conftest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.save_tiny_qwen(tmp_path_factory.mktemp("tiny_qwen"))


def coloured(done: bool, seed: int) -> Clip:
    """Done is a bright last frame."""
    noise = np.random.default_rng(seed).integers(-20, 20, size=(2, 8, 8, 3))
    shades = np.array([128, 220 if done else 36]).reshape(2, 1, 1, 1)
    return Clip(torch.from_numpy((shades + noise).astype(np.uint8)), "make it bright", done)


def test_adapters_learn_a_separable_toy_set(tiny_qwen, tmp_path):
    model = LocalVlm.from_pretrained(str(tiny_qwen), batch=8)
    before = {name: value.clone() for name, value in model.model.state_dict().items()}
    reward_model = LikelihoodReward(
        model, LikelihoodConfig(base=str(tiny_qwen), when="chunk"), prompt=Prompt("$instruction?")
    )
    fresh = [coloured(bool(i % 2), 1000 + i) for i in range(16)]
    untrained = reward_model.score([c.frames for c in fresh], [c.instruction for c in fresh]).probability
    add_adapters(model, rank=8)
    assert torch.allclose(
        untrained, reward_model.score([c.frames for c in fresh], [c.instruction for c in fresh]).probability, atol=1e-6
    )
    seeds = iter(range(10**6))
    train_adapters(reward_model, lambda g: coloured(g.random() < 0.3, next(seeds)), ADAPTERS, batch=8)
    found = measure(reward_model, fresh)
    assert found["auroc"] == 1.0
    assert (found["precision"], found["recall"]) == (1.0, 1.0)
    after = {name: value for name, value in model.model.get_base_model().state_dict().items() if "lora" not in name}
    assert all(torch.equal(value, before[name.replace(".base_layer", "")]) for name, value in after.items())
    reward_model.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.safetensors"))
    loaded = LikelihoodReward.from_pretrained(tmp_path)
    clip = fresh[1]
    expected = reward_model.score([clip.frames], [clip.instruction]).probability
    assert torch.allclose(loaded.score([clip.frames], [clip.instruction]).probability, expected, atol=1e-5)


def test_clips_end_where_they_say_and_are_done_when_success_is_held():
    frames = np.arange(20, dtype=np.uint8).reshape(20, 1, 1, 1).repeat(3, -1)
    success = np.zeros(20, bool)
    success[10:] = True
    video = LabelledVideo(frames, success, "x")
    assert clip_at(video, 12, 5).frames[:, 0, 0, 0].tolist() == [0, 5, 10, 12]
    assert [clip_at(video, end, 5).done for end in (9, 10, 11, 12, 19)] == [False, False, False, True, True]


def test_both_kinds_are_needed(tiny_qwen):
    reward_model = LikelihoodReward(LocalVlm.from_pretrained(str(tiny_qwen)))
    with pytest.raises(ValueError, match="got 0 and 2 of each 2"):
        train_adapters(reward_model, lambda g: coloured(False, 0), replace(ADAPTERS, steps=1), batch=4)
    with pytest.raises(ValueError, match="rank of an adapter"):
        add_adapters(reward_model.model, rank=0)


def write_toys(record: Callable[..., None], folder: Path, **meta: str) -> Path:
    for index in range(10):
        success = np.zeros(12, bool)
        success[6:] = index % 3 == 0
        frames = np.where(success[:, None, None, None], 220, 40).astype(np.uint8).repeat(32, 1).repeat(32, 2)
        about = {"instruction": "make it bright", "suite": "squares", "look": "plain"}
        record(folder, index, success, steps=11, frames=frames.repeat(3, 3), **about)
    (folder / META).write_text(json.dumps(meta))
    return folder


def test_from_a_recording_to_a_judge_by_either_backbone(tiny_qwen, tmp_path, record):
    data = (write_toys(record, tmp_path / "data"),)
    common = {"data": data, "steps": 2, "batch_size": 2, "held_out": 0.5}
    found = main(
        Args(out=tmp_path / "vlm", backbone="vlm", model=str(tiny_qwen), stride=4, shown=2, lora_rank=2, **common)
    )
    assert found["held_out"]["clips"] >= 2
    reward_model = LikelihoodReward.from_pretrained(tmp_path / "vlm")
    assert (reward_model.config.when, reward_model.config.stride, reward_model.config.shown) == ("chunk", 4, 2)
    alone = main(Args(out=tmp_path / "head", image_size=16, **common))
    both = main(Args(out=tmp_path / "both", image_size=16, dreams=(write_toys(record, tmp_path / "dreams"),), **common))
    assert both["train_episodes"] == 2 * alone["train_episodes"]
    assert both["held_out"]["episodes"] == alone["held_out"]["episodes"]


def test_official_starts_are_refused(tmp_path, record):
    official = write_toys(record, tmp_path / "official", starts="official")
    with pytest.raises(ValueError, match="evaluation only"):
        main(Args(data=(official,), out=tmp_path / "out"))


def test_draws_are_a_function_of_the_generator():
    video = LabelledVideo(np.zeros((20, 4, 4, 3), np.uint8), np.zeros(20, bool), "x")
    from prophet_gym.train._reward import cut

    lengths = [len(cut(video, 1, random.Random(seed)).frames) for seed in (0, 0, 1)]
    assert lengths[0] == lengths[1]
    assert min(lengths) >= 2
