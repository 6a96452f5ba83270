"""The published layouts are read with every tensor accounted for; our own checkpoints come back as they were."""

import json

import pytest
import torch

from benchmarks.toys import BanditVectorEnv
from prophet_gym.checkpoint import bundled_checkpoints
from prophet_gym.errors import CheckpointError, MissingWeightsError, UnknownOptionError
from prophrl_algos import LoadOptions, load_policy
from prophrl_algos._named import is_published, make_policy
from prophrl_algos.cli import main
from prophrl_algos.vla._load import choose
from prophrl_algos.vla._lora import has_lora

BOTH = ["vla-adapter", "openvla-oft"]
FLOAT = {"dtype": torch.float32}


def weights_of(policy):
    return {name: tensor.clone() for name, tensor in policy.state_dict().items()}


@pytest.mark.parametrize(
    ("family", "module", "text"),
    [("vla-adapter", "vla_adapter", "qwen2"), ("openvla-oft", "openvla_oft", "llama")],
)
def test_the_adapter_is_chosen_by_the_files_and_says_why(checkpoint, family, module, text):
    choice = choose(checkpoint(family).write())
    assert choice.adapter == module
    assert f"openvla on {text}" in choice.reason


def test_a_base_model_without_a_head_is_refused(checkpoint):
    folder = checkpoint("openvla-oft").write()
    next(folder.glob("action_head--*")).unlink()
    with pytest.raises(MissingWeightsError, match=r"holds no action_head--\*\.pt"):
        load_policy(folder)


@pytest.mark.parametrize("family", BOTH)
def test_shards_are_one_file(checkpoint, family):
    made = checkpoint(family)
    whole = load_policy(made.write(), LoadOptions(**FLOAT))
    made.folder = made.folder / "shards"
    parts = load_policy(made.write(shards=3), LoadOptions(**FLOAT))
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), parts.state_dict().values(), strict=True))


@pytest.mark.parametrize("family", BOTH)
def test_weights_keep_the_precision_asked_for_and_what_is_trained_is_float32(checkpoint, family):
    policy = load_policy(checkpoint(family, dtype=torch.bfloat16).write(), LoadOptions())
    assert policy.language_model.get_input_embeddings().weight.dtype == torch.bfloat16
    assert policy.vision_backbone.featurizer.pos_embed.dtype == torch.bfloat16
    assert policy.language_model.rotary_emb.inv_freq.dtype == torch.float32
    trained = [weight for weight in policy.parameters() if weight.requires_grad]
    assert trained
    assert {weight.dtype for weight in trained} == {torch.float32}


@pytest.mark.parametrize(
    ("family", "part", "name"),
    [
        ("vla-adapter", "model", "language_model.model.layers.1.self_attn.q_proj.bias"),
        ("vla-adapter", "model", "vision_backbone.featurizer.blocks.0.ls2.scale_factor"),
        ("vla-adapter", "model", "action_queries.weight"),
        ("vla-adapter", "head", "mlp_resnet_blocks.1.gating_factor"),
        ("vla-adapter", "state", "fc2.bias"),
        ("openvla-oft", "model", "projector.fc3.weight"),
        ("openvla-oft", "head", "fc2.bias"),
    ],
)
def test_a_missing_a_strange_and_a_misshapen_tensor_are_named(checkpoint, family, part, name):
    for change, said in (("missing", "1 missing"), ("strange", "1 unexpected"), ("misshapen", "1 of another shape")):
        made = checkpoint(family)
        weights = getattr(made, part)
        if change == "missing":
            del weights[name]
        elif change == "strange":
            name = f"{name}_too"
            weights[name] = torch.zeros(2)
        else:
            name = name.removesuffix("_too")
            weights[name] = torch.zeros(3, 3, 3)
        ours = name.replace("language_model.model.", "language_model.").replace("scale_factor", "gamma")
        ours = ours.replace("mlp_resnet_blocks", "blocks")
        with pytest.raises(CheckpointError, match=said) as error:
            load_policy(made.write(), LoadOptions(**FLOAT))
        assert ours in str(error.value)


def test_what_has_no_effect_may_be_there_or_not(checkpoint):
    made = checkpoint("vla-adapter")
    whole = weights_of(load_policy(made.write(), LoadOptions(**FLOAT)))
    for name in [n for n in made.model if ".norm." in n or "attn_pool" in n or "featurizer.blocks.2." in n]:
        if not name.startswith("language_model"):
            made.model.pop(name)
    # the last block is not run, but says how deep the backbone is
    made.model["vision_backbone.featurizer.blocks.2.norm1.weight"] = torch.ones(32)
    made.model["language_model.lm_head.weight"] = torch.zeros(512, 32)
    made.head = {name: tensor for name, tensor in made.head.items() if "film_gen" not in name}
    again = weights_of(load_policy(made.write(), LoadOptions(**FLOAT)))
    assert whole.keys() == again.keys()
    assert all(torch.equal(whole[name], again[name]) for name in whole)


def test_files_that_do_not_belong_together_are_refused(checkpoint):
    made = checkpoint("openvla-oft")
    folder = made.write()
    torch.save({}, folder / "vision_backbone--1_checkpoint.pt")
    with pytest.raises(CheckpointError, match="FiLM"):
        load_policy(folder)
    (folder / "vision_backbone--1_checkpoint.pt").unlink()
    torch.save({}, folder / "action_head--2_checkpoint.pt")
    with pytest.raises(CheckpointError, match=r"must hold one action_head--\*\.pt, got \['action_head--150000"):
        load_policy(folder)
    (folder / "action_head--2_checkpoint.pt").unlink()
    with pytest.raises(UnknownOptionError, match="Known: libero_object_no_noops"):
        load_policy(folder, LoadOptions(unnorm_key="libero_object"))
    config = json.loads((folder / "config.json").read_text()) | {"timm_model_ids": ["resnet50"]}
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="must name the vision encoders"):
        load_policy(folder)
    (folder / "tokenizer.json").unlink()
    (folder / "config.json").write_text(json.dumps(config | {"timm_model_ids": made_timm()}))
    with pytest.raises(MissingWeightsError, match=r"holds no tokenizer\.json"):
        load_policy(folder)


def made_timm():
    return ["vit_large_patch14_reg4_dinov2.lvd142m", "vit_so400m_patch14_siglip_224"]


def test_a_policy_without_a_state_projector_reads_no_state(checkpoint, seen):
    folder = checkpoint("vla-adapter").write()
    next(folder.glob("proprio_projector--*")).unlink()
    policy = load_policy(folder, LoadOptions(**FLOAT))
    obs = policy.prepare(seen(1, state=False), ["stop"])
    assert "state" not in obs
    assert torch.isfinite(policy.velocity(policy.encode(obs, grad=False), torch.zeros(1, 8, 7), torch.ones(1))).all()


@pytest.mark.parametrize("family", BOTH)
@pytest.mark.parametrize("train", ["expert", "lora"])
def test_a_saved_policy_comes_back(checkpoint, seen, awake, tmp_path, family, train):
    policy = load_policy(checkpoint(family).write(), LoadOptions(train=train, num_steps=4, **FLOAT))
    with torch.no_grad():
        for weight in policy.parameters():
            if weight.requires_grad:
                weight += 0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(3))
    policy.save_pretrained(tmp_path / "ours")
    again = load_policy(tmp_path / "ours", LoadOptions(train=train, num_steps=3, exec_steps=5, **FLOAT))
    assert "prophrl-" in choose(tmp_path / "ours").reason
    assert again.spec.num_steps == 3
    assert again.spec.exec_steps == 5
    before, after = weights_of(policy), weights_of(again)
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    trained = {name for name, weight in policy.named_parameters() if weight.requires_grad}
    assert {name for name, weight in again.named_parameters() if weight.requires_grad} == trained
    observation = seen(2)
    x, t = torch.randn(2, 8, 7, generator=torch.Generator().manual_seed(0)), torch.full((2,), 0.4)
    for one in (policy, again):
        one.obs = one.prepare(observation, ["stop", "pick up the milk"])
    with torch.no_grad():
        found = [one.velocity(one.encode(one.obs, grad=False), x, t) for one in (policy, again)]
    assert torch.equal(*found)


def test_a_saved_policy_is_loaded_as_what_it_is_or_not_at_all(checkpoint, tmp_path):
    policy = load_policy(checkpoint("vla-adapter").write(), LoadOptions(train="lora", **FLOAT))
    policy.save_pretrained(tmp_path / "ours")
    for options, said in (({"train": "lora", "benchmark": "bridge"}, "acts in 'libero', not 'bridge'"),):
        with pytest.raises(ValueError, match=said):
            load_policy(tmp_path / "ours", LoadOptions(**options))
    frozen = load_policy(tmp_path / "ours", LoadOptions(train="none", **FLOAT))
    assert not any(weight.requires_grad for weight in frozen.parameters())


def test_the_command_line_takes_a_folder_for_a_policy(checkpoint):
    folder = checkpoint("vla-adapter").write()
    env = BanditVectorEnv(1)
    policy = make_policy(str(folder), env, None, options=LoadOptions(dtype=torch.float32, num_steps=3, train="lora"))
    assert policy.spec.num_steps == 3
    assert has_lora(policy)
    assert is_published("VLA-Adapter/LIBERO-Object-Pro")
    assert not is_published("small")
    assert not is_published("a/b.module:function")


@pytest.mark.skipif(not bundled_checkpoints().get("libero_small"), reason="no checkpoint is bundled")
@pytest.mark.parametrize("family", BOTH)
def test_the_command_clones_a_flow_head_from_the_released_head(checkpoint, tmp_path, record, family, capsys, caplog):
    made = checkpoint(family)
    released, out = made.write(), tmp_path / "out"
    record(tmp_path / "data", 0, success=True)
    used = ["--load.dtype", "float32", "--load.without-state", "mean", "--load.num-steps", "2"]
    main(["sft", "--data", str(tmp_path / "data"), "--out", str(out), "--policy", str(released), *used,
          "--config.steps", "2", "--config.batch-size", "2"])  # fmt: skip
    assert "1 episodes, 5 steps" in capsys.readouterr().out
    assert f"is read as {family.replace('-', '_')}: " in caplog.text
    cloned = load_policy(out / "policy", LoadOptions(**FLOAT))
    begun = load_policy(released, LoadOptions(num_steps=2, **FLOAT))
    before, after = weights_of(begun), weights_of(cloned)
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    trained = {name for name, weight in begun.named_parameters() if weight.requires_grad}
    assert changed
    assert changed <= trained
    assert any(name.startswith("action_head") for name in changed)
