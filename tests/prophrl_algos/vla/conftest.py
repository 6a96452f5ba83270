"""Tiny random weights in the published networks' own classes, and what those networks say themselves."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch

from prophrl_algos.vla._processor import resized

TEXTS = ("pick up the milk", "stop", "put the red bowl on it")


@pytest.fixture(scope="session")
def seen():
    """What an env shows: two views and a state of three rows, and their instructions."""
    rng = np.random.default_rng(0)
    rows = len(TEXTS)
    shown = {name: rng.integers(0, 256, (rows, 40, 40, 3), dtype=np.uint8) for name in ("image", "wrist_image")}
    return {**shown, "state": rng.normal(0, 0.5, (rows, 8)).astype(np.float32)}, TEXTS


@dataclass(frozen=True)
class Family:
    """A published network at tiny size.

    Attributes:
        name: of the family.
        make: the policy; arguments as in `prophrl_algos.vla._tiny`.
        sample: `(policy, obs, noise, masked)`: what the network's own sampler gives, with that many masked cameras.
        joint: `(policy, obs, x0, noise, t)`: the squared error of every number in the network's own training pass.
        prefix: how the names of what lies before the velocity begin.
    """

    name: str
    make: Callable[..., Any]
    sample: Callable[..., torch.Tensor]
    joint: Callable[..., torch.Tensor]
    prefix: tuple[str, ...]


def views(policy, obs, masked=0):
    """Pictures as the network wants them, and masks; masked ones are noise."""
    images = [resized(obs[name], policy.processor.images) for name in policy.processor.convention.views if name in obs]
    masks = [torch.ones(len(image), dtype=torch.bool) for image in images]
    for number in range(masked):
        images.append(torch.randn(images[0].shape, generator=torch.Generator().manual_seed(number)))
        masks.append(torch.zeros(len(images[0]), dtype=torch.bool))
    return images, masks


def pi0_inputs(policy, obs, masked=0):
    images, masks = views(policy, obs, masked)
    ours = len(images) - masked
    tokens = torch.full((len(obs["tokens"]), ours * 4), policy.network.config.vlm_config.image_token_id)
    return {
        "state": obs["state"],
        "input_ids": torch.cat([tokens, obs["tokens"]], 1),
        "attention_mask": torch.cat([torch.ones_like(tokens, dtype=torch.bool), obs["token_mask"]], 1),
        "pixel_values": torch.stack(images, 1),
        "pixel_attention_mask": torch.stack(masks, 1),
    }


def pi0_sample(policy, obs, noise, masked=0):
    return policy.network.sample_actions(
        **pi0_inputs(policy, obs, masked), noise=noise, num_steps=policy.spec.num_steps
    )


def pi0_joint(policy, obs, x0, noise, t):
    policy.network.config.loss_reduction = "none"
    return policy.network(**pi0_inputs(policy, obs), actions=x0, noise=noise, timestep=t).loss


def lerobot_inputs(policy, obs, masked=0):
    images, masks = views(policy, obs, masked)
    state = [obs["state"]] if policy.network.__class__.__name__ == "VLAFlowMatching" else []
    return [images, masks, obs["tokens"], obs["token_mask"], *state]


def lerobot_sample(policy, obs, noise, masked=0):
    policy.network.config.num_steps = policy.network.config.num_inference_steps = policy.spec.num_steps
    return policy.network.sample_actions(*lerobot_inputs(policy, obs, masked), noise=noise)


def lerobot_joint(policy, obs, x0, noise, t):
    return policy.network.forward(*lerobot_inputs(policy, obs), x0, noise=noise, time=t)


def family_of(name):
    if name == "pi0":
        pytest.importorskip("transformers", minversion="5.4", reason="pi0 needs transformers >= 5.4")
        from .tiny import tiny_pi0

        return Family(name, tiny_pi0, pi0_sample, pi0_joint, ("model.vlm.",))
    from .tiny import tiny_pi05, tiny_smolvla

    if name == "pi05":
        return Family(name, tiny_pi05, lerobot_sample, lerobot_joint, ("paligemma_with_expert.paligemma.",))
    return Family(name, tiny_smolvla, lerobot_sample, lerobot_joint, ("vlm_with_expert.vlm.",))


@pytest.fixture(params=["pi0", *(pytest.param(name, marks=pytest.mark.vla) for name in ("pi05", "smolvla"))])
def family(request):
    return family_of(request.param)
