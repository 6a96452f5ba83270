"""Two cameras and the robot's state, on a toy simulator and on toy dreams: both worlds have the same spaces."""

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

from prophet_gym.envs import ProphetEnv, ProphetTorchVectorEnv, ProphetVectorEnv, ShortenedChunk
from prophet_gym.errors import UnknownOptionError
from prophet_gym.sims import simulator
from prophet_gym.sims.env import SimulatorVectorEnv
from prophet_gym.sims.simulator import HasWristCamera, check_cameras, register_simulator, simulator_of
from prophet_gym.testing import CountingWorldModel, assert_same, check_prophet_env, counting_starts
from prophet_gym.world_model import ShowsWrist

BOTH = ("agentview", "wrist")
NAMES = {"image", "wrist_image", "state"}


class SeesTheHand(CountingWorldModel):
    """The wrist camera shows the newest frame upside down; the state counts in its first number."""

    def read_wrist(self, state):
        frames = (state["start"].to(torch.int64) + state["raised"][:, None, None]) % 256
        return frames.flip(1).to(torch.uint8)

    def read_robot_state(self, state):
        return torch.nn.functional.pad(state["raised"][:, :1].double() / 100, (0, 7))


@pytest.fixture
def pushing(monkeypatch):
    """The toy's suites, with and without a camera at the hand."""
    monkeypatch.setattr(simulator, "_REGISTERED", {**simulator._REGISTERED})
    for folder in (Path(__file__).parents[1], Path(__file__).parent):
        monkeypatch.syspath_prepend(str(folder))
    register_simulator(["pushing"], "pushing:Pushing")
    register_simulator(["pushing_wrist"], "pushing_wrist:PushingWithWrist")
    yield
    for name in ("pushing", "pushing_wrist"):
        sys.modules.pop(name, None)


def simulated(suite: str = "pushing_wrist", num_envs: int = 2, **options) -> SimulatorVectorEnv:
    return SimulatorVectorEnv(suite, num_envs, **{"size": 8, "chunk": 2, "max_episode_steps": 3, **options})


def dreamt(kind=ProphetVectorEnv, model=None, **options) -> ProphetVectorEnv:
    options = {"cameras": BOTH, "max_episode_steps": 3, **options}
    return kind(model or SeesTheHand(chunk=2), counting_starts(), 2, **options)


@pytest.mark.parametrize("mode", list(AutoresetMode))
@pytest.mark.parametrize("cameras", [BOTH[:1], BOTH])
def test_the_vector_envs_own_check_passes_with_one_and_two_cameras(pushing, mode, cameras):
    check_prophet_env(simulated(autoreset_mode=mode, cameras=cameras))
    check_prophet_env(dreamt(autoreset_mode=mode, cameras=cameras))


def test_both_worlds_have_the_same_spaces(pushing):
    for cameras in (BOTH[:1], BOTH):
        real, dream = simulated(cameras=cameras), dreamt(cameras=cameras)
        assert real.observation_space == dream.observation_space
        assert real.action_space == dream.action_space
    assert set(real.single_observation_space.spaces) == NAMES
    assert set(simulated().single_observation_space.spaces) == {"image"}


def test_a_second_camera_changes_no_episode(pushing):
    actions = np.random.default_rng(0).uniform(-1, 1, (2, 2, 7)).astype(np.float32)
    for one, two in ((simulated(), simulated(cameras=BOTH)), (dreamt(cameras=BOTH[:1]), dreamt())):
        for found, expected in zip(
            (two.reset(seed=4), *(two.step(actions) for _ in range(4))),
            (one.reset(seed=4), *(one.step(actions) for _ in range(4))),
            strict=True,
        ):
            assert set(found[0]) == NAMES
            assert_same({"image": found[0]["image"]}, expected[0])
            assert_same(found[1:], expected[1:])


def test_the_last_observation_of_an_episode_has_all_parts(pushing):
    for envs in (simulated(cameras=BOTH, autoreset_mode="SameStep"), dreamt(autoreset_mode="SameStep")):
        envs.reset(seed=0)
        still = np.zeros((2, 2, 7), np.float32)
        for _ in range(3):
            observation, *_, info = envs.step(still)
        assert set(info["final_obs"][0]) == NAMES
        assert (info["final_obs"][0]["wrist_image"] != observation["wrist_image"][0]).any()
    # The counter of the dream: six frames, and none after the restart.
    assert [info["final_obs"][0]["state"][0], observation["state"][0, 0]] == pytest.approx([0.06, 0.0])


def test_worker_processes_show_the_same(pushing):
    actions = np.full((2, 2, 7), 0.5, np.float32)
    results = []
    for workers in (0, 1):
        envs = simulated(cameras=BOTH, workers=workers)
        results.append([envs.reset(seed=1)[0], envs.step(actions)[0]])
        envs.close()
    assert_same(results[0], results[1])


def test_tensors_and_the_single_env_show_the_same(pushing):
    arrays, tensors = dreamt(), dreamt(ProphetTorchVectorEnv)
    expected, found = arrays.reset(seed=0)[0], tensors.reset(seed=0)[0]
    assert_same({name: part.numpy() for name, part in found.items()}, expected)
    one = ProphetEnv(SeesTheHand(chunk=2), counting_starts(), cameras=list(BOTH)).reset(seed=0)[0]
    assert_same(one, {name: part[0] for name, part in expected.items()})


def test_a_snapshot_brings_the_hand_back(pushing):
    envs = dreamt(autoreset_mode="Disabled")
    envs.reset(seed=0)
    before = envs.step(np.zeros((2, 2, 7), np.float32))[0]
    moment = envs.get_state(0)
    envs.step(np.zeros((2, 2, 7), np.float32))
    after, _ = envs.set_state(moment, [1])
    assert_same({name: part[1] for name, part in after.items()}, {name: part[0] for name, part in before.items()})


def test_a_shortened_chunk_shows_the_hand_where_the_model_does():
    class Cuts(SeesTheHand):
        def cut(self, state, chunk, steps):
            return chunk.state

    assert isinstance(ShortenedChunk(Cuts(chunk=4), 2, no_op=lambda action: action), ShowsWrist)
    assert not isinstance(CountingWorldModel(), ShowsWrist)


def test_a_world_with_one_camera_says_so(pushing):
    with pytest.raises(UnknownOptionError, match=r"unknown camera of pushing 'wrist'\. Known: agentview"):
        simulated("pushing", cameras=BOTH)
    with pytest.raises(ValueError, match=r"\('agentview', 'wrist'\) need weights that dream the wrist camera"):
        dreamt(model=CountingWorldModel(chunk=2))
    check_cameras("pushing_wrist", BOTH)
    assert issubclass(simulator_of("pushing_wrist"), HasWristCamera)
    assert not issubclass(simulator_of("pushing"), HasWristCamera)


@pytest.mark.parametrize(
    ("cameras", "message"),
    [
        ("wrist", "cameras must be names, as in cameras="),
        ([], "must name 'agentview', which every world has"),
        (["wrist"], "must name 'agentview', which every world has"),
        (["agentview", "agentview"], "each at most once"),
        (["agentview", 3], "cameras must be names"),
        (["agentview", "wirst"], "unknown camera 'wirst'. Did you mean 'wrist'"),
        (None, "cameras must be names"),
    ],
)
def test_what_names_no_cameras_is_refused(pushing, cameras, message, monkeypatch):
    import jaxtyping

    monkeypatch.setattr(jaxtyping.config, "jaxtyping_disable", True)
    for make in (simulated, dreamt):
        with pytest.raises(ValueError, match=message):
            make(cameras=cameras)


def test_any_order_is_one_order(pushing):
    assert simulated(cameras=np.array(["wrist", "agentview"])).cameras == BOTH
