"""Poses in clips: numbers of robots that need them, and action frames in the rows that have them."""

import shutil
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import pytest
import torch

from prophet_gym.embodiments import get_embodiment
from prophet_gym.embodiments._kinematics import ToolPose, tool_frame_deltas
from prophet_gym.embodiments._libero import FRACTION_REACHED
from prophet_gym.errors import CheckpointError
from prophet_gym.prophet import FullProphet
from prophet_gym.prophet._action_frames import action_video
from prophet_gym.prophet._flow import flow_times, karras_sigmas, velocity_loss
from prophet_gym.prophet._full import encode_conditions
from prophet_gym.prophet._presets import TINY_FULL, tiny_full_prophet
from prophet_gym.train._full import clip_losses, draw, draw_batch

pytest.importorskip("accelerate")
pytest.importorskip("peft")
pytest.importorskip("tensorboard")

from prophet_gym.data import Episode
from prophet_gym.data._windows import MixtureEntry, WindowDataset, WindowShape, _concat_windows
from prophet_gym.train._full import drawing
from prophet_gym.train._pretrain import open_clips, poses_plan, robot_plan

from .toy_full import CAMERA, Squares, first_weights, list_states, read_state, run, squares

QUARTER = np.pi / 2


def tools_at(*poses: tuple[float, ...]) -> np.ndarray:
    return np.array(poses, np.float32)[:, None]


@dataclass(frozen=True)
class Bridge:
    """An episode that turns a quarter about z in its first step and then moves 2 cm along x, its states told or not."""

    posed: bool

    def __len__(self):
        return 1

    def steps(self, index):
        return 8

    def episode(self, index):
        actions = np.zeros((8, 7), np.float32)
        actions[0, 5], actions[1:, 0], actions[:, 6] = QUARTER, 0.02, 0.5
        tools = np.zeros((9, 1, 7), np.float32)
        tools[1:, 0, 5], tools[:, 0, 6] = QUARTER, 1.0
        tools[1:, 0, 0] = 0.3 + 0.02 * np.arange(8)
        read = lambda start, stop: np.zeros((stop - start, 32, 32, 3), np.uint8)  # noqa: E731
        return Episode("drawer", actions, "open", 5.0, "bridge", read, tools if self.posed else None)


def bridge_clips(posed: bool) -> WindowDataset:
    robot = get_embodiment("bridge")
    entry = MixtureEntry(Bridge(posed), plan=partial(robot_plan, robot=robot, action_dim=14))
    return WindowDataset([entry], WindowShape(1, 4, (32, 32)))


def test_bridges_commands_are_read_from_the_true_pose_of_the_current_frame():
    """After the quarter turn, 2 cm along the base's x is 2 cm along the tool's -y."""
    clips = bridge_clips(posed=True)
    first, later = clips[0, 0], clips[0, 3]
    np.testing.assert_allclose(first.actions[0, 0, :7], [0, 0, 0, 0, 0, QUARTER, 0.5], atol=1e-6)
    np.testing.assert_allclose(first.actions[0, 1, :7], [0, -0.02, 0, 0, 0, 0, 0.5], atol=1e-6)
    np.testing.assert_allclose(later.actions[0, :, :7], [[0, -0.02, 0, 0, 0, 0, 0.5]] * 4, atol=1e-6)
    assert not later.actions[..., 7:].any()
    np.testing.assert_allclose(later.tools[0][0, 0], [0.34, 0, 0, 0, 0, QUARTER, 1.0], atol=1e-6)
    np.testing.assert_allclose(later.tools[0][4, 0], [0.42, 0, 0, 0, 0, QUARTER, 0.5], atol=1e-6)
    whole = get_embodiment("bridge").to_model_actions(
        clips.entries[0].source.episode(0).actions[3:7],
        ToolPose(np.zeros((1, 3)), np.array([[0, 0, QUARTER]]), np.ones(1)),
    )
    np.testing.assert_allclose(later.actions[0], whole, atol=1e-6)


def test_without_poses_they_mean_nothing():
    with pytest.raises(ValueError, match=r"bridge's actions come to depends .* state=COLUMN,numbers=xyz"):
        bridge_clips(posed=False)[0, 0]


def test_the_papers_numbers_are_the_motion_between_poses_of_any_robot():
    tools = tools_at((0, 0, 0, 0, 0, QUARTER, 1), (0.1, 0, 0, 0, 0, QUARTER, 0.5), (0.1, 0, 0, 0, 0, np.pi, 0.25))
    actions, drawn = poses_plan(np.full((2, 3), 9, np.float32), tools, action_dim=14)
    np.testing.assert_allclose(actions[:, :7], [[0, -0.1, 0, 0, 0, 0, 0.5], [0, 0, 0, 0, 0, QUARTER, 0.25]], atol=1e-6)
    assert drawn is tools
    both = np.concatenate([tools, tools], axis=1)
    with pytest.raises(ValueError, match=r"2 arm\(s\) need 14 dimensions of an action, but the model reads 7"):
        poses_plan(np.zeros((2, 3), np.float32), both, action_dim=7)


def test_liberos_tools_are_drawn_where_commands_lead_not_where_the_arm_went():
    actions = np.zeros((4, 7), np.float32)
    actions[:, 0], actions[:, 6] = 1.0, -1.0
    tools = tools_at(*[(0.01 * i, 0, 0.2, np.pi, 0, 0, 0.5) for i in range(5)])
    model_actions, path = robot_plan(actions, tools, robot=get_embodiment("libero"), action_dim=14)
    np.testing.assert_allclose(model_actions[:, 0], 0.05, atol=1e-7)
    np.testing.assert_allclose(path[:, 0, 0], 0.05 * FRACTION_REACHED * np.arange(5), atol=1e-6)
    assert path[:, 0, 6].tolist() == [0.5, 1, 1, 1, 1]
    with pytest.raises(ValueError, match="libero takes actions of 7 dimensions, the data have 5; add actions=given"):
        robot_plan(actions[:, :5], tools, robot=get_embodiment("libero"), action_dim=14)


def test_a_mixture_names_whose_commands_it_holds(toy_recording, toys):
    """Our recordings say where the gripper is, so they can be read as any robot's."""
    episode, _ = toys.episode(0)
    words = tuple(f"{toy_recording}{actions}" for actions in ("", ",actions=droid", ",actions=poses", ",actions=given"))
    clips = open_clips(tiny_full_prophet(), words[:3], 1)
    usual, droid, poses = (clips[number, 5] for number in range(3))
    np.testing.assert_allclose(usual.actions[0, :, :3], 0.05 * episode.actions[5:9, :3], atol=1e-6)
    velocity = episode.actions[5:9, :3]
    moves = 0.075 * velocity / np.maximum(np.linalg.norm(velocity, axis=1, keepdims=True), 1)
    np.testing.assert_allclose(np.diff(droid.tools[0][:, 0, :3], axis=0), moves, atol=1e-6)
    np.testing.assert_allclose(
        poses.actions[0],
        tool_frame_deltas(episode.gripper_position[5:10, None], np.zeros((5, 1, 3)), np.ones((5, 1))),
        atol=1e-6,
    )
    assert open_clips(tiny_full_prophet(), words[3:], 1)[0, 5].tools == (None,)


def batch_of(posed: tuple[int, ...], chunks: int = 1):
    """Clip 4 of each of three episodes."""
    clips = squares(first_weights(), chunks, Squares(posed=posed))
    windows = 20 - 4 * chunks + 1
    return _concat_windows([clips[0, windows * episode + 4] for episode in range(3)])


def seeing() -> FullProphet:
    """Its conditioner is not silent."""
    prophet = first_weights(draw_tools=True)
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(1)
        torch.nn.init.normal_(prophet.transformer.action_frame_embedder.proj_in.weight)
    return prophet


def losses(prophet, batch, images, chunks=1):
    draws = draw(range(3), chunks, (16, 1, 4, 4), seed=0)
    with torch.no_grad():
        return clip_losses(
            prophet.transformer, prophet.autoencoder, batch.history, batch.frames, batch.actions, draws,
            karras_sigmas(2), images,
        )  # fmt: skip


def test_the_rows_that_say_where_their_tools_are_are_drawn():
    images = draw_batch(batch_of((0, 2)), torch.device("cpu"))
    assert images.drawn.tolist() == [True, False, True]
    assert not images.video[1].any()
    tools, camera = batch_of((0, 2)).tools[2], torch.from_numpy(CAMERA).float()
    assert torch.equal(images.video[2], action_video(tools[None], camera[None], (32, 32))[0])
    assert images.video[2].any()


def test_the_loss_depends_on_the_pictures_of_the_rows_that_have_them():
    prophet, device = seeing(), torch.device("cpu")
    batch = batch_of((0, 2), chunks=2)
    images = draw_batch(batch, device)
    with_tools, without = losses(prophet, batch, images, 2), losses(prophet, batch, None, 2)
    assert (with_tools - without).abs().min() > 1e-4
    moved = images.video.clone()
    moved[2, 5:] = moved[2, 5:].flip(1)
    after = losses(prophet, batch, replace(images, video=moved), 2)
    assert after[0] == with_tools[0]
    assert after[1] != with_tools[1]
    painted = images.video.clone()
    painted[1] = 255
    assert torch.equal(losses(prophet, batch, replace(images, video=painted), 2), with_tools)


def test_rows_without_poses_give_the_loss_that_they_gave_before_to_the_bit():
    prophet = seeing()
    batch = batch_of((), chunks=2)
    images = draw_batch(batch, torch.device("cpu"))
    assert not images.drawn.any()
    assert torch.equal(losses(prophet, batch, images, 2), losses(prophet, batch, None, 2))


def test_a_mixed_batch_has_the_mean_loss_of_its_rows_each_as_if_alone():
    """Against the loss written out: rows 0 and 2 with their action frames, row 1 with none."""
    prophet, batch = seeing(), batch_of((0, 2))
    draws, images = draw(range(3), 1, (16, 1, 4, 4), seed=0), draw_batch(batch, torch.device("cpu"))
    alone = []
    for row in range(3):
        one = slice(row, row + 1)
        past = torch.cat([batch.history, batch.frames[:, :1]], dim=1)[one]
        video = images.video[one] if row != 1 else None
        with torch.no_grad():
            conditions = encode_conditions(prophet.autoencoder, past, batch.actions[one], "oldest_finest", video)
            target = prophet.autoencoder.encode(batch.frames[one])[:, :, 1:]
            time = flow_times(draws.sigmas[one, 0])
            alone.append(velocity_loss(prophet.transformer, conditions, target, draws.noise[one, 0], time)[0])
    torch.testing.assert_close(losses(prophet, batch, images)[0], torch.stack(alone).mean())


def test_training_moves_the_conditioner_and_resumes_to_the_bit(tmp_path):
    options = {"steps": 3, "draw_tools": True, "posed": (1,), "learning_rate": 1e-2, "chunks": 2}
    whole = run(tmp_path, **options).transformer.state_dict()
    newest = list_states(tmp_path)[-1]
    stored = read_state(newest)
    shutil.rmtree(newest)
    assert read_state(list_states(tmp_path)[-1])["step"] == 2
    resumed = run(tmp_path, **options).transformer.state_dict()
    assert all(torch.equal(value, resumed[name]) for name, value in whole.items())
    again = read_state(list_states(tmp_path)[-1])
    assert all(torch.equal(value, again["trained"][name]) for name, value in stored["trained"].items())
    first = first_weights().transformer.state_dict()
    conditioner = [name for name in first if name.startswith("action_frame_embedder.")]
    assert len(conditioner) == 12
    assert not any(torch.equal(first[name], whole[name]) for name in conditioner)


def test_poses_change_nothing_for_a_model_that_does_not_draw(tmp_path):
    with_poses = run(tmp_path / "with", steps=1, posed=(0, 1, 2)).transformer.state_dict()
    without = run(tmp_path / "without", steps=1).transformer.state_dict()
    assert all(torch.equal(value, without[name]) for name, value in with_poses.items())


def test_what_cannot_be_drawn_is_refused(tmp_path):
    with pytest.raises(ValueError, match="the tools cannot be drawn: no data set says where they are"):
        run(tmp_path, steps=1, draw_tools=True)
    blind = tiny_full_prophet()
    settings = dict(blind.transformer.config) | {"action_frames": None, "_use_default_values": []}
    without = FullProphet(type(blind.transformer).from_config(settings), blind.autoencoder, TINY_FULL)
    with pytest.raises(CheckpointError, match="has no action-frame conditioner"):
        drawing(without)
