"""What a policy is shown is checked before it is read, in one sentence, for every family."""

import numpy as np
import pytest
import torch

from benchmarks.toys import TinyFlowPolicy
from prophrl_algos.flow import FlowSpec
from prophrl_algos.vla import SmallVLA

from .tiny import tiny_openvla_oft, tiny_pi0, tiny_vla_adapter

IMAGES = np.random.default_rng(0).integers(0, 256, (2, 64, 64, 3), dtype=np.uint8)
TEXTS = ["pick up the milk", "stop"]


def tiny():
    return TinyFlowPolicy(FlowSpec(horizon=1, latent_dim=2, action_dim=2, exec_steps=1, num_steps=2))


def pi0():
    pytest.importorskip("transformers", minversion="5.4", reason="pi0 needs transformers >= 5.4")
    return tiny_pi0()


def small():
    return SmallVLA(width=16, places=4, layers=1, heads=2)


POLICIES = [tiny, small, pi0, tiny_vla_adapter, tiny_openvla_oft]


@pytest.fixture(params=POLICIES, ids=lambda made: made.__name__)
def policy(request):
    return request.param().eval()


@pytest.mark.parametrize(
    ("shown", "said"),
    [
        (IMAGES.astype(np.float32) / 255, r"got float32 .*; scale them to 0\.\.255 and round them to uint8"),
        (IMAGES.transpose(0, 3, 1, 2), r"got uint8 \(2, 3, 64, 64\); move the channels last"),
        (np.concatenate([IMAGES, IMAGES[..., :1]], -1), "drop the fourth channel"),
        (IMAGES.astype(np.int64), "got int64"),
        (IMAGES[..., 0], "got uint8"),
    ],
)
def test_images_that_are_none_are_refused_in_one_sentence(policy, shown, said):
    with pytest.raises(
        ValueError, match=rf"observation\['image'\] must be .*uint8 \(\.\.\., height, width, 3\).*{said}"
    ):
        policy.prepare({"image": shown}, TEXTS)


# the tiny policy reads no instructions, so it counts images alone
@pytest.mark.parametrize("policy", POLICIES[1:], indirect=True, ids=lambda made: made.__name__)
def test_as_many_images_as_instructions(policy):
    with pytest.raises(ValueError, match=r"one image for each of 2 instructions, got \(3, 64, 64, 3\)"):
        policy.prepare({"image": np.concatenate([IMAGES, IMAGES[:1]])}, TEXTS)
    with pytest.raises(ValueError, match="an observation must have 'image', got \\['wrist_image'\\]"):
        policy.prepare({"wrist_image": IMAGES}, TEXTS)


@pytest.mark.parametrize("made", [pi0, tiny_vla_adapter])
def test_states_are_numbers_of_the_right_count_and_finite(made):
    policy, good = made(), np.zeros((2, 8), np.float32)
    for bad, said in (
        (good[:, :7], r"observation\['state'\] must be \(2, 8\) numbers, got float32 \(2, 7\)"),
        (np.full((2, 8), "x"), r"must be \(2, 8\) numbers"),
        (np.where(np.arange(8) == 3, np.nan, good), r"must be finite, number 3 of batch element 0 is nan"),
    ):
        with pytest.raises(ValueError, match=said):
            policy.prepare({"image": IMAGES, "state": bad}, TEXTS)
    as_tensors = policy.prepare({"image": torch.from_numpy(IMAGES), "state": torch.from_numpy(good)}, TEXTS)
    as_arrays = policy.prepare({"image": IMAGES, "state": good}, TEXTS)
    assert all(torch.equal(as_tensors[name], as_arrays[name]) for name in as_arrays)
