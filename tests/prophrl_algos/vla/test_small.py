"""The small VLA obeys the contract, listens to the instruction, looks at the picture, and survives a round trip."""

import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from prophet_gym.errors import CheckpointError
from prophrl_algos.flow import FlowSchedule, no_step, sample
from prophrl_algos.testing import check_flow_policy
from prophrl_algos.vla import SmallVLA
from prophrl_algos.vla._load import BUNDLED, LoadOptions, choose, load_policy
from prophrl_algos.vla.small._networks import shrunk, softened, varied
from prophrl_algos.vla.small._policy import pointing_error

SIZES = {"image_size": 16, "places": 4, "width": 16, "layers": 1, "horizon": 2, "action_dim": 3, "signs": ()}
CLONED = "SmallVLA-LIBERO-object-sft"
TEXTS = ("pick up the milk", "pick up the butter")


def white_square(down, across, size=16):
    """Grey with a white square of 4 x 4 pixels."""
    image = np.full((size, size, 3), 90, np.uint8)
    image[down : down + 4, across : across + 4] = 255
    return image


def learn(policy, image, texts, actions, steps=80, rate=1e-2):
    obs = policy.prepare({"image": image}, texts)
    optimizer = torch.optim.Adam(policy.parameters(), lr=rate)
    generator = torch.Generator().manual_seed(0)
    copies = torch.arange(len(texts)).repeat(4)
    policy.train()
    for _ in range(steps):
        optimizer.zero_grad()
        batch = {name: tensor[copies] for name, tensor in obs.items()}
        policy.sft_loss(batch, actions[copies], generator=generator).backward()
        optimizer.step()
    return policy.eval()


def act(policy, image, texts):
    obs = policy.prepare({"image": image}, texts)
    schedule = FlowSchedule(policy.spec.num_steps, 0.0, choose=no_step)
    generators = [torch.Generator().manual_seed(5) for _ in texts]
    return policy.decode(sample(policy, obs, schedule, generators).x0, obs).detach()


@pytest.fixture(scope="module")
def listener():
    """Taught with one picture: +0.5 for the one instruction, -0.5 for the other."""
    image = np.stack([white_square(4, 4)] * 2)
    actions = torch.tensor([0.5, -0.5])[:, None, None].expand(2, 2, 3)
    return learn(SmallVLA(num_steps=4, **SIZES), image, TEXTS, actions), image


@pytest.mark.parametrize(("num_steps", "fit_steps"), [(4, 40), (10, 0)])
def test_it_obeys_the_contract(num_steps, fit_steps):
    images = np.stack([white_square(0, 0, 24), white_square(15, 4, 24), white_square(8, 18, 24)])
    policy = SmallVLA(num_steps=num_steps, **(SIZES | {"signs": (2,)})).eval()
    check_flow_policy(policy, {"image": images}, [*TEXTS, "stop"], fit_steps=fit_steps)


def test_the_default_has_a_few_million_weights_and_chunks_of_eight():
    policy = SmallVLA()
    assert 2e6 < sum(weight.numel() for weight in policy.parameters()) < 5e6
    assert (policy.spec.horizon, policy.spec.exec_steps, policy.spec.num_steps) == (8, 8, 10)


def test_the_same_picture_with_two_instructions_gives_different_actions(listener):
    policy, image = listener
    one, other = act(policy, image, TEXTS)
    assert one.mean() > 0.3
    assert other.mean() < -0.3


def test_an_instruction_that_is_the_same_but_for_capitals_means_the_same(listener):
    policy, image = listener
    assert torch.equal(act(policy, image, TEXTS), act(policy, image, [text.title() for text in TEXTS]))


def test_it_tells_where_something_is():
    images = np.stack([white_square(6, 1), white_square(6, 11)])
    actions = torch.tensor([0.5, -0.5])[:, None, None].expand(2, 2, 3)
    policy = learn(SmallVLA(num_steps=4, shift=1, **SIZES), images, [TEXTS[0]] * 2, actions)
    left, right = act(policy, images, [TEXTS[0]] * 2)
    assert left.mean() > 0.3
    assert right.mean() < -0.3


def test_a_saved_policy_comes_back_and_may_take_another_number_of_steps(listener, tmp_path):
    policy, image = listener
    policy.fit_actions(torch.randn(50, 3, generator=torch.Generator().manual_seed(1)))
    policy.save_pretrained(tmp_path)
    again = SmallVLA.from_pretrained(tmp_path).eval()
    assert torch.equal(act(again, image, TEXTS), act(policy, image, TEXTS))
    slower = SmallVLA.from_pretrained(tmp_path, num_steps=10)
    assert slower.spec.num_steps == 10
    assert torch.equal(slower.action_std, policy.action_std)


def test_it_is_pushed_where_asked_with_what_belongs_to_it(tmp_path, monkeypatch):
    pushed = []
    monkeypatch.setattr(
        SmallVLA, "push_to_hub", lambda self, repo_id, **given: pushed.append((repo_id, given)) or "there"
    )
    policy = SmallVLA(**SIZES)
    assert policy.save_pretrained(tmp_path / "mine") is None
    assert policy.save_pretrained(tmp_path / "mine", push_to_hub=True, private=True) == "there"
    policy.save_pretrained(tmp_path / "mine", push_to_hub=True, repo_id="owner/repo", commit_message="more")
    assert [repo for repo, _ in pushed] == ["mine", "owner/repo"]
    assert pushed[0][1]["private"] is True
    assert pushed[1][1]["commit_message"] == "more"


def test_latents_have_the_scale_of_the_demonstrations_and_the_gripper_is_a_sign():
    policy = SmallVLA(horizon=1, **{name: SIZES[name] for name in ("image_size", "places", "width", "layers")})
    shown = torch.randn(4000, 7, generator=torch.Generator().manual_seed(0)) * 0.3 + 0.1
    shown[:, 3] = 0.0
    policy.fit_actions(shown)
    decoded = policy.decode(torch.ones(1, 1, 7), {})[0, 0]
    assert decoded[:3].tolist() == pytest.approx([0.4] * 3, abs=0.02)
    assert decoded[3].item() == pytest.approx(0.02)
    assert policy.decode(torch.full((1, 1, 7), -0.01), {})[0, 0, 6] == -1
    assert decoded[6] == 1


def test_pictures_are_averaged_and_varied_only_as_much_as_asked():
    image = torch.arange(64, dtype=torch.uint8).view(1, 8, 8, 1).expand(1, 8, 8, 3)
    assert shrunk(image, 4)[0, 0, 0, 0] == round((0 + 1 + 8 + 9) / 4)
    generator = torch.Generator().manual_seed(0)
    same, still = varied(image, 0, 0.0, generator)
    assert torch.equal(same, image.float())
    assert torch.equal(still, torch.zeros(1, 2))
    moved, along = varied(image.expand(200, 8, 8, 3), 1, 0.0, generator)
    assert (36 - 4 * along[:, 0] - 8 * 4 * along[:, 1]).tolist() == moved[:, 4, 4, 0].tolist()
    assert set(moved[:, 4, 4, 0].tolist()) == {36.0 + 8 * down + across for down in (-1, 0, 1) for across in (-1, 0, 1)}


def test_pictures_are_softened_by_a_share_of_their_own():
    dot = torch.zeros(50, 15, 15, 3)
    dot[:, 7, 7] = 255.0
    soft = softened(dot, 1.5, torch.Generator().manual_seed(0))
    torch.testing.assert_close(soft.sum((1, 2)), dot.sum((1, 2)))
    peaks = soft[:, 7, 7, 0]
    assert peaks.min() < 60 < 200 < peaks.max()
    assert torch.equal(soft.amax((1, 2)), soft[:, 7, 7])
    torch.testing.assert_close(soft, soft.transpose(1, 2))
    assert softened(dot, 0, None) is dot


def test_shown_points_teach_its_first_places_where_to_look():
    images = np.stack([white_square(down, across) for down in (0, 6, 12) for across in (0, 6, 12)])
    middles = torch.tensor([(across + 2, down + 2) for down in (0, 6, 12) for across in (0, 6, 12)]) / 8 - 1
    policy = SmallVLA(num_steps=4, shift=1, **SIZES)
    obs = policy.prepare({"image": images}, [TEXTS[0]] * 9)
    obs["points"] = torch.stack([middles, torch.full((9, 2), torch.nan)], 1)
    optimizer = torch.optim.Adam(policy.parameters(), lr=1e-2)
    generator = torch.Generator().manual_seed(0)
    for _ in range(150):
        optimizer.zero_grad()
        policy.sft_loss(obs, torch.zeros(9, 2, 3), generator=generator).backward()
        optimizer.step()
    # Between the centres of the outer of four cells, not from edge to edge.
    seen = policy.eval()._look(obs["image"], obs["text"])[1].detach() * 3 / 4
    assert (seen[:, 0] - middles).abs().max() < 0.2
    assert (seen[:, 1] - middles).abs().max() > 0.4


def test_points_outside_the_picture_teach_nothing():
    centres = torch.tensor([[[0.5, 0.5], [0.0, 0.0]]])
    inside = torch.tensor([[[0.25, 0.5]]]) * 3 / 4
    assert pointing_error(centres, inside, 4).item() == pytest.approx(0.25**2)
    points = torch.cat([inside, torch.tensor([[[1.5, 0.0]]])], 1)
    assert pointing_error(centres, points, 4).item() == pytest.approx(0.25**2)
    assert pointing_error(centres, torch.full((1, 1, 2), torch.nan), 4).item() == 0.0


def test_in_eval_mode_nothing_is_varied_and_in_train_mode_it_is():
    policy = SmallVLA(**SIZES)
    obs = policy.prepare({"image": white_square(3, 9)[None]}, TEXTS[:1])
    actions = torch.zeros(1, 2, 3)
    losses = []
    for mode in (True, False):
        policy.train(mode)
        before = {name: tensor.clone() for name, tensor in obs.items()}
        losses.append(policy.sft_loss(obs, actions, generator=torch.Generator().manual_seed(2)).item())
        assert all(torch.equal(before[name], obs[name]) for name in obs)
    assert losses[0] != losses[1]


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"image_size": 30}, "image_size must be a multiple of 8"),
        ({"width": 30}, "width=30 must be a multiple of heads=4"),
        ({"signs": (7,)}, r"signs must be numbers of an action, 0\.\.6"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(sizes, message):
    with pytest.raises(ValueError, match=message):
        SmallVLA(**sizes)


def test_an_instruction_that_is_too_long_is_refused_not_cut():
    with pytest.raises(ValueError, match="at most max_bytes=10 bytes, got 16"):
        SmallVLA(max_bytes=10, **SIZES).prepare({"image": white_square(0, 0)[None]}, TEXTS[:1])


def test_load_policy_reads_what_save_pretrained_wrote(listener, tmp_path):
    policy, image = listener
    policy.save_pretrained(tmp_path)
    assert choose(tmp_path).adapter == "small"
    again = load_policy(tmp_path)
    assert torch.equal(act(again, image, TEXTS), act(policy, image, TEXTS))
    trained = {name.split(".")[0] for name, weight in again.named_parameters() if weight.requires_grad}
    assert trained == {"head"}
    assert all(weight.requires_grad for weight in load_policy(tmp_path, LoadOptions(train="full")).parameters())
    assert not any(weight.requires_grad for weight in load_policy(tmp_path, LoadOptions(train="none")).parameters())
    assert load_policy(tmp_path, LoadOptions(num_steps=10)).spec.num_steps == 10
    with pytest.raises(ValueError, match="has no adapters"):
        load_policy(tmp_path, LoadOptions(train="lora"))
    with pytest.raises(ValueError, match=r"executes all 2 actions .* got exec_steps=1"):
        load_policy(tmp_path, LoadOptions(exec_steps=1))
    state = load_file(tmp_path / "model.safetensors")
    del state["head.positions"]
    save_file(state, tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"1 missing: head\.positions"):
        load_policy(tmp_path)


@pytest.mark.skipif(not (BUNDLED[CLONED] / "model.safetensors").is_file(), reason="no cloned policy is bundled")
def test_the_bundled_policy_tells_instructions_apart():
    policy = load_policy(CLONED)
    image = np.stack([white_square(4, 4, 128)] * 2)
    texts = [f"pick up the {thing} and place it in the basket" for thing in ("alphabet soup", "bbq sauce")]
    first, second = act(policy, image, texts)
    assert first.shape == (8, 7)
    assert (first - second).abs().max() > 0.01
    assert sum(path.stat().st_size for path in BUNDLED[CLONED].iterdir()) < 10e6


@pytest.mark.parametrize(("key", "value"), [("max_bytes", True), ("jitter", float("nan")), ("signs", ["6"])])
def test_a_config_of_other_kinds_is_refused(tmp_path, key, value):
    SmallVLA(width=16, places=4, layers=1, heads=2).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {key: value}))
    with pytest.raises(CheckpointError, match=rf"cannot be read as small: {key}=.* must be"):
        load_policy(tmp_path, LoadOptions())
