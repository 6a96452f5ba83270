"""Episodes of policies in the counting model: what is seen, what counts, what is the same whatever runs beside it."""

import numpy as np
import pytest

from prophet_gym.checkpoint import Checkpoint
from prophet_gym.envs import ProphetVectorEnv
from prophet_gym.errors import UnknownOptionError
from prophet_gym.evaluation import make_acting_policy, play
from prophet_gym.rewards import FunctionReward
from prophet_gym.testing import CountingWorldModel, counting_starts

CELLS = [(0, 0), (1, 0), (0, 1), (1, 1), (0, 2)]


def make(reward, num_envs: int = 5, **options) -> ProphetVectorEnv:
    model = CountingWorldModel(chunk=2, action_dim=2, noise=False)
    options = {"autoreset_mode": "Disabled", "max_episode_steps": 3} | options
    return ProphetVectorEnv(model, counting_starts(), num_envs, reward_model=FunctionReward(reward), **options)


def raised(video, _) -> float:
    """Success once green is 40 above where the start may be at most."""
    return float(video[-1, 0, 0, 1] >= 100)


def forward(env, speed: str = "1"):
    """Make the policy that moves by its speed, and a little of its own noise."""
    shape = env.single_action_space.shape

    def act(observation, episodes):
        assert len(observation["image"]) == len(episodes)
        noise = [0.001 * episode.random.random() for episode in episodes]
        return np.clip(np.full((len(episodes), *shape), float(speed)) * 0.2 + np.reshape(noise, (-1, 1, 1)), -1, 1)

    return act


def test_what_ends_with_success_is_a_success_and_the_rest_failures():
    env = make(raised)
    # Six actions of 20 raise green by 120: from 0, 4, 8 to 100 or more; a speed of 0.5 reaches 100 from 40 alone.
    assert play(forward(env), env, CELLS, seed=0) == [True] * 5
    assert play(forward(env, "0.5"), env, CELLS, seed=0) == [False, True, False, True, False]
    assert play(forward(env, "0"), env, CELLS, seed=0) == [False] * 5


def test_episodes_do_not_depend_on_the_size_of_the_batch_nor_on_rows_that_rest():
    alone, seen = make(raised, 1), []

    def remember(observation, episodes):
        seen.append(np.array([episode.random.random() for episode in episodes]))
        return np.zeros((len(episodes), 2, 2), np.float32)

    for number, cell in enumerate(CELLS[:3]):
        play(remember, alone, [cell], seed=7 + number)
    single = np.reshape(seen, (3, 3))
    seen.clear()
    play(remember, make(raised, 5), CELLS[:3], seed=7)
    assert np.array_equal(np.stack(seen).T, single)


def test_an_abstention_is_no_failure_and_takes_no_success_back():
    env = make(lambda video, _: None)
    assert play(forward(env), env, CELLS, seed=0) == [None] * 5
    last = iter([0.0, 0.0, None])
    late = make(lambda video, _: next(last), 1)
    assert play(forward(late), late, CELLS[:1], seed=0) == [None]


def test_shuffled_actions_are_those_of_the_next_episode():
    env, given = make(raised, 3), []
    step = env.step
    env.step = lambda actions: (given.append(actions), step(actions))[1]

    def act(observation, episodes):
        return np.stack([[[0.1 * int(episode.start["task"]), 0.0]] * 2 for episode in episodes])

    play(act, env, CELLS[:2], seed=0, shuffled=True)
    assert np.allclose(given[0][:, 0, 0], [0.1, 0.0, 0.0])
    play(act, env, CELLS[:2], seed=0)
    assert np.allclose(given[-1][:, 0, 0], [0.0, 0.1, 0.0])


def test_an_env_that_restarts_by_itself_or_is_too_small_is_refused():
    env = make(raised, autoreset_mode="NextStep")
    with pytest.raises(ValueError, match="autoreset DISABLED"):
        play(forward(env), env, CELLS, seed=0)
    with pytest.raises(ValueError, match=r"at least 5 sub-environments, got .* and 2"):
        play(forward(env), make(raised, 2), CELLS, seed=0)


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("expert", UnknownOptionError, "MODULE:FUNCTION"),
        ("script:exprt", UnknownOptionError, "Did you mean 'expert'"),
        ("script:expert?nois=1", UnknownOptionError, "noise"),
        ("script:expert?noise=-1", ValueError, "noise must be"),
        ("nowhere:policy", ValueError, "cannot be imported"),
        ("prophet_gym.evaluation:nothing", ValueError, "cannot be imported"),
    ],
)
def test_a_name_that_says_nothing_is_refused(name, error, said):
    with pytest.raises(error, match=said):
        make_acting_policy(name, make(raised), Checkpoint.named("bundled"), "light")


def test_options_of_a_name_reach_the_function():
    env = make(raised)
    policy = make_acting_policy(f"{__name__}:forward?speed=0.5", env, Checkpoint.named("bundled"), "light")
    assert play(policy, env, CELLS, seed=0) == [False, True, False, True, False]
