"""LIBERO's wrist camera and robot state: what its policies were trained on, and episodes that they do not change."""

import json
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec

import prophet_gym  # noqa: F401 registers the ids
from prophet_gym.embodiments._kinematics import axis_angle, quaternion_to_matrix, rotation_vector_to_matrix
from prophet_gym.sims.env import SimulatorVectorEnv
from prophet_gym.sims.libero import _install as install
from prophet_gym.sims.libero.simulator import LiberoSimulator
from prophet_gym.testing import assert_same, check_prophet_env

needs_libero = pytest.mark.skipif(install.missing() is not None, reason=str(install.missing()))
BOTH = ("agentview", "wrist")
TASK = 3


@pytest.fixture(scope="module")
def sim():
    sim = LiberoSimulator("libero_object", TASK)
    yield sim
    sim.close()


COMPARED = f"""
import json
import numpy as np
from prophet_gym.sims.libero.simulator import LiberoSimulator

sim = LiberoSimulator("libero_object", {TASK})
sim.reset(seed=0)
from libero.libero.envs.env_wrapper import OffScreenRenderEnv

bddl = sim._benchmark.get_task_bddl_file_path({TASK})
theirs = OffScreenRenderEnv(bddl_file_name=bddl, camera_heights=sim.size, camera_widths=sim.size)
theirs.reset()
seen = theirs.set_init_state(sim._env.sim.get_state().flatten())
found = {{}}
for name, ours in (("agentview_image", sim.render()), ("robot0_eye_in_hand_image", sim.render_wrist())):
    raw = seen[name].astype(int)
    ways = {{"upright": raw[::-1], "raw": raw, "mirrored": raw[::-1, ::-1], "raw mirrored": raw[:, ::-1]}}
    found[name] = {{how: float(np.abs(image - ours).mean()) for how, image in ways.items()}}
print(json.dumps(found), flush=True)
"""


def chunks(rows: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-1, 1, (rows, 2, 7)).astype(np.float32)


def test_axis_angles_are_those_of_robosuite():
    random = np.random.default_rng(0)
    quaternions = random.normal(size=(200, 4))
    quaternions /= np.linalg.norm(quaternions, axis=1, keepdims=True)
    turns = axis_angle(quaternions)
    np.testing.assert_allclose(rotation_vector_to_matrix(turns), quaternion_to_matrix(quaternions), atol=1e-9)
    # The angle of a quaternion with a negative real part is larger than pi.
    angles = np.linalg.norm(turns, axis=1)
    np.testing.assert_array_equal(angles > np.pi, quaternions[:, 3] < 0)
    np.testing.assert_array_equal(axis_angle(np.array([[0, 0, 0, 1.0], [0, 0, 0, -1.0]])), np.zeros((2, 3)))


@needs_libero
@pytest.mark.libero
def test_the_state_is_what_libero_reports(sim):
    from robosuite.utils.transform_utils import quat2axisangle

    sim.reset(seed=0)
    for action in chunks(1, 5)[0].repeat(4, axis=0):
        seen, *_ = sim._env.step(action)
        turn = quat2axisangle(seen["robot0_eef_quat"].copy())
        expected = np.concatenate([seen["robot0_eef_pos"], turn, seen["robot0_gripper_qpos"]])
        np.testing.assert_array_equal(sim.robot_state(), expected)


@needs_libero
@pytest.mark.libero
@pytest.mark.slow
def test_both_images_are_liberos_own_turned_upright():
    """In a process of its own, since robosuite's renderer takes the display with it when it ends."""
    done = subprocess.run([sys.executable, "-c", COMPARED], capture_output=True, text=True, check=True, timeout=500)
    for name, differences in json.loads(done.stdout.splitlines()[-1]).items():
        # Ours has fewer faces and one sample a pixel.
        assert differences["upright"] < 4, name
        assert min(value for how, value in differences.items() if how != "upright") > 3 * differences["upright"], name


@needs_libero
@pytest.mark.libero
def test_the_fingers_close_at_the_bottom_of_the_wrist_image(sim):
    sim.reset(seed=0)
    upright = sim.render_wrist().astype(float)
    for action in np.tile([0, 0, 0, 0, 0, 0, 1.0], (6, 1)):
        sim.step(action)
    changed = np.abs(sim.render_wrist() - upright).max(axis=-1) > 30
    rows, columns = np.nonzero(changed)
    # The fingers close from both sides, at the bottom of the image.
    assert rows.mean() > 0.7 * sim.size
    assert columns.min() < 0.35 * sim.size
    assert columns.max() > 0.65 * sim.size


@needs_libero
@pytest.mark.libero
def test_drawing_both_cameras_in_turn_changes_neither(sim):
    sim.reset(seed=0)
    first, hand = sim.render(), sim.render_wrist()
    np.testing.assert_array_equal(sim.render(), first)
    np.testing.assert_array_equal(sim.render_wrist(), hand)
    assert (first != hand).any()


@needs_libero
@pytest.mark.libero
def test_the_same_actions_give_the_same_episode_with_both_cameras():
    one, two = (
        SimulatorVectorEnv("libero_object", 2, tasks=[TASK], chunk=2, size=64, max_episode_steps=2, **options)
        for options in ({}, {"cameras": BOTH})
    )
    results = []
    for envs in (one, two):
        results.append([envs.reset(seed=8), *(envs.step(chunks(2, seed)) for seed in range(3))])
        envs.close()
    for expected, found in zip(*results, strict=True):
        assert set(found[0]) == {"image", "wrist_image", "state"}
        assert_same({"image": found[0]["image"]}, expected[0])
        assert_same(found[1:], expected[1:])


@needs_libero
@pytest.mark.libero
@pytest.mark.slow
@pytest.mark.parametrize("cameras", [BOTH[:1], BOTH])
def test_the_vector_envs_own_check_passes(cameras):
    envs = SimulatorVectorEnv(
        "libero_object", 2, tasks=[TASK], chunk=1, size=32, max_episode_steps=2, render="chunk", cameras=cameras
    )
    check_prophet_env(envs)
    envs.close()


@needs_libero
@pytest.mark.libero
def test_cameras_come_back_from_json():
    options = {"tasks": [TASK], "size": 64, "cameras": np.array(["agentview", "wrist"])}
    env = gym.make("LIBERO-Object-v0", **options)
    again = gym.make(EnvSpec.from_json(env.spec.to_json()))
    envs = gym.make_vec("LIBERO-Object-v0", num_envs=2, **options)
    several = gym.make_vec(EnvSpec.from_json(envs.spec.to_json()))
    assert env.spec.kwargs["cameras"] == ["agentview", "wrist"]
    for made, other in ((env, again), (envs, several)):
        assert made.observation_space == other.observation_space
        made.close(), other.close()
    assert set(env.observation_space.spaces) == {"image", "wrist_image", "state"}


@pytest.mark.parametrize("id_", ["Prophet-LIBERO-v0", "Prophet-LIBERO-Object-v0"])
def test_a_dream_of_one_camera_says_so(id_):
    assert gym.make(id_, cameras=["agentview"]).observation_space == gym.make(id_).observation_space
    for make in (gym.make, gym.make_vec):
        with pytest.raises(ValueError, match=r"need weights that dream the wrist camera .* leave cameras out, or take"):
            make(id_, cameras=BOTH)
