"""What every reward model holds to: it takes uint8 videos alone, and gives finite float32, whatever happens."""

import copy
import pickle

import jaxtyping
import numpy as np
import pytest
import torch

from prophet_gym.envs import ProphetEnv
from prophet_gym.errors import CheckpointError, InvalidRewardError
from prophet_gym.rewards import (
    FunctionReward,
    ObjectReader,
    Patience,
    Prompt,
    Question,
    ReachReward,
    RelativeReward,
    RemoteVlm,
    Reply,
    SuccessHead,
    SuccessHeadConfig,
    VlmReward,
    reach_instruction,
)
from prophet_gym.testing import CountingWorldModel, counting_starts
from prophet_gym.world_model import RewardOutput


class Bright:
    """Answers by the brightness of the last frame."""

    name = "bright"

    def answer(self, questions):
        return [Reply(rf"\box{{{'Success' if q.parts[-2].float().mean() > 99 else 'Failure'}}}") for q in questions]


def head() -> SuccessHead:
    torch.manual_seed(0)
    return SuccessHead(SuccessHeadConfig(width=4, image_size=16, min_consecutive=1)).eval()


MODELS = {
    "head": head,
    "relative": lambda: RelativeReward(head(), chunk=1),
    "function": lambda: FunctionReward(lambda video, instruction: 0.5),
    "reach": lambda: ReachReward(lambda frames: torch.full((len(frames), 2), 0.5)),
    "vlm": lambda: VlmReward(Bright(), samples=1, prompt=Prompt("$instruction")),
}
INSTRUCTION = reach_instruction((0.5, 0.5))
WRONG = {
    "float": torch.zeros(2, 8, 8, 3),
    "int": torch.zeros(2, 8, 8, 3, dtype=torch.int64),
    "channels first": torch.zeros(2, 3, 8, 8, dtype=torch.uint8),
    "RGBA": torch.zeros(2, 8, 8, 4, dtype=torch.uint8),
    "one frame": torch.zeros(8, 8, 3, dtype=torch.uint8),
    "gray": torch.zeros(2, 8, 8, dtype=torch.uint8),
    "no pixels": torch.zeros(2, 0, 8, 3, dtype=torch.uint8),
    "array": np.zeros((2, 8, 8, 3), np.uint8),
    "None": None,
}


@pytest.fixture
def unchecked(monkeypatch):
    """As outside of tests: nothing checks what annotations say."""
    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)


@pytest.mark.parametrize("wrong", WRONG)
@pytest.mark.parametrize("name", MODELS)
def test_what_is_no_video_is_refused_in_a_sentence(name, wrong, unchecked):
    good = torch.zeros(2, 8, 8, 3, dtype=torch.uint8)
    with pytest.raises(ValueError, match=r"^video 1 must be a uint8 tensor \(frames, height, width, 3\), RGB, got "):
        MODELS[name]().score([good, WRONG[wrong]], [INSTRUCTION] * 2)


@pytest.mark.parametrize("name", MODELS)
def test_each_video_has_one_instruction(name, unchecked):
    good = torch.zeros(2, 8, 8, 3, dtype=torch.uint8)
    with pytest.raises(ValueError, match="each video needs its instruction, got 1 and 2"):
        MODELS[name]().score([good], [INSTRUCTION] * 2)
    with pytest.raises(ValueError, match="instruction 0 must be a text, got NoneType"):
        MODELS[name]().score([good], [None])


@pytest.mark.parametrize("wrong", sorted(set(WRONG) - {"one frame"}))
def test_a_question_is_of_texts_and_frames_alone(wrong, unchecked):
    with pytest.raises(ValueError, match=r"part 1 .* must be a uint8 tensor \(height, width, 3\), RGB, got "):
        Question(("Step 0:", WRONG[wrong]))


@pytest.mark.parametrize("name", MODELS)
def test_rewards_do_not_depend_on_the_default_dtype(name):
    source = torch.Generator().manual_seed(0)
    videos = [torch.randint(256, (3, 16, 16, 3), generator=source, dtype=torch.uint8) for _ in range(3)]

    def score():
        return MODELS[name]().score(videos, [INSTRUCTION] * 3)

    expected, earlier = score(), torch.get_default_dtype()
    weights_first = MODELS[name]()
    torch.set_default_dtype(torch.float64)
    try:
        found = score()
        weights_first.score(videos, [INSTRUCTION] * 3)
    finally:
        torch.set_default_dtype(earlier)
    assert found.reward.dtype == torch.float32
    assert found.probability is None or found.probability.dtype == torch.float32
    assert found.scored.tolist() == expected.scored.tolist()
    if name not in ("head", "relative"):  # other weights are drawn there
        assert torch.equal(found.reward, expected.reward)


def test_saved_networks_load_under_another_default_dtype(tmp_path):
    torch.manual_seed(0)
    frames = torch.randint(256, (3, 64, 64, 3), dtype=torch.uint8)
    reward_model, reader = SuccessHead().eval(), ObjectReader().eval()
    reward_model.save_pretrained(tmp_path / "head")
    reader.save_pretrained(tmp_path / "reader")
    torch.set_default_dtype(torch.float64)
    try:
        likely = SuccessHead.from_pretrained(tmp_path / "head").probabilities(frames, "x")
        places = ObjectReader.from_pretrained(tmp_path / "reader").positions(frames, "x")
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.allclose(likely, reward_model.probabilities(frames, "x"), atol=1e-5)
    assert torch.allclose(places, reader.positions(frames, "x"), atol=1e-4)


@pytest.mark.parametrize("factor", [float("nan"), float("inf"), 1e30])
@pytest.mark.parametrize("name", ["head", "relative"])
def test_weights_that_compute_nothing_finite_are_not_failures(name, factor):
    network = head()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter *= factor
    model = network if name == "head" else RelativeReward(network, chunk=1)
    with pytest.raises(CheckpointError, match="success head computes numbers that are not finite"):
        model.score([torch.full((3, 16, 16, 3), 99, dtype=torch.uint8)], ["x"])


def test_a_gripper_that_is_found_nowhere_is_an_error():
    reward_model = ReachReward(lambda frames: torch.full((len(frames), 2), float("nan")))
    with pytest.raises(ValueError, match="find_gripper must return finite places"):
        reward_model.score([torch.zeros(1, 8, 8, 3, dtype=torch.uint8)], [INSTRUCTION])


@pytest.mark.parametrize(
    "again", [copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))], ids=["copy", "pickle"]
)
def test_an_env_with_an_endpoint_is_copied(server, again):
    server.script = [
        lambda handler: handler.send(b'{"choices": [{"message": {"content": "It is in. \\\\box{Success}"}}]}')
    ]
    model = RemoteVlm(server.url, "m", patience=Patience(timeout=5.0), refused=["seed"])
    reward = VlmReward(model, samples=1, when="chunk", prompt=Prompt("$instruction"))
    env = ProphetEnv(CountingWorldModel(), counting_starts(), reward_model=reward)
    env.reset(seed=0)
    twin = again(env)
    for each in (env, twin):
        _, paid, *_, info = each.step(np.zeros(each.action_space.shape, np.float32))
        assert (paid, bool(info["scored"])) == (1.0, True)
    copied = again(model)
    assert (copied.refused, copied.patience, copied.name) == (model.refused, model.patience, model.name)


YES, NO = torch.tensor([True, True]), torch.tensor([False, True])


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (([0.0, float("nan")], YES), "a reward must be a finite number in float32, got nan for video 1 of 2"),
        (([float("-inf"), 0.0], YES), "got -inf for video 0 of 2"),
        (([float("nan"), 0.0], NO), "got nan for video 0 of 2; say scored=False, with a reward of 0"),
        ((torch.tensor([0.0, 1e300], dtype=torch.float64), YES), r"got 1e\+300 for video 1"),
        (([1, 0], YES), r"reward must be a floating-point tensor \(videos,\), .* got torch.int64 \(2,\)"),
        ((torch.zeros(2, 1), YES), r"reward must be .* got torch.float32 \(2, 1\)"),
        (([0.0, 1.0], torch.ones(2)), r"scored must be a bool tensor \(2,\), .* got torch.float32 \(2,\)"),
        (([0.0, 1.0], torch.ones(3, dtype=torch.bool)), r"scored must be .* got torch.bool \(3,\)"),
        (([0.0, 1.0], YES, torch.ones(1, dtype=torch.bool)), r"done must be a bool tensor \(2,\)"),
        (([0.0, 1.0], YES, None, torch.tensor([0.5, 1.5])), "a probability must be in 0..1, got 1.5 for video 1"),
        (
            ([0.0, 1.0], YES, None, torch.tensor([float("nan"), 0.5])),
            "a probability must be in 0..1, got nan for video 0",
        ),
    ],
)
def test_a_verdict_holds_finite_numbers_for_every_video(parts, message, unchecked):
    reward, *others = parts
    with pytest.raises(InvalidRewardError, match=message):
        RewardOutput(torch.as_tensor(reward), *others)


def test_what_is_not_judged_has_no_probability(unchecked):
    output = RewardOutput(torch.tensor([0.0, 1.0]), NO, probability=torch.tensor([float("nan"), 1.0]))
    assert output.success.tolist() == [False, True]
