"""The robot's state in dreams: errors by age, half-widths that cover, and what an env tells of them."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from prophet_gym.data import Episode
from prophet_gym.data._episode import Simulation
from prophet_gym.envs import InitialStates, ProphetVectorEnv
from prophet_gym.errors import InvalidStartError
from prophet_gym.evaluation._state import StateErrors, compared, half_widths, state_errors, state_table, summarise_state
from prophet_gym.specs import InitialState
from prophet_gym.testing import CountingWorldModel
from tests.train.robot.tiny import tiny_two_view_prophet

STATE = np.array([0.1, -0.2, 0.9, 3.1, 0.1, 0.05, 0.03, -0.02])


class Drifts(CountingWorldModel):
    """Reports the first state's position plus a millimetre a frame in x, and states a fixed half-width or none."""

    decodable = 0
    stated = None

    def encode_initial_states(self, frames, starts):
        own = torch.from_numpy(np.stack([start.extra["state"] for start in starts])).double()
        return {**self.encode(frames), "own": own}

    def advance(self, state, actions, *, generators):
        following = self.rollout({k: v for k, v in state.items() if k != "own"}, actions, generators=generators).state
        return {**following, "own": state["own"] + torch.tensor([0.001 * self.chunk] + [0.0] * 7)}

    def read_wrist(self, state):
        return state["start"]

    def read_robot_state(self, state):
        return state["own"]

    def read_state_error(self, state):
        return None if self.stated is None else torch.tensor(self.stated).expand(len(state["own"]), 3)

    def decode(self, state, ages):
        raise NotImplementedError

    def uncertainty(self, state):
        raise NotImplementedError


def episode(length, name="a"):
    dark = lambda start, stop: np.zeros((stop - start, 8, 8, 3), np.uint8)  # noqa: E731
    still = np.tile(STATE.astype(np.float32), (length + 1, 1))
    sim = Simulation(
        gripper_position=still[:, :3],
        gripper_quaternion=np.tile(np.float32([1, 0, 0, 0]), (length + 1, 1)),
        gripper_opening=still[:, 6],
        object_positions=np.zeros((length + 1, 1, 3), np.float32),
        object_names=("can",),
        target="can",
        init_state=np.zeros(1),
        seed=0,
        success=np.zeros(length + 1, bool),
        suite="toy",
        task=0,
        look="plain",
        mode="expert",
        robot_state=still,
    )
    return Episode(
        name, np.zeros((length, 7), np.float32), "wait", 20.0, "libero", dark, simulation=sim, read_wrist=dark
    )


def test_errors_grow_with_a_dream_that_drifts_and_end_with_the_recording():
    errors = state_errors(Drifts(chunk=4), [episode(8), episode(22), episode(3)], 4, rows=2)
    assert errors.values.shape == (3, 4, 3)
    np.testing.assert_allclose(errors.values[1, :, 0], [0.004, 0.008, 0.012, 0.016], atol=1e-6)
    np.testing.assert_allclose(errors.values[0, :2, 0], [0.004, 0.008], atol=1e-6)
    assert np.isnan(errors.values[0, 2:]).all()
    assert np.isnan(errors.values[2]).all()
    np.testing.assert_allclose(errors.values[1, :, 1:], 0, atol=1e-6)
    assert np.isnan(errors.stated).all()


def test_a_turn_is_measured_as_an_angle_and_fingers_by_the_worse_joint():
    turned = STATE.copy()
    turned[3:6] = (Rotation.from_rotvec([0, 0, 0.3]) * Rotation.from_rotvec(STATE[3:6])).as_rotvec()
    turned[6:] += [0.001, -0.004]
    # The same rotation, said with the angle beyond pi.
    beyond = turned.copy()
    angle = np.linalg.norm(turned[3:6])
    beyond[3:6] *= (angle - 2 * np.pi) / angle
    for own in (turned, beyond):
        np.testing.assert_allclose(compared(own[None], STATE[None]), [[0, 0.3, 0.004]], atol=1e-9)


def test_half_widths_cover_nine_tenths_of_errors_like_those_they_are_made_of():
    random = np.random.default_rng(0)
    scale = 0.01 * np.sqrt(np.arange(1, 11))[:, None]

    def drawn(count):
        return np.abs(random.normal(size=(count, 10, 3))) * scale

    known = StateErrors(drawn(200), np.full((200, 10, 3), np.nan))
    widths = np.array(half_widths(known))
    assert widths.shape == (10, 3)
    assert (np.diff(widths[:, 0]) > 0).all()
    assert 0.87 < (drawn(2000) <= widths).mean() < 0.93
    # Few errors give wide intervals, not narrow ones: of three, the largest.
    few = StateErrors(known.values[:3, :1], known.stated[:3, :1])
    np.testing.assert_allclose(half_widths(few)[0], known.values[:3, 0].max(axis=0), atol=1e-5)


def test_the_report_says_how_often_an_error_is_within_what_was_stated():
    model = Drifts(chunk=4)
    model.stated = (0.01, 0.01, 0.01)
    report = summarise_state(state_errors(model, [episode(16), episode(16)], 4), 4, (4, 16, 240))
    assert [*report] == ["4", "16"]
    assert report["4"]["position"]["covered"]["mean"] == 1.0
    assert report["16"]["position"]["covered"]["mean"] == 0.0
    assert report["16"]["position"]["median"]["mean"] == pytest.approx(16, abs=1e-3)
    (line,) = [line for line in state_table(report).splitlines() if line.startswith("16 frames, position")]
    assert line.split()[3:] == ["16.0", "[16.0,", "16.0]", "mm", "10.0", "mm", "0.00", "[0.00,", "0.00]"]


def test_what_cannot_be_compared_is_said():
    with pytest.raises(ValueError, match="must dream the robot's state"):
        state_errors(CountingWorldModel(), [episode(8)], 1)
    with pytest.raises(ValueError, match="no episode has both cameras"):
        state_errors(Drifts(chunk=4), [episode(3)], 1)


def begun(model, state):
    size = model.frame_size
    extra = {"wrist_image": np.zeros((1, *size, 3), np.uint8)} | ({} if state is None else {"state": state})
    starts = [InitialState(np.zeros((1, *size, 3), np.uint8), "wait", extra=extra)]
    return model.encode_initial_states(torch.from_numpy(starts[0].frames[None]), starts)


def test_a_dream_begins_at_the_state_that_it_is_told():
    model = tiny_two_view_prophet()
    told = model.read_robot_state(begun(model, STATE.astype(np.float32)))[0].numpy()
    np.testing.assert_allclose(compared(told[None].astype(float), STATE[None]), 0, atol=1e-5)
    assert not np.allclose(model.read_robot_state(begun(model, None))[0].numpy(), told, atol=1e-3)
    with pytest.raises(InvalidStartError, match="must be 8 finite numbers"):
        begun(model, STATE[:6])


def test_the_env_states_errors_by_age_and_nothing_where_none_were_measured():
    model = tiny_two_view_prophet()
    size = model.frame_size
    start = InitialState(
        np.zeros((1, *size, 3), np.uint8), "wait", extra={"wrist_image": np.zeros((1, *size, 3), np.uint8)}
    )

    def told(config, steps=3):
        model.config = config
        env = ProphetVectorEnv(model, InitialStates([start]), 2, cameras=("agentview", "wrist"), max_episode_steps=9)
        env.reset(seed=0)
        return [env.step(env.action_space.sample())[-1] for _ in range(steps)]

    assert all("state_error" not in info for info in told(model.config))
    rows = ((0.001, 0.01, 0.002), (0.003, 0.03, 0.004))
    found = told(type(model.config)(**{**vars(model.config), "state_errors": rows}))
    for info, row in zip(found, (rows[0], rows[1], rows[1]), strict=True):
        np.testing.assert_allclose(info["state_error"], [row, row], rtol=1e-6)
