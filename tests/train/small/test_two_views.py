"""Training of both cameras on a toy recording: a hand that looks down on a floor of squares."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from prophet_gym.data._latents import LatentEpisodes, hand_states
from prophet_gym.data._recording import META, episode_path, read_episode, write_episode
from prophet_gym.embodiments import get_embodiment
from prophet_gym.embodiments._kinematics import turned
from prophet_gym.envs import read_initial_states
from prophet_gym.evaluation import evaluate_open_loop
from prophet_gym.prophet import Prophet, SmallConfig, SmallProphet, TwoViewConfig, TwoViewProphet, tiny_prophet
from prophet_gym.prophet._autoencoder import FrameAutoencoder
from prophet_gym.prophet._gripper import GripperTracker
from prophet_gym.prophet._presets import small_transformer
from prophet_gym.specs import CAMERAS
from prophet_gym.train._autoencoder import load_footage
from prophet_gym.train._dynamics import Dreams, shown
from prophet_gym.train._small import Args, main
from prophet_gym.train._view import measure_view
from tests.train.robot.tiny import tiny_two_view_prophet

REST = np.array([1.0, 0.0, 0.0, 0.0])
FLOOR = 0.1


def seen_by_the_hand(positions, turns):
    """Draw a floor of squares as the camera at the hand sees it, 128 x 128, the fingers grey at the bottom."""
    wrist = get_embodiment("libero").wrist
    sides = (np.arange(128) + 0.5) / 128
    pixels = np.stack([*np.meshgrid(sides, sides), np.ones((128, 128))], axis=-1)
    images = []
    for position, turn in zip(positions, turns, strict=True):
        sight = pixels @ (turn @ np.linalg.inv(wrist[:, :3])).T
        eye = position - turn @ np.linalg.inv(wrist[:, :3]) @ wrist[:, 3]
        floor = eye + (FLOOR - eye[2]) / sight[..., 2:] * sight
        squares = 60 + 120 * ((np.floor(floor[..., 0] / 0.08) + np.floor(floor[..., 1] / 0.08)) % 2)
        image = np.repeat(squares[..., None], 3, axis=-1).astype(np.uint8)
        image[112:] = 128
        images.append(image)
    return np.stack(images)


@pytest.fixture(scope="module")
def both_recorded(toys, tmp_path_factory):
    folder = tmp_path_factory.mktemp("both")
    (folder / META).write_text("{}")
    for index in range(4):
        episode, frames = toys.episode(index)
        sim = episode.sim
        steps = np.linspace(0, 1, len(frames))[:, None]
        vectors = steps * np.array([0.1, -0.1, 0.4]) * (index + 1) / 4
        quaternions = turned(vectors, REST)
        positions = (0.1 * sim.gripper_position + [0, 0, 0.4]).astype(np.float32)
        fingers = np.tile(np.float32([0.03, -0.02]), (len(frames), 1))
        state = np.concatenate([positions, np.zeros((len(frames), 3), np.float32), fingers], axis=1)
        told = {"gripper_position": positions, "gripper_quaternion": quaternions.astype(np.float32)}
        sim = replace(sim, **told, gripper_opening=np.full(len(frames), 0.05, np.float32), robot_state=state)
        wrist = seen_by_the_hand(positions, Rotation.from_quat(quaternions).as_matrix())
        write_episode(episode_path(folder, 0, index), replace(episode, simulation=sim), frames, wrist)
    return folder


def recipe(data, out, **changes):
    steps = {"autoencoder_steps": 2, "decoder_steps": 2, "tracker_steps": 2, "steps": 3, "batch_size": 4}
    sizes = {"layers": 1, "width": 96, "latent_channels": 5, "held_out": 4, "chunks": 2, "single_until": 0.4}
    cameras = ("agentview", "wrist")
    return Args(data=(data,), out=out, device="cpu", cameras=cameras, **{**steps, **sizes, **changes})


@pytest.fixture(scope="module")
def out(both_recorded, tmp_path_factory):
    out = tmp_path_factory.mktemp("two") / "out"
    main(recipe(both_recorded, out))
    return out


def test_all_stages_end_in_a_checkpoint_that_dreams_both_cameras(out):
    prophet = Prophet.from_pretrained(out / "checkpoint")
    assert type(prophet) is TwoViewProphet
    starts = read_initial_states(out / "checkpoint" / "starts" / "train")
    frames = torch.from_numpy(np.stack([starts[0].frames, starts[0].frames]))
    state = prophet.encode_initial_states(frames, [starts[0], starts[0]])
    chunk = prophet.rollout(state, torch.zeros(2, 8, 7), generators=[torch.Generator(), torch.Generator()])
    assert chunk.frames.shape == (2, 8, 128, 128, 3)
    assert prophet.read_wrist(chunk.state).shape == (2, 128, 128, 3)
    assert torch.isfinite(prophet.read_robot_state(chunk.state)).all()


def test_it_is_trained_further_with_both_cameras(both_recorded, out, tmp_path):
    main(recipe(both_recorded, tmp_path / "out", base=str(out / "checkpoint"), steps=1))
    assert type(Prophet.from_pretrained(tmp_path / "out" / "checkpoint")) is TwoViewProphet


def test_the_hand_has_eight_numbers(both_recorded):
    episode = read_episode(episode_path(both_recorded, 0, 1))
    numbers = hand_states(episode, REST)
    np.testing.assert_allclose(numbers[:, :3], episode.sim.gripper_position, atol=1e-6)
    np.testing.assert_allclose(numbers[-1, 4:7], np.array([0.1, -0.1, 0.4]) / 2, atol=1e-5)
    np.testing.assert_allclose(numbers[:, [3, 7]], [[0.625, 0.005]] * len(numbers), atol=1e-6)


def test_a_recording_of_one_camera_is_refused(toy_recording, tmp_path):
    with pytest.raises(ValueError, match="must have the robot's state; record it with --cameras agentview wrist"):
        hand_states(read_episode(episode_path(toy_recording, 0, 0)), REST)


def test_the_plane_and_the_fingers_are_found_in_the_data(both_recorded):
    """Pixels, averaged over cells, stand for latents."""
    episodes = [read_episode(episode_path(both_recorded, 0, index)) for index in range(4)]
    cells = []
    for episode in episodes:
        views = [episode.frames(camera=camera) for camera in ("agentview", "wrist")]
        tall = torch.from_numpy(np.concatenate(views, axis=1)).float().permute(0, 3, 1, 2) / 64
        cells.append(torch.nn.functional.avg_pool2d(tall, 8).numpy())
    data = LatentEpisodes.join(cells, episodes, lambda each: hand_states(each, REST))
    wrist = tuple(map(tuple, get_embodiment("libero").wrist.tolist()))
    found = measure_view(TwoViewConfig(wrist=wrist, hand_rest=tuple(REST)), data)
    assert found.plane == pytest.approx(FLOOR, abs=0.021)
    steady = np.array(found.steady)
    assert steady[14:].min() > 0.9
    assert steady[:13].mean() < 0.45


def test_crops_of_the_hand_look_at_what_lies_below(both_recorded):
    footage = load_footage([episode_path(both_recorded, 0, 0)], 4, ("agentview", "wrist"))
    half = len(footage.frames) // 2
    assert (footage.references[:half] == 0).all()
    assert (footage.references[half:] == half).all()
    # The grip site is always seen at one place, in the middle and below it.
    fingers = footage.centres[half:, 0]
    np.testing.assert_allclose(fingers, np.broadcast_to(fingers[0], fingers.shape), atol=1e-3)
    assert fingers[0, 0] > 64


def test_a_dream_without_the_second_camera_stays_without(out):
    data, prophet = LatentEpisodes.load(out / "latents.npz"), Prophet.from_pretrained(out / "checkpoint")
    dreams = Dreams.begin(data, prophet.tracker, 200, 20, torch.Generator().manual_seed(0))
    assert 0.02 < (~dreams.known).float().mean() < 0.25
    hidden = dreams.past[~dreams.known]
    assert (hidden[..., 16:, :] == 0).all()
    assert (hidden[..., :16, :] != 0).any()
    weight = prophet.config.loss_weight(dreams.past[:, -8:], dreams.initial, dreams.past[:, -8:], dreams.known)
    assert (weight[~dreams.known][..., 16:, :] == 0).all()
    assert (weight[dreams.known] >= 1).all()
    assert torch.equal(shown(dreams.past, dreams.known), dreams.past)


def test_what_has_moved_counts_more():
    model = tiny_two_view_prophet()
    initial = torch.zeros(1, 6, 16, 8)
    target = initial[:, None].repeat(1, 8, 1, 1, 1)
    target[:, :, :, 2, 3] = 2.0
    source = target.clone()
    target[:, :, :, 12, 3] = source[:, :, :, 13, 3] = 2.0
    weight = model.config.loss_weight(target, initial, source, torch.tensor([True]))
    assert weight[0, 0, 0, 2, 3] == 5
    assert weight[..., :8, :].sum() == 8 * 6 * (64 + 4)
    # In the hand's view what counts is what its motion does not explain.
    assert weight[0, 0, 0, 12, 3] == weight[0, 0, 0, 13, 3] == 3
    assert weight[..., 8:, :].sum() == 8 * 6 * (64 + 4)


def test_dreams_of_the_hand_are_compared_with_what_it_saw(both_recorded, out):
    episodes = [read_episode(episode_path(both_recorded, 0, index)) for index in range(2)]
    prophet = Prophet.from_pretrained(out / "checkpoint")
    scores = {camera: evaluate_open_loop(prophet, episodes, (8,), camera=camera) for camera in CAMERAS}
    assert {*scores["wrist"][8]} == {"dream", "other_actions", "copy", "autoencoder"}
    # The condition `copy` needs no model: the hand's view changes faster than that of the fixed camera.
    copied = {camera: found[8]["copy"]["psnr"].mean() for camera, found in scores.items()}
    assert copied["wrist"] < copied["agentview"]
    both = [found[8]["dream"]["gripper_mm"] for found in scores.values()]
    np.testing.assert_array_equal(*both, err_msg="the dream must be the same, whichever camera is scored")


def test_a_model_of_one_camera_is_not_asked_for_two(both_recorded):
    episodes = [read_episode(episode_path(both_recorded, 0, 0))]
    with pytest.raises(ValueError, match="must be one that the world model dreams: it dreams only agentview"):
        evaluate_open_loop(tiny_prophet(), episodes, (8,), camera="wrist")


def test_training_begins_with_the_weights_of_another_model_that_fit(both_recorded, tmp_path, out):
    one_view = small_transformer(width=96, layers=1)
    for weight in one_view.parameters():
        torch.nn.init.constant_(weight, 0.25)
    parts = FrameAutoencoder(), GripperTracker()
    known = SmallProphet(one_view, *parts, SmallConfig())
    known.save_pretrained(tmp_path / "known")
    begun = recipe(both_recorded, tmp_path / "begun", init_from=str(tmp_path / "known"), steps=1, learning_rate=1e-30)
    main(begun)
    transformer = Prophet.from_pretrained(tmp_path / "begun" / "checkpoint").transformer.state_dict()
    same = {name for name, weight in transformer.items() if (weight == 0.25).all()}
    assert "transformer_blocks.0.attn1.to_q.weight" in same
    # Two views have more channels and more numbers of the hand.
    assert not {"patch_embed.proj.weight", "proj_out.weight"} & same
    with pytest.raises(ValueError, match="give --base or --init-from, not both"):
        main(recipe(both_recorded, tmp_path / "no", init_from="bundled", base=str(out / "checkpoint")))
    with pytest.raises(ValueError, match=r"is of another run .*init_from"):
        main(replace(begun, init_from=None))
