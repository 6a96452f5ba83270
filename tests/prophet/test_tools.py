"""The tools that a dream carries: poses through commands, and their pictures as the model's second condition."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from prophet_gym.embodiments import get_embodiment
from prophet_gym.embodiments._embodiment import pose_extra
from prophet_gym.embodiments._kinematics import ToolPose, euler_to_matrix
from prophet_gym.embodiments._libero import FRACTION_REACHED
from prophet_gym.envs import ProphetEnv, ShortenedChunk
from prophet_gym.errors import CheckpointError, InvalidStartError
from prophet_gym.prophet import FullProphet, Prophet
from prophet_gym.prophet._action_frames import action_video, plan, project, start_tools
from prophet_gym.prophet._presets import TINY_FULL, tiny_full_prophet
from prophet_gym.specs import InitialState

DRAWN = replace(TINY_FULL, draw_tools=True)
QUARTER = np.pi / 2


def pose(position=(0.0, 0.0, 0.2), euler=(np.pi, 0.0, 0.0), openness=1.0) -> ToolPose:
    return ToolPose(np.array([position]), np.array([euler]), np.array([openness]))


def start(extra, suite="libero_object", seed=0) -> InitialState:
    frames = np.random.default_rng(seed).integers(0, 256, (1, 32, 32, 3), dtype=np.uint8)
    return InitialState(frames, "x", suite, 0, extra=extra)


def begun(prophet, *starts):
    return prophet.encode_initial_states(torch.from_numpy(np.stack([s.frames for s in starts])), starts)


def rolled(prophet, state, actions, seed=0):
    generators = [torch.Generator().manual_seed(seed + row) for row in range(len(actions))]
    return prophet.rollout(state, actions, generators=generators)


@pytest.fixture(scope="module")
def drawing():
    prophet = tiny_full_prophet(config=DRAWN)
    torch.nn.init.normal_(prophet.transformer.action_frame_embedder.proj_in.weight)
    return prophet


def test_bridge_commands_are_read_in_the_tools_own_frame_and_the_turn_is_carried_on():
    """A quarter turn about z, then 2 cm along the base's x, is 2 cm along the tool's -y: in the next chunk too."""
    robot = get_embodiment("bridge")
    tools = start_tools(robot, [None], drawn=False)
    turn, move = np.zeros(7, np.float32), np.zeros(7, np.float32)
    turn[5], move[0], turn[6], move[6] = QUARTER, 0.02, 1.0, 0.25
    first = plan(robot, torch.tensor(np.stack([turn, move]))[None], tools, 14)
    np.testing.assert_allclose(
        first.actions[0, :, :7], [[0, 0, 0, 0, 0, QUARTER, 1], [0, -0.02, 0, 0, 0, 0, 0.25]], atol=1e-6
    )
    assert not first.actions[..., 7:].any()
    second = plan(robot, torch.tensor(move)[None, None], first.tools[:, -1], 14)
    np.testing.assert_allclose(second.actions[0, 0, :3], [0, -0.02, 0], atol=1e-6)
    np.testing.assert_allclose(second.tools[0, -1, 0], [0.04, 0, 0, 0, 0, QUARTER, 0.25], atol=1e-6)


def test_a_dream_of_bridge_carries_the_pose_and_liberos_carries_none():
    prophet = tiny_full_prophet(config=replace(TINY_FULL, embodiment="bridge"))
    state = prophet.encode(torch.zeros(2, 1, 32, 32, 3, dtype=torch.uint8))
    actions = torch.zeros(2, 4, 7)
    actions[1, :, 2], actions[:, :, 6] = -0.01, 0.5
    after = rolled(prophet, state, actions).state
    np.testing.assert_allclose(after["tools"][:, 0, 2], [0, -0.04], atol=1e-6)
    assert after["tools"][:, 0, 6].tolist() == [0.5, 0.5]
    assert state["tools"][1, 0].tolist() == [0, 0, 0, 0, 0, 0, 1]
    assert set(tiny_full_prophet().encode(torch.zeros(1, 1, 32, 32, 3, dtype=torch.uint8))) == {"frames"}


def test_the_pictures_show_the_tool_where_libero_commands_lead():
    """The camera of libero_object's scene; one command of 1 moves the arm by FRACTION_REACHED x 5 cm."""
    robot = get_embodiment("libero")
    tools = start_tools(robot, [start(pose_extra(pose()))], drawn=True)
    actions = torch.zeros(1, 4, 7)
    actions[..., 1], actions[..., 6] = 1.0, -1.0
    planned = plan(robot, actions, tools, 14)
    camera = torch.from_numpy(robot.camera("libero_object", 0).matrix).float()[None]
    video = action_video(planned.tools, camera, (256, 256))
    assert video.shape == (1, 5, 256, 256, 3)
    for frame in (0, 4):
        at = torch.tensor([0.0, 0.05 * FRACTION_REACHED * frame, 0.2])
        u, v, _ = project(at, camera[0]).tolist()
        yellow = (
            (video[0, frame, ..., 0] > 200) & (video[0, frame, ..., 1] > 200) & (video[0, frame, ..., 2] < 60)
        ).nonzero()
        np.testing.assert_allclose(yellow.float().mean(0), [256 * v - 0.5, 256 * u - 0.5], atol=1.5)


def test_what_is_drawn_reaches_the_dream_and_the_pose_goes_on(drawing):
    near, far = start(pose_extra(pose())), start(pose_extra(pose(position=(-0.1, 0.25, 0.3))))
    state = begun(drawing, near, far)
    assert set(state) == {"frames", "tools", "camera"}
    actions = torch.zeros(2, 4, 7)
    actions[..., 2] = 1.0
    chunk = rolled(drawing, state, actions)
    alone = rolled(drawing, begun(drawing, near), actions[:1])
    elsewhere = rolled(drawing, begun(drawing, far), actions[:1])
    assert (chunk.frames[0].int() - alone.frames[0].int()).abs().max() <= 2
    assert not torch.equal(alone.frames, elsewhere.frames)
    rise = 4 * 0.05 * FRACTION_REACHED
    np.testing.assert_allclose(chunk.state["tools"][:, 0, 2], [0.2 + rise, 0.3 + rise], atol=1e-6)
    assert torch.equal(chunk.state["camera"], state["camera"])
    np.testing.assert_allclose(state["tools"][0, 0, :3], [0, 0, 0.2], atol=1e-6)


def test_without_draw_tools_poses_change_nothing():
    prophet = tiny_full_prophet()
    torch.nn.init.normal_(prophet.transformer.action_frame_embedder.proj_in.weight)
    plain = rolled(prophet, prophet.encode(torch.from_numpy(start({}).frames)[None]), torch.zeros(1, 4, 7))
    posed = rolled(prophet, begun(prophet, start(pose_extra(pose()))), torch.zeros(1, 4, 7))
    assert torch.equal(plain.frames, posed.frames)


def test_episodes_of_the_env_begin_with_the_poses_of_their_starts(drawing):
    env = ProphetEnv(ShortenedChunk(drawing, 2, no_op=get_embodiment("libero").no_op), [start(pose_extra(pose()))])
    env.reset(seed=0)
    command = np.zeros((2, 7), np.float32)
    command[:, 0] = 1.0
    for _ in range(2):
        env.step(command)
    tools = env._vector._state["tools"]
    np.testing.assert_allclose(tools[0, 0, 0], 4 * 0.05 * FRACTION_REACHED, atol=1e-6)


def test_poses_that_are_needed_and_missing_are_one_clear_error(drawing):
    with pytest.raises(
        InvalidStartError, match=r"draws the tools.*start 0 of task 0 of libero_object does not.*pose_extra"
    ):
        begun(drawing, start({}))
    with pytest.raises(InvalidStartError, match="frames alone do not"):
        drawing.encode(torch.zeros(1, 1, 32, 32, 3, dtype=torch.uint8))
    with pytest.raises(InvalidStartError, match="libero has none for it"):
        begun(drawing, start(pose_extra(pose()), suite="kitchen"))
    with pytest.raises(InvalidStartError, match="cannot begin in the middle"):
        drawing.resume(torch.zeros(1, 1, 32, 32, 3, dtype=torch.uint8), torch.zeros(1, 4, 7))
    droid = tiny_full_prophet(config=replace(TINY_FULL, embodiment="droid"))
    with pytest.raises(InvalidStartError, match="reads droid's actions from where the tools are"):
        begun(droid, start({}))
    with pytest.raises(ValueError, match="one start for each of 1 batch elements, got 0"):
        drawing.encode_initial_states(torch.zeros(1, 1, 32, 32, 3, dtype=torch.uint8), [])


def test_droid_draws_through_the_episodes_own_camera():
    prophet = tiny_full_prophet(config=replace(DRAWN, embodiment="droid"))
    camera = np.array([[0.5, 0, 0.5, 0.5], [0, 0.5, 0.5, 0.5], [0, 0, 1.0, 1.0]])
    state = begun(prophet, start({**pose_extra(pose()), "camera": camera}, suite="kitchen"))
    np.testing.assert_allclose(state["camera"][0], camera)
    turned = torch.zeros(1, 4, 7)
    turned[:, :, 5] = 1.0
    after = rolled(prophet, state, turned).state["tools"][0, 0]
    wanted = euler_to_matrix(np.array([0, 0, 4 * 0.15])) @ euler_to_matrix(np.array([np.pi, 0, 0]))
    np.testing.assert_allclose(euler_to_matrix(after[3:6].numpy()), wanted, atol=1e-5)


def test_the_choice_is_saved_and_must_fit_the_transformer(drawing, tmp_path):
    drawing.save_pretrained(tmp_path, half=False)
    loaded = Prophet.from_pretrained(tmp_path)
    assert loaded.config == DRAWN
    moved = start(pose_extra(pose()))
    frames = [rolled(model, begun(model, moved), torch.zeros(1, 4, 7)).frames for model in (drawing, loaded)]
    assert torch.equal(*frames)
    without = tiny_full_prophet()
    settings = dict(without.transformer.config) | {"action_frames": None, "_use_default_values": []}
    blind = type(without.transformer).from_config(settings)
    with pytest.raises(CheckpointError, match="draw_tools is set, but the transformer has no action-frame conditioner"):
        FullProphet(blind, without.autoencoder, DRAWN)
    with pytest.raises(CheckpointError, match="chunk=8, but the transformer reads 4 actions"):
        FullProphet(without.transformer, without.autoencoder, replace(TINY_FULL, chunk=8))
    narrow = type(without.transformer).from_config(settings | {"action_dim": 7})
    with pytest.raises(CheckpointError, match=r"agibot has 2 arm\(s\) of 7 numbers, but the transformer reads 7"):
        FullProphet(narrow, without.autoencoder, replace(TINY_FULL, embodiment="agibot", action_dim=16))
