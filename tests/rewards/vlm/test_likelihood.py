"""Token likelihoods as a reward, on the tiny untrained Qwen2.5-VL."""

import json

import pytest
import torch

pytest.importorskip("transformers", reason="needs the extra vlm")

from prophet_gym.errors import CheckpointError, MissingWeightsError
from prophet_gym.rewards import LikelihoodConfig, LikelihoodReward, LocalVlm, Prompt
from prophet_gym.testing import check_reward_model


@pytest.fixture(scope="module")
def model(tiny_qwen) -> LocalVlm:
    return LocalVlm.from_pretrained(str(tiny_qwen))


def videos(*lengths: int) -> list[torch.Tensor]:
    source = torch.Generator().manual_seed(0)
    return [torch.randint(256, (n, 16, 16, 3), generator=source, dtype=torch.uint8) for n in lengths]


def test_the_reward_is_the_share_of_success_among_the_two_words(model):
    reward_model = LikelihoodReward(model, LikelihoodConfig(reward="progress"), prompt=Prompt("$instruction?"))
    output = reward_model.score(videos(2), ["x"])
    with torch.no_grad():
        logits = model.word_logits([reward_model.question(videos(2)[0], "x")], ("Success", "Failure"))
    assert torch.allclose(output.reward, logits.softmax(1)[:, 0], atol=1e-6)
    assert torch.equal(output.probability, output.reward)
    assert output.done.tolist() == [bool(output.reward >= 0.5)]
    low, high = LikelihoodConfig(threshold=1e-6), LikelihoodConfig(threshold=1 - 1e-6)
    paid = [
        LikelihoodReward(model, c, prompt=reward_model.prompt).score(videos(2), ["x"]).reward.item()
        for c in (low, high)
    ]
    assert paid == [1.0, 0.0]


def test_the_contract_on_odd_videos(model):
    reward_model = LikelihoodReward(model, LikelihoodConfig(shown=2), prompt=Prompt("$instruction?"))
    check_reward_model(reward_model, videos=videos(0, 1, 1000), instructions=["a", "汤 {x}\n", "<|image_pad|>"])
    assert reward_model.score(videos(0, 1), ["a", "b"]).scored.tolist() == [False, True]


def test_saved_and_loaded(model, tmp_path):
    prompt = Prompt("Fertig? $instruction $criteria", {"*": "ganz"})
    reward_model = LikelihoodReward(model, LikelihoodConfig(base=model.name, threshold=0.3, shown=3), prompt=prompt)
    reward_model.save_pretrained(tmp_path)
    loaded = LikelihoodReward.from_pretrained(tmp_path)
    assert (loaded.config, loaded.prompt) == (reward_model.config, prompt)
    assert torch.equal(loaded.score(videos(3), ["x"]).probability, reward_model.score(videos(3), ["x"]).probability)
    (tmp_path / "likelihood.json").write_text(json.dumps({"base": model.name, "depth": 3}))
    with pytest.raises(CheckpointError, match="keys: base, threshold"):
        LikelihoodReward.from_pretrained(tmp_path)
    with pytest.raises(MissingWeightsError, match=r"a folder with likelihood\.json"):
        LikelihoodReward.from_pretrained(tmp_path / "gone")


def test_bad_config():
    with pytest.raises(ValueError, match="threshold must be between 0 and 1"):
        LikelihoodConfig(threshold=1.0)


def test_a_model_that_says_nothing_finite_leaves_rows_unjudged(model, monkeypatch):
    odds = torch.tensor([[float("nan"), 0.0], [float("inf"), 0.0], [1.0, 0.0]])
    monkeypatch.setattr(model, "word_logits", lambda *_: odds)
    reward_model = LikelihoodReward(model, LikelihoodConfig(reward="progress"), prompt=Prompt("$instruction?"))
    with pytest.warns(RuntimeWarning, match="no finite likelihood for 2 of 3 videos"):
        output = reward_model.score(videos(1, 1, 1), ["a", "b", "c"])
    reward_model.score(videos(1, 1, 1), ["a", "b", "c"])  # said once
    assert output.scored.tolist() == [False, False, True]
    assert output.reward.tolist() == [0.0, 0.0, torch.sigmoid(torch.tensor(1.0)).item()]
    assert output.done.tolist() == [False, False, True]
