"""A policy in the published layout in LIBERO itself: both cameras and the robot's state, as it was trained on them."""

import json

import numpy as np
import pytest
import torch

from prophet_gym.sims.libero import _install as install
from prophrl_algos._named import make_env
from prophrl_algos.cli import main
from prophrl_algos.cli._evaluate import Args
from prophrl_algos.vla.prismatic._images import prepared

pytestmark = [
    pytest.mark.libero,
    pytest.mark.skipif(install.missing() is not None, reason=str(install.missing())),
]
WHERE = ["--env", "LIBERO-Object-v0", "--starts", "train", "--tasks", "3", "--episodes", "1"]
CAMERAS = ["--cameras", "agentview", "wrist"]


def test_the_policy_sees_what_it_was_trained_on(loaded):
    policy = loaded("vla-adapter")
    envs = make_env("LIBERO-Object-v0", 1, starts="train", tasks=[3], options={"cameras": ["agentview", "wrist"]})
    seen, info = envs.reset(seed=0)
    obs = policy.prepare(seen, info["instruction"].tolist())
    # Both cameras are mirrored: what LIBERO shows upside down was turned by 180 degrees.
    for place, name in enumerate(("image", "wrist_image")):
        expected = prepared(np.ascontiguousarray(seen[name][:, :, ::-1]), obs["image"].shape[2])
        assert torch.equal(obs["image"][:, place], expected)
    # q01 -0.5 and q99 of 0.5, 1, 1.5, 0.5, 1, 1.5, 0.5, 1 become -1 and 1; beyond them it is clipped.
    span = torch.tensor([0.5, 0.75, 1.0, 0.5, 0.75, 1.0, 0.5, 0.75])
    state = torch.from_numpy(seen["state"])
    torch.testing.assert_close(obs["state"], ((state + 0.5) / span - 1).clamp(-1, 1), atol=1e-5, rtol=1e-5)
    assert 3.0 < state[0, 3] < 3.3, "the hand points down"
    envs.close()


def test_prophrl_evaluate_gives_it_both_cameras_and_the_state(checkpoint, tmp_path, capsys):
    folder, out = checkpoint("vla-adapter").write(), tmp_path / "result.json"
    words = ["evaluate", "--policy", str(folder), *WHERE, "--load.num-steps", "1", "--load.dtype", "float32"]
    with pytest.raises(SystemExit) as refused:
        main(words)
    assert refused.value.code == 1
    assert "take an env that gives 'state', as LIBERO-* with cameras=" in capsys.readouterr().err
    main([*words, *CAMERAS, "--json", str(out)])
    result = json.loads(out.read_text())
    assert result["cameras"] == ["agentview", "wrist"]
    assert [episode["valid"] for episode in result["episodes"]] == [True]


def test_the_default_is_one_camera():
    assert Args(policy="small").cameras == ("agentview",)
    with pytest.raises(ValueError, match="cameras must be different, got agentview more than once"):
        Args(policy="small", cameras=("agentview", "agentview"))
