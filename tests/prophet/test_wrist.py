"""The Prophet of two cameras: geometry with known answers, the contracts, and a start without the second camera."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from prophet_gym.embodiments import get_embodiment
from prophet_gym.embodiments._kinematics import axis_angle, turn_between, turned
from prophet_gym.errors import InvalidStartError
from prophet_gym.prophet import Prophet, TwoViewConfig, TwoViewProphet
from prophet_gym.prophet._gripper import ChunkStart
from prophet_gym.prophet._wrist import plane_grid, plane_grid_at_rest, rotation_of
from prophet_gym.specs import InitialState
from prophet_gym.testing import check_world_model
from prophet_gym.world_model import ShowsWrist
from tests.train.robot.tiny import tiny_two_view_prophet

WRIST = torch.tensor(get_embodiment("libero").wrist).float()
REST = torch.tensor([1.0, 0.0, 0.0, 0.0])
SHAPE = (1, 4, 32, 16)


def hands(*moves: tuple[float, ...]) -> torch.Tensor:
    """Return poses of a hand 25 cm above the floor and these moves and turns away."""
    numbers = torch.tensor(moves)
    rest = torch.tensor([-0.15, 0.0, 0.25, 1.0])
    moved = rest + torch.nn.functional.pad(numbers[:, :3], (0, 1))
    return torch.cat([moved, numbers[:, 3:], torch.zeros(len(moves), 1)], dim=1)[None]


def starts(frames, wrist):
    return [
        InitialState(own.numpy(), "wait", extra={} if seen is None else {"wrist_image": seen.numpy()[None]})
        for own, seen in zip(frames, wrist, strict=True)
    ]


def dream(model, state, chunks=2, seed=0):
    generators = [torch.Generator().manual_seed(seed + row) for row in range(len(state["latents"]))]
    for _ in range(chunks):
        chunk = model.rollout(state, torch.full((len(generators), 8, 7), 0.1), generators=generators)
        state = chunk.state
    return chunk


def test_a_hand_that_rests_sees_every_cell_where_it_was():
    grid = plane_grid(WRIST, 0.0, REST, hands((0,) * 6, (0,) * 6), 0, SHAPE)
    torch.testing.assert_close(grid, plane_grid_at_rest(torch.zeros(SHAPE)).expand_as(grid), atol=1e-5, rtol=0)


def test_a_point_of_the_plane_is_found_where_the_other_pose_sees_it():
    poses = hands((0, 0, 0, 0, 0, 0), (0.03, -0.02, -0.05, 0.1, -0.05, 0.3))
    points = torch.tensor([[-0.2, 0.02, 0.01], [-0.1, -0.03, 0.01], [-0.12, 0.05, 0.01]])

    def seen(pose):
        turn = rotation_of(pose[4:7], REST)
        u = torch.nn.functional.pad((points - pose[:3]) @ turn, (0, 1), value=1.0) @ WRIST.T
        return 2 * u[:, :2] / u[:, 2:] - 1

    grid = plane_grid(WRIST, 0.01, REST, poses, 0, (1, 4, 1024, 512))[0, 1]
    before, after = (seen(pose) for pose in poses[0])
    assert (before - after).abs().max() > 0.1, "the hand must move what it sees"
    found = torch.nn.functional.grid_sample(grid.permute(2, 0, 1)[None], after[None, :, None], align_corners=False)[
        0, :, :, 0
    ].T
    torch.testing.assert_close(found, before, atol=2e-3, rtol=0)


def test_it_is_the_homography_of_opencv():
    poses = hands((0, 0, 0, 0, 0, 0), (0.02, 0.01, 0.03, 0.0, 0.1, -0.2))
    grid = plane_grid(WRIST, 0.0, REST, poses, 0, (1, 1, 64, 32))[0, 1].reshape(-1, 2).numpy()
    still = plane_grid_at_rest(torch.zeros(1, 1, 64, 32)).reshape(-1, 2).numpy()
    corners = [0, 31, 32 * 31, 32 * 32 - 1]
    homography = cv2.getPerspectiveTransform(still[corners], grid[corners])
    np.testing.assert_allclose(cv2.perspectiveTransform(still[None], homography)[0], grid, atol=1e-3)


def test_what_does_not_meet_the_plane_stays():
    """A hand below the plane, and one that looks at the sky."""
    rest = plane_grid_at_rest(torch.zeros(SHAPE))
    for plane, turn in ((1.0, 0.0), (0.0, torch.pi)):
        grid = plane_grid(WRIST, plane, REST, hands((0,) * 6, (0.1, 0, 0, turn, 0, 0)), 0, SHAPE)
        torch.testing.assert_close(grid[0, 1], rest)


def test_rotation_vectors_lead_there_and_back_without_a_jump():
    rest = Rotation.from_euler("xyz", [3.1, 0.05, 0.1]).as_quat()
    vectors = np.random.default_rng(0).uniform(-1, 1, (20, 3))
    quaternions = turned(vectors, rest)
    np.testing.assert_allclose(turn_between(rest, quaternions), vectors, atol=1e-9)
    np.testing.assert_allclose(
        Rotation.from_quat(quaternions).as_matrix(),
        rotation_of(torch.from_numpy(vectors), torch.from_numpy(rest)).numpy(),
        atol=1e-9,
    )
    # Of both quaternions of a rotation it is the one that the simulator moves to from its own at rest.
    near = turned(np.linspace([-0.2, 0, 0], [0.2, 0, 0], 41), rest)
    assert np.abs(np.diff(axis_angle(near), axis=0)).max() < 0.05


def test_it_meets_the_contract_of_world_models():
    check_world_model(tiny_two_view_prophet(), tolerance=2)


def test_both_cameras_and_the_state_come_out_of_a_dream():
    model = tiny_two_view_prophet()
    frames = torch.randint(0, 256, (2, 1, 64, 64, 3), dtype=torch.uint8)
    state = model.encode_initial_states(frames, starts(frames, [frames[1, 0], frames[0, 0]]))
    assert isinstance(model, ShowsWrist)
    chunk = dream(model, state)
    assert model.read_wrist(chunk.state).shape == (2, 64, 64, 3)
    told = model.read_robot_state(chunk.state)
    assert told.shape == (2, 8)
    assert (told[:, 6] - told[:, 7] >= 0).all(), "the fingers must not cross"
    # What the hand sees has a part in what is dreamt.
    other = model.encode_initial_states(frames, starts(frames, [frames[0, 0], frames[0, 0]]))
    assert not torch.equal(dream(model, other).frames[0], chunk.frames[0])
    assert torch.equal(dream(model, other).frames[1], chunk.frames[1])


def test_the_newest_image_of_the_hand_is_its_youngest_frame():
    model = tiny_two_view_prophet()
    frames = torch.randint(0, 256, (1, 1, 64, 64, 3), dtype=torch.uint8)
    state = dream(model, model.encode_initial_states(frames, starts(frames, frames[:, 0]))).state
    assert torch.equal(model.read_wrist(state), model.decode_wrist(state, torch.tensor([0])))
    assert not torch.equal(model.read_wrist(state), model.decode_wrist(state, torch.tensor([7])))


def test_a_start_without_the_second_camera_dreams_the_first_alone():
    model = tiny_two_view_prophet()
    frames = torch.randint(0, 256, (2, 1, 64, 64, 3), dtype=torch.uint8)
    plain, told = model.encode(frames), model.encode_initial_states(frames, starts(frames, [None, frames[1, 0]]))
    chunk = dream(model, told)
    assert torch.equal(dream(model, plain).frames[0], chunk.frames[0])
    assert (chunk.state["latents"][0, :, :, 8:] == 0).all()
    with pytest.raises(InvalidStartError, match="began without an image of the camera at the hand"):
        model.read_wrist(chunk.state)


def test_an_image_of_another_size_or_kind_is_refused():
    model = tiny_two_view_prophet()
    frames = torch.zeros(1, 1, 64, 64, 3, dtype=torch.uint8)
    for image, given in (
        (torch.zeros(32, 32, 3, dtype=torch.uint8), r"uint8 \(1, 32, 32, 3\)"),
        (torch.zeros(64, 64, 3), r"float32 \(1, 64, 64, 3\)"),
    ):
        with pytest.raises(InvalidStartError, match=rf"must be uint8 \(1, 64, 64, 3\), got {given}"):
            model.encode_initial_states(frames, starts(frames, [image]))


def test_a_checkpoint_names_its_class(tmp_path):
    model = tiny_two_view_prophet()
    model.config = replace(model.config, steady=((0.5,) * 8,) * 8)
    model.save_pretrained(tmp_path)
    loaded = Prophet.from_pretrained(tmp_path)
    assert type(loaded) is TwoViewProphet
    assert loaded.config == model.config


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"wrist": ((0.0,) * 4,) * 2}, "wrist must be three rows of four numbers, got rows of [4, 4]"),
        ({"hand_rest": (2.0, 0.0, 0.0, 0.0)}, "hand_rest must be a quaternion xyzw of length 1"),
        ({"steady": ((0.5,) * 16,) * 8}, "steady must have 16 rows of 16 numbers in 0..1, or none"),
        ({"steady": ((1.5,) * 16,) * 16}, "steady must have 16 rows of 16 numbers in 0..1, or none"),
        ({"plane": float("nan")}, "plane must be within 10 metres, got nan"),
        ({"opening": 0.0}, "opening must be above 0 and at most 10 metres, got 0.0"),
    ],
)
def test_a_wrong_setting_is_named(changes, message):
    with pytest.raises(ValueError) as caught:  # noqa: PT011
        TwoViewConfig(**changes)
    assert message in str(caught.value)


def test_the_first_image_of_the_hand_is_shown_where_the_hand_now_sees_it():
    """A floor seen from two places: what both images share lies in the same cells, the rest is left empty."""
    model = tiny_two_view_prophet()
    config = replace(model.config, wrist=tuple(map(tuple, WRIST.tolist())), plane=0.0)
    gripper = hands(*[(0.0,) * 6] * 4)
    first = torch.randn(1, 6, 16, 8)
    away = gripper[:, 0].clone()
    away[:, 0] += 1.0  # a metre away: no floor in common
    past, still = torch.zeros(1, 20, 6, 16, 8), torch.zeros(1, 8, 7)

    def shown(first_gripper):
        start = ChunkStart(past, gripper, still, still, first, first_gripper)
        return config.inputs(model.tracker, start).action_frames[:, -6:, 0]

    same = shown(gripper[:, 0])
    torch.testing.assert_close(same, first, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(shown(away)[..., :8, :], first[..., :8, :])
    assert (shown(away)[..., 8:, :] == 0).all()
