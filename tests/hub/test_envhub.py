"""A published checkpoint as a LeRobot environment: the `env.py` of its repository, and LeRobot's own commands."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub import hf_hub_download

from prophet_gym.checkpoint import bundled_checkpoints
from prophet_gym.cli.main import main
from prophet_gym.envs import write_initial_states
from prophet_gym.interop.lerobot import LeRobotVectorEnv, make_env, weights_beside
from prophet_gym.specs import InitialState
from tests.interop.test_lerobot import load
from tests.train.robot.tiny import tiny_action_prophet

PAGE = (Path(__file__).parents[2] / "docs" / "how-to" / "publish.md").read_text(encoding="utf-8")
pytestmark = pytest.mark.skipif(not bundled_checkpoints().get("libero_small"), reason="no checkpoint is bundled")
SHORT = {"task_ids": [3], "episode_length": 8}


@pytest.fixture
def pushed(hub, client, folder):
    main(["push", str(folder), "me/dream"])
    return hub.repos["me/dream"].branches["main"]


def test_the_published_script_makes_the_env_of_its_own_commit(hub, client, folder, pushed):
    script = hf_hub_download("me/dream", "env.py")
    assert weights_beside(script, "me/dream") == f"me/dream@{pushed}"
    hub.add("me/dream", {"env.py": hub.files("me/dream")["env.py"]})  # what comes later is not taken
    envs = load(Path(script).parent).make_env(n_envs=2, cfg=SHORT)["libero_object"][3]
    observation, _ = envs.reset(seed=[0, 1])
    assert observation["pixels"]["image"].shape == (2, 128, 128, 3)
    for _ in range(8):
        *_, truncated, info = envs.step(np.zeros(envs.action_space.shape, np.float32))
    assert truncated.all()
    assert info["final_info"]["is_success"].shape == (2,)


def test_beside_a_checkpoint_it_takes_that(folder):
    assert weights_beside(str(folder / "env.py"), "me/dream") == str(folder)
    assert weights_beside(str(folder / "starts" / "env.py"), "me/dream") == "me/dream"


def test_another_robot_has_suites_of_its_own(tmp_path):
    model = tiny_action_prophet()
    frames = np.zeros((2, 1, *model.frame_size, 3), np.uint8)
    states = [InitialState(each, f"do {n}", "my_set", n, 0, "train") for n, each in enumerate(frames)]
    write_initial_states(tmp_path / "starts" / "train", states)
    model.save_pretrained(tmp_path)
    with pytest.warns(UserWarning, match="no success head"):
        envs = make_env(n_envs=2, weights=str(tmp_path))
    assert {suite: list(each) for suite, each in envs.items()} == {"my_set": [0, 1]}
    assert isinstance(envs["my_set"][1], LeRobotVectorEnv)
    observation, _ = envs["my_set"][1].reset(seed=[0, 1])
    assert observation["pixels"]["image"].shape == (2, *model.frame_size, 3)
    assert envs["my_set"][1].call("task_description") == ("do 1",) * 2


@pytest.mark.vla
def test_lerobot_makes_it_from_the_hub(pushed):
    from lerobot.envs.factory import make_env as lerobot_make_env

    with pytest.raises(RuntimeError, match="trust_remote_code"):
        lerobot_make_env("me/dream")
    envs = lerobot_make_env(f"me/dream@{pushed}", n_envs=2, trust_remote_code=True)["libero_object"]
    assert list(envs) == list(range(10))
    assert envs[3].reset(seed=[0, 1])[0]["agent_pos"].shape == (2, 3)


@pytest.fixture
def policy(tmp_path):
    """A folder of LeRobot's smallest policy, with random weights; it knows the camera by a name of its own."""
    from lerobot.configs.types import FeatureType, PolicyFeature
    from lerobot.policies.factory import make_pre_post_processors
    from lerobot.policies.tdmpc.configuration_tdmpc import TDMPCConfig
    from lerobot.policies.tdmpc.modeling_tdmpc import TDMPCPolicy

    seen = {"observation.image": (FeatureType.VISUAL, (3, 128, 128)), "observation.state": (FeatureType.STATE, (3,))}
    config = TDMPCConfig(
        input_features={name: PolicyFeature(*each) for name, each in seen.items()},
        output_features={"action": PolicyFeature(FeatureType.ACTION, (7,))},
        device="cpu",
        use_mpc=False,
    )
    folder = tmp_path / "outputs" / "lerobot_policy"
    for each in (TDMPCPolicy(config), *make_pre_post_processors(config)):
        each.save_pretrained(folder)
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"type": "tdmpc"}))  # which draccus 0.11 leaves out
    return folder


@pytest.mark.vla
def test_lerobot_eval_evaluates_a_policy_on_it(pushed, environment, policy, tmp_path):
    """The command of the page about publishing, in a process of its own."""
    (words,) = re.findall(r"^lerobot-eval (.*?)\n```", PAGE.replace("\\\n", " "), re.MULTILINE)
    command = [
        *(sys.executable, "-m", "lerobot.scripts.lerobot_eval"),
        *(word.replace("me/my-dream", "me/dream") for word in shlex.split(words)),
        '--rename_map={"observation.images.image": "observation.image"}',
        f"--output_dir={tmp_path / 'out'}",
    ]
    result = subprocess.run(
        command, env=os.environ | environment, capture_output=True, text=True, timeout=600, cwd=tmp_path
    )
    assert result.returncode == 0, result.stderr[-3000:]
    found = json.loads((tmp_path / "out" / "eval_info.json").read_text())
    assert found["overall"]["n_episodes"] == 4
    assert {(each["task_group"], each["task_id"]) for each in found["per_task"]} == {
        ("libero_object", 3),
        ("libero_object", 5),
    }
    assert np.isfinite(found["overall"]["avg_sum_reward"])
