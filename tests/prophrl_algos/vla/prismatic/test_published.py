"""The published policies, computed the long way from the published files, and what is loaded from these files agree."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from prophrl_algos import LoadOptions, load_policy
from prophrl_algos.flow import FlowSchedule, no_step, sample
from prophrl_algos.vla.prismatic._heads import gaussian_velocity
from prophrl_algos.vla.prismatic._images import prepared
from prophrl_algos.vla.prismatic._vision import COLOURS, VisionTransformer, vit_size

TEXTS = ["Pick up the milk", "put the bowl on the plate and open the drawer"]
PROMPTS = {
    "vla-adapter": "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant."
    "<|im_end|>\n<|im_start|>user\nWhat action should the robot take to {}?<|im_end|>\n<|im_start|>assistant\n",
    "openvla-oft": "In: What action should the robot take to {}?\nOut:",
}
FAMILIES = [("vla-adapter", True), ("vla-adapter", False), ("openvla-oft", False)]


def linear(weights, name, x):
    return F.linear(x, weights[f"{name}.weight"], weights[f"{name}.bias"])


def norm(weights, name, x):
    return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"])


def patches(model, image):
    """Of one prepared picture, projected."""
    found = []
    for name, (mean, std) in zip(("featurizer", "fused_featurizer"), COLOURS, strict=True):
        prefix = f"vision_backbone.{name}."
        own = {n.removeprefix(prefix): t for n, t in model.items() if n.startswith(prefix)}
        own = {n.replace("scale_factor", "gamma"): t for n, t in own.items()}
        eye = VisionTransformer(vit_size(own, 16))
        eye.load_state_dict(own, strict=False)
        pixels = (image.float() / 255 - torch.tensor(mean)) / torch.tensor(std)
        found.append(eye(pixels.movedim(-1, 0)[None]))
    x = torch.cat(found, 2)
    for name in ("fc1", "fc2"):
        x = F.gelu(linear(model, f"projector.{name}", x))
    return linear(model, "projector.fc3", x)


def hidden_states(checkpoint, views, text, state):
    """All layers of the language model for one row, and the counts of patches (with the state) and prompt tokens."""
    from transformers import AutoConfig, AutoModelForCausalLM

    rest = {name: value for name, value in checkpoint.text.items() if name not in ("model_type", "torch_dtype")}
    language = AutoModelForCausalLM.from_config(AutoConfig.for_model(checkpoint.text["model_type"], **rest))
    prefix = "language_model."
    own = {n.removeprefix(prefix): t for n, t in checkpoint.model.items() if n.startswith(prefix)}
    report = language.load_state_dict(own, strict=False)
    assert set(report.missing_keys) <= {"lm_head.weight"}
    assert not report.unexpected_keys
    language = language.float().eval()
    ids = checkpoint.tokenizer.encode(PROMPTS[checkpoint.family].format(text.lower())).ids
    seen = torch.cat([patches(checkpoint.model, view) for view in views], 1)
    embed = language.get_input_embeddings()
    if checkpoint.family == "vla-adapter":
        slots = checkpoint.model["action_queries.weight"][None]
    else:
        ids = [*ids, 29871]
        slots = torch.zeros(1, 56, seen.shape[2])
        token = linear(checkpoint.state, "fc2", F.gelu(linear(checkpoint.state, "fc1", state)))
        seen = torch.cat([seen, token[None, None]], 1)
    words, stop = embed(torch.tensor([ids])), embed(torch.tensor([[2]]))
    sequence = torch.cat([words[:, :1], seen, words[:, 1:], slots, stop], 1)
    every = torch.zeros(1, 1, sequence.shape[1], sequence.shape[1])
    mask = None if checkpoint.family == "vla-adapter" else every
    found = language(inputs_embeds=sequence, attention_mask=mask, output_hidden_states=True)
    return found.hidden_states, seen.shape[1], len(ids) - 1


def rope(x):
    """Of the Pro blocks, with tables in bfloat16 as their buffers are."""
    size = x.shape[-1]
    inverse = (1.0 / (10000 ** (torch.arange(0, size, 2).float() / size))).to(torch.bfloat16)
    places = torch.arange(x.shape[2], dtype=torch.bfloat16)
    table = torch.einsum("i,j->ij", places, inverse)
    table = torch.cat([table, table], -1)
    even, odd = x[..., ::2], x[..., 1::2]
    return x * table.cos().float() + torch.stack((-odd, even), -1).reshape_as(x) * table.sin().float()


def bridge(checkpoint, layers, patch_count, prompt_count, state, x=None, modulate=lambda block, hidden: hidden):
    """The action of VLA-Adapter's head, block by block; a flow head begins at x and modulates behind each norm."""
    head = checkpoint.head
    token = linear(checkpoint.state, "fc2", F.gelu(linear(checkpoint.state, "fc1", state)))[None, None]
    if x is None:
        x = F.relu(linear(head, "fc1", norm(head, "layer_norm1", torch.zeros(1, 8, head["fc1.weight"].shape[1]))))

    def split(y):
        return y.view(1, y.shape[1], 8, -1).transpose(1, 2)

    for i in range(2):
        name, layer = f"mlp_resnet_blocks.{i}.", layers[i + 1]
        task = layer[:, :patch_count]
        action = layer[:, patch_count + prompt_count : patch_count + prompt_count + 64]
        adapter, gate = torch.cat([action, token], 1), torch.tanh(head[f"{name}gating_factor"])
        sources = {"self": x, "adapter": adapter, "task": task}
        query = split(linear(head, f"{name}q_proj", x))
        keys, values = {}, {}
        for kind, source in sources.items():
            letter = f"_{kind}" if checkpoint.pro else "_proj"
            keys[kind] = split(linear(head, f"{name}k{letter}", source))
            values[kind] = split(linear(head, f"{name}v{letter}", source))
        if checkpoint.pro:
            query, keys = rope(query), {kind: rope(key) for kind, key in keys.items()}
        scores = [query @ keys[kind].transpose(-2, -1) for kind in sources]
        scores[2] = scores[2] * gate
        shares = torch.softmax(torch.cat(scores, -1) / math.sqrt(query.shape[-1]), -1)
        out = (shares @ torch.cat([values[kind] for kind in sources], 2)).transpose(1, 2).reshape(1, 8, -1)
        out = linear(head, f"{name}o_proj", out)
        x = F.relu(linear(head, f"{name}ffn.1", modulate(i, norm(head, f"{name}ffn.0", out + x))))
    return linear(head, "fc2", norm(head, "layer_norm2", x))[0]


def mlp(checkpoint, layers, patch_count, prompt_count):
    """The action of OpenVLA-OFT's head."""
    head = checkpoint.head
    first = patch_count + prompt_count
    x = layers[-1][:, first : first + 56].reshape(1, 8, -1)
    x = F.relu(linear(head, "fc1", norm(head, "layer_norm1", x)))
    for i in range(2):
        name = f"mlp_resnet_blocks.{i}.ffn."
        x = F.relu(linear(head, f"{name}1", norm(head, f"{name}0", x))) + x
    return linear(head, "fc2", norm(head, "layer_norm2", x))[0]


@torch.no_grad()
def published(checkpoint, observation, row, text):
    """The commands that the authors' evaluation would send, for one row."""
    statistics = {"action": _statistics("action"), "proprio": _statistics("proprio")}
    low, high = statistics["proprio"]
    state = torch.from_numpy(2 * (observation["state"][row] - low) / (high - low + 1e-8) - 1).float().clamp(-1, 1)
    views = [observation[name][row] for name in ("image", "wrist_image")]
    # robosuite's picture is upside down, and is turned by 180 degrees
    views = [prepared(view[::-1][::-1, ::-1][None].copy(), 28)[0] for view in views]
    layers, patch_count, prompt_count = hidden_states(checkpoint, views, text, state)
    if checkpoint.family == "vla-adapter":
        action = bridge(checkpoint, layers, patch_count, prompt_count, state)
    else:
        action = mlp(checkpoint, layers, patch_count, prompt_count)
    low, high = statistics["action"]
    mask = np.array([True] * 6 + [False])
    action = np.where(mask, 0.5 * (action.numpy() + 1) * (high - low + 1e-8) + low, action.numpy())
    gripper = -np.sign(2 * action[:, 6:] - 1)
    return np.concatenate([action[:, :6], gripper], 1)


def _statistics(kind):
    q01 = {"action": [-0.9, -0.8, -0.7, -0.1, -0.2, -0.3, 0.0], "proprio": [-0.5] * 8}[kind]
    q99 = {"action": [0.9, 0.7, 0.8, 0.2, 0.1, 0.3, 1.0], "proprio": [0.5, 1.0, 1.5, 0.5, 1.0, 1.5, 0.5, 1.0]}[kind]
    return np.array(q01), np.array(q99)


def euler(policy, obs, steps=4, seed=0):
    schedule = FlowSchedule(steps, 0.0, choose=no_step)
    generators = [torch.Generator().manual_seed(seed + row) for row in range(len(obs["tokens"]))]
    return sample(policy, obs, schedule, generators).x0


@pytest.mark.parametrize(("family", "pro"), FAMILIES)
def test_the_published_policy_says_what_its_authors_code_says(checkpoint, seen, family, pro):
    made = checkpoint(family, pro=pro)
    policy = load_policy(made.write(), LoadOptions(dtype=torch.float32, num_steps=4))
    policy.action_head.spread = 0.0
    observation = seen(2)
    obs = policy.prepare(observation, TEXTS)
    actions = policy.decode(euler(policy, obs), obs).numpy()
    expected = np.stack([published(made, observation, row, text) for row, text in enumerate(TEXTS)])
    np.testing.assert_allclose(actions, expected, atol=2e-5, rtol=1e-4)
    assert np.abs(expected[0, :, :6] - expected[1, :, :6]).max() > 1e-3
    assert np.abs(expected[:, 0, :6] - expected[:, 1, :6]).max() > 1e-3 or not pro


@pytest.mark.parametrize(("family", "pro"), FAMILIES)
def test_an_untrained_flow_head_is_the_published_policy_with_a_little_noise(checkpoint, seen, family, pro):
    folder = checkpoint(family, pro=pro).write()
    flow, head = (load_policy(folder, LoadOptions(dtype=torch.float32)) for _ in range(2))
    head.action_head.spread = 0.0
    obs = flow.prepare(seen(2), TEXTS)
    action = euler(head, obs)
    drawn = torch.stack([euler(flow, obs, steps=40, seed=100 * draw) for draw in range(4)])
    # y = x - (1 - t) action follows its own linear equation: from noise to spread * noise
    torch.testing.assert_close((drawn - action).std(), torch.tensor(0.1), atol=0.02, rtol=0)
    assert (drawn - action).mean().abs() < 0.02
    one = drawn[0] - action
    noise = torch.stack([torch.randn(41, 8, 7, generator=torch.Generator().manual_seed(row))[0] for row in range(2)])
    assert torch.corrcoef(torch.stack([one.flatten(), noise.flatten()]))[0, 1] > 0.999


@pytest.mark.parametrize(("family", "pro"), FAMILIES)
@torch.no_grad()
def test_a_flow_head_on_a_prefix_says_what_one_pass_over_all_says(checkpoint, seen, awake, family, pro):
    """Keys and values made once and shared by copies, against every row, time and block computed by itself."""
    made = checkpoint(family, pro=pro)
    policy = awake(load_policy(made.write(), LoadOptions(dtype=torch.float32, train="none")), 0.1)
    head, observation, copies = policy.action_head, seen(2), 3
    x = torch.randn(2 * copies, 8, 7, generator=torch.Generator().manual_seed(0))
    t = torch.linspace(1.0, 0.1, 2 * copies)
    context = policy.encode(policy.prepare(observation, TEXTS), grad=False).repeat_interleave(copies)
    found = policy.velocity(context, x, t)
    low, high = _statistics("proprio")
    for row in range(2 * copies):
        source = row // copies
        state = torch.from_numpy(2 * (observation["state"][source] - low) / (high - low + 1e-8) - 1).float()
        views = [prepared(observation[name][source][:, ::-1][None].copy(), 28)[0] for name in ("image", "wrist_image")]
        layers, patch_count, prompt_count = hidden_states(made, views, TEXTS[source], state.clamp(-1, 1))
        one = (x[row : row + 1], t[row : row + 1])
        if family == "openvla-oft":
            first = patch_count + prompt_count
            alone = head.velocity(head.prefix(layers[-1][:, first : first + 56]), *one)
        else:
            scale, shift = (head.time(one[1])[0] + head.offsets).unbind(1)
            begin = head.query + head.positions + head.noise(one[0])
            mean = bridge(made, layers, patch_count, prompt_count, state.clamp(-1, 1), begin,
                          lambda i, hidden, scale=scale, shift=shift: hidden * (1 + scale[i]) + shift[i])  # fmt: skip
            mean[:, 6] = 2 * mean[:, 6] - 1
            alone = gaussian_velocity(*one, mean[None], head.spread)
        torch.testing.assert_close(found[row : row + 1], alone, atol=1e-4, rtol=1e-4)
    assert found.std() > 0.1


def test_oft_sees_both_ways_and_vla_adapter_does_not(loaded, seen):
    for family, both_ways in (("openvla-oft", True), ("vla-adapter", False)):
        policy = loaded(family)
        width = policy.text_config.hidden_size
        generator = torch.Generator().manual_seed(0)
        row = torch.randn(6, width, generator=generator)
        other = row.clone()
        other[-1] += 1
        with torch.no_grad():
            (states,), _ = policy.run([[row]], every_layer=False)
            (moved,), _ = policy.run([[other]], every_layer=False)
        assert torch.allclose(states[0, 0], moved[0, 0], atol=1e-5) != both_ways
