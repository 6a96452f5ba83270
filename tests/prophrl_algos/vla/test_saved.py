"""Every family comes back from its folder, whatever was trained, and goes on being trained in any way."""

import json
import shutil
from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from prophet_gym.envs import ProphetVectorEnv
from prophet_gym.errors import CheckpointError, MissingWeightsError
from prophet_gym.prophet import tiny_prophet
from prophet_gym.rewards import FunctionReward
from prophet_gym.specs import InitialState
from prophrl_algos import LoadOptions, load_policy
from prophrl_algos._named import take_weights
from prophrl_algos.rollout import Grouping, begin_from_starts
from prophrl_algos.sft import SftConfig, sft
from prophrl_algos.trainer import Trainer, TrainerConfig
from prophrl_algos.vla._load import choose
from prophrl_algos.vla._lora import LoraPart, LoraTargets, has_lora

from . import tiny

pytest.importorskip("peft")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
FLOAT = LoadOptions(dtype=torch.float32, without_state="mean")
MODES = ["expert", "lora", "full", "none"]
TEXTS = ("pick up the milk", "stop", "put the red bowl on it")


def pi0(train, **sizes):
    pytest.importorskip("transformers", minversion="5.4", reason="pi0 needs transformers >= 5.4")
    return tiny.tiny_pi0(train=train, **sizes), nullcontext


def pi05(train, **sizes):
    pytest.importorskip("lerobot", reason="lerobot is not installed: make test-vla")
    return tiny.tiny_pi05(train=train, **sizes), tiny.pi05_sizes


def smolvla(train, **sizes):
    pytest.importorskip("lerobot", reason="lerobot is not installed: make test-vla")
    return tiny.tiny_smolvla(train=train, **sizes), tiny.smolvlm_sizes


def vla_adapter(train):
    return tiny.tiny_vla_adapter(train=train), nullcontext


def openvla_oft(train):
    return tiny.tiny_openvla_oft(train=train), nullcontext


FAMILIES = [pi0, vla_adapter, openvla_oft, *(pytest.param(each, marks=pytest.mark.vla) for each in (pi05, smolvla))]


@pytest.fixture(params=FAMILIES, ids=lambda made: made.__name__)
def made(request):
    return request.param


def stirred(policy, seed=3):
    """Trained: what is trained has moved, adapters and copies of whole modules too."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in policy.parameters():
            if weight.requires_grad:
                weight += 0.1 * torch.randn(weight.shape, generator=generator)
    return policy


def weights_of(policy):
    return {name: tensor.clone() for name, tensor in policy.state_dict().items()}


def assert_same_weights(one, other):
    assert one.keys() == other.keys()
    for name in one:
        assert one[name].dtype == other[name].dtype, name
        assert torch.equal(one[name], other[name]), name


def says(policy, seen):
    """The velocity at one latent."""
    spec = policy.spec
    x = torch.randn(3, spec.horizon, spec.latent_dim, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        return policy.velocity(policy.encode(policy.prepare(*seen), grad=False), x, torch.full((3,), 0.5))


def trained(policy):
    return {name for name, weight in policy.named_parameters() if weight.requires_grad}


@pytest.mark.parametrize("train", MODES)
def test_it_comes_back_bit_by_bit(made, train, tmp_path, seen):
    policy, sizes = made(train)
    stirred(policy).save_pretrained(tmp_path / "ours")
    assert "prophrl-" in choose(tmp_path / "ours").reason
    with sizes():
        again = load_policy(tmp_path / "ours", replace(FLOAT, train=train))
    assert_same_weights(weights_of(policy), weights_of(again))
    assert trained(again) == trained(policy)
    assert again.spec == policy.spec
    assert torch.equal(says(again, seen), says(policy, seen))


@pytest.mark.parametrize("train", ["expert", "lora", "full"])
def test_what_is_trained_keeps_every_digit_beside_a_half_precision_rest(made, train, tmp_path):
    policy, sizes = made(train)
    policy.save_pretrained(tmp_path / "first")
    half = LoadOptions(train=train, without_state="mean")
    with sizes():
        policy = stirred(load_policy(tmp_path / "first", half))
        policy.save_pretrained(tmp_path / "second")
        again = load_policy(tmp_path / "second", half)
    assert_same_weights(weights_of(policy), weights_of(again))
    assert {weight.dtype for weight in again.parameters() if weight.requires_grad} == {torch.float32}
    rest = {weight.dtype for weight in again.parameters() if not weight.requires_grad}
    assert train == "full" or torch.bfloat16 in rest


@pytest.mark.parametrize(
    ("before", "after"), [("expert", "lora"), ("full", "lora"), ("lora", "expert"), ("lora", "full"), ("lora", "none")]
)
def test_it_is_trained_on_in_another_way(made, before, after, tmp_path, seen):
    policy, sizes = made(before)
    said = says(stirred(policy), seen)
    policy.save_pretrained(tmp_path / "ours")
    with sizes():
        again = load_policy(tmp_path / "ours", replace(FLOAT, train=after))
        other = made(after)[0]
    # Where adapters are added to the weights, sums are rounded in another order.
    torch.testing.assert_close(says(again, seen), said, atol=1e-5, rtol=1e-5)
    assert has_lora(again) == (after == "lora" or (before, after) == ("lora", "none"))
    assert trained(again) == trained(other)
    # The same through `--policy-weights`: into a policy that was made for another way of training.
    torch.save({"format": "prophrl-trainer-1", "policy": policy.state_dict()}, tmp_path / "sft.pt")
    for source in (tmp_path, tmp_path / "sft.pt", tmp_path / "ours"):
        into = stirred(made(after)[0], seed=4)
        take_weights(into, source)
        torch.testing.assert_close(says(into, seen), said, atol=1e-5, rtol=1e-5)


def test_adapters_are_not_rounded_away_in_half_precision(tmp_path, seen):
    policy = stirred(tiny.tiny_vla_adapter(train="lora"))
    policy.save_pretrained(tmp_path / "ours")
    with pytest.raises(ValueError, match=r"ours has adapters on language_model\..*, whose weights are bfloat16 here"):
        load_policy(tmp_path / "ours", LoadOptions(train="expert"))
    load_policy(tmp_path / "ours", LoadOptions(train="full"))  # trained, and so in float32
    load_policy(tmp_path / "ours", LoadOptions(train="lora"))
    # Pi0's adapters are in the expert, which is trained here.
    other = stirred(pi0("lora")[0])
    other.save_pretrained(tmp_path / "pi0")
    again = load_policy(tmp_path / "pi0", LoadOptions(train="expert", without_state="mean"))
    assert {weight.dtype for weight in again.network.model.dit.parameters()} == {torch.float32}


def test_it_is_cloned_and_saved_and_cloned_on(made, tmp_path, seen):
    policy, sizes = made("lora")
    obs = policy.prepare(*seen)
    goal = policy.decode(torch.full((3, policy.spec.horizon, policy.spec.latent_dim), 0.3), obs)
    goal = torch.cat([goal, goal[:, -1:].expand(-1, policy.spec.horizon - goal.shape[1], -1)], 1)
    begun = weights_of(policy)
    sft(policy, lambda rows, _: (obs, goal), SftConfig(steps=2, batch_size=3, learning_rate=1e-2))
    changed = {name for name, tensor in policy.state_dict().items() if not torch.equal(tensor, begun[name])}
    assert any(".lora_" in name for name in changed)
    policy.save_pretrained(tmp_path / "ours")
    with sizes():
        again = load_policy(tmp_path / "ours", replace(FLOAT, train="lora"))
    assert_same_weights(weights_of(policy), weights_of(again))


def test_adapters_of_ones_own_come_back(tmp_path, seen):
    policy = pi0("none")[0]
    targets = LoraTargets((LoraPart(r"model\.dit\..*\.q_proj", 2, 8),), ("action_out_proj",))
    policy.let_train("lora", lora=targets)
    stirred(policy).save_pretrained(tmp_path / "ours")
    again = load_policy(tmp_path / "ours", replace(FLOAT, train="lora"))
    assert_same_weights(weights_of(policy), weights_of(again))
    merged = load_policy(tmp_path / "ours", replace(FLOAT, train="full"))
    torch.testing.assert_close(says(merged, seen), says(policy, seen), atol=1e-5, rtol=1e-5)
    wrong = {name: tensor for name, tensor in policy.state_dict().items() if ".lora_B." not in name}
    with pytest.raises(CheckpointError, match=r"has no .*lora_B"):
        merged.load_weights(wrong, source="there")
    with pytest.raises(CheckpointError, match=r"adapter of rank 2 on model\.dit\.layers\.0\.self_attn\.q_proj"):
        pi0("expert")[0].load_weights(policy.state_dict(), source="there")


def test_options_and_files_that_do_not_fit_are_named(tmp_path):
    policy = pi0("lora")[0]
    folder = tmp_path / "ours"
    policy.save_pretrained(folder)
    with pytest.raises(ValueError, match="acts in 'libero', not 'bridge'"):
        load_policy(folder, replace(FLOAT, benchmark="bridge"))
    chosen = load_policy(folder, replace(FLOAT, num_steps=7, exec_steps=4, train="lora"))
    assert (chosen.spec.num_steps, chosen.spec.exec_steps) == (7, 4)
    config = json.loads((folder / "config.json").read_text())
    for change, said in (
        (
            {"spec": {**config["spec"], "horizon": 0}},
            "cannot be read as pi0: horizon must be at least 1",
        ),
        ({"actions": {"offset": [0.0] * 7, "scale": [0.0] * 7}}, "finite offsets as scales that are not 0"),
        ({"prompt": "poem"}, "cannot be read as pi0: prompt must be one of line, task_and_state, got 'poem'"),
        ({"network": {"model_type": "pi0", "vlm_config": 3}}, "cannot be read as pi0: .*config.json .* is damaged"),
        ({"network": {**config["network"], "chunk_size": 3}}, "chunk_size is 3 in the network and 4 beside it"),
        ({"state_columns": 9}, "max_state_dim is 8 in the network and 9 beside it"),
        ({"save": "another"}, "model.safetensors of another save than its config.json"),
    ):
        (folder / "config.json").write_text(json.dumps({**config, **change}))
        with pytest.raises(CheckpointError, match=said):
            load_policy(folder, replace(FLOAT, train="lora"))
    (folder / "config.json").write_text(json.dumps(config))
    shutil.rmtree(folder / "tokenizer")
    with pytest.raises(
        MissingWeightsError, match=r"could not get the tokenizer .*ours/tokenizer.*LoadOptions\(tokenizer"
    ):
        load_policy(folder, replace(FLOAT, train="lora"))
    policy.config = None
    with pytest.raises(ValueError, match="its network's config is not known"):
        policy.save_pretrained(folder)


def test_weights_that_are_not_finite_are_neither_saved_nor_loaded(made, tmp_path):
    policy, sizes = made("lora")
    folder = tmp_path / "ours"
    policy.save_pretrained(folder)
    kept = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
    adapter = next(name for name in policy.state_dict() if ".lora_A." in name)
    policy.get_parameter(adapter).data[0, 0] = float("nan")
    with pytest.raises(CheckpointError, match=r"cannot be written: .*lora_A"):
        policy.save_pretrained(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} == kept
    assert [path.name for path in tmp_path.iterdir()] == ["ours"]
    state = load_file(folder / "model.safetensors")
    state[adapter][0, 0] = float("inf")
    save_file(state, folder / "model.safetensors", metadata={"save": json.loads(kept["config.json"])["save"]})
    for train in ("lora", "expert"):
        with sizes(), pytest.raises(CheckpointError, match=r"model.safetensors is damaged: .*lora_A.* not finite"):
            load_policy(folder, replace(FLOAT, train=train))


def test_a_save_replaces_an_earlier_one_in_shards(tmp_path):
    policy = pi0("expert")[0]
    folder = tmp_path / "ours"
    policy.save_pretrained(folder)
    state = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    for number, name in enumerate(sorted(state), 1):
        save_file({name: state[name]}, folder / f"model-{number:05d}-of-{len(state):05d}.safetensors")
    with pytest.raises(
        MissingWeightsError, match=r"holds no model\.safetensors .*it holds model-00001.*shards without"
    ):
        load_policy(folder, FLOAT)
    policy.save_pretrained(folder)
    assert sorted(path.name for path in folder.glob("*.safetensors")) == ["model.safetensors"]
    assert_same_weights(weights_of(load_policy(folder, FLOAT)), weights_of(policy))


@pytest.mark.parametrize("train", ["lora", "expert", "full"])
def test_learning_begins_at_the_cloned_policy_also_after_a_resume(made, train, tmp_path, seen):
    if made in (pi0, pi05, smolvla):
        policy, sizes = made(train, horizon=8, exec_steps=8)
    else:
        policy, sizes = made(train)
    cloned = stirred(policy)
    cloned.save_pretrained(tmp_path / "ours")

    def trainer():
        with sizes():
            begun = load_policy(tmp_path / "ours", replace(FLOAT, train=train, num_steps=2))
        return learning(begun)

    first = trainer()
    metrics = until_taught(first)
    assert metrics["kl"] == 0.0
    assert (metrics["ratio_min"], metrics["ratio_max"]) == pytest.approx((1.0, 1.0), abs=1e-4)
    state = first.state_dict()
    stirred(cloned, seed=9).save_pretrained(tmp_path / "ours")  # what it was cloned to has changed since
    resumed = trainer()
    resumed.load_state_dict(state)
    after, expected = until_taught(resumed), until_taught(first)
    assert after["kl"] == expected["kl"] > 0


def learning(policy):
    """A trainer in a tiny dream that pays half of its rollouts."""
    starts = [InitialState(np.full((1, 64, 64, 3), 100, np.uint8), "pick up nothing", task=3)]
    pays = FunctionReward(lambda video, _: float(int(video[-1].sum()) % 2), max_frames=1)
    env = ProphetVectorEnv(
        tiny_prophet(), starts, 4, reward_model=pays, max_episode_steps=1, autoreset_mode="Disabled"
    )  # fmt: skip
    learnt = [weight for weight in policy.parameters() if weight.requires_grad]
    return Trainer(
        policy,
        torch.optim.AdamW(learnt, lr=1e-2, betas=(0.9, 0.95)),
        env,
        TrainerConfig(groups=1, group_size=4, updates=12, beta=0.01),
        grouping=Grouping(begin_from_starts),
    )


def until_taught(trainer):
    """The numbers of the next update whose rollouts had unequal returns."""
    while trainer.done < 12:
        metrics = trainer.iterate()
        if metrics["optimizer_steps"]:
            return metrics
    raise AssertionError("no group of twelve updates had unequal returns")
