"""Calls of several threads are one batch, and no session notices the others."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from prophet_gym.envs import ProphetVectorEnv
from prophet_gym.serve._batching import Batcher
from prophet_gym.testing import CountingWorldModel, assert_same, check_world_model, counting_starts
from prophet_gym.world_model import DecodesOnDemand, Footage, RewardOutput, ScoresOnDemand, TracksGripper

CHUNK = 4


@pytest.fixture
def batcher():
    made = Batcher(window=0.2, most=64)
    yield made
    made.stop()


def play(batcher, model, seed, steps=3, num_envs=2, together=None):
    envs = ProphetVectorEnv(batcher.merged(model), counting_starts(), num_envs, max_episode_steps=None)
    rng = np.random.default_rng(seed)
    actions = rng.uniform(-1, 1, (steps, *envs.action_space.shape)).astype(np.float32)
    found = []
    for call in (lambda: envs.reset(seed=seed), *(lambda action=action: envs.step(action) for action in actions)):
        with batcher.session(envs):
            if together is not None and not found:
                together.wait()
            found.append(call())
    return found


def test_steps_of_several_sessions_are_one_batch_and_what_each_dreams_alone(batcher):
    model, together = CountingWorldModel(chunk=CHUNK), threading.Barrier(5)
    with ThreadPoolExecutor(5) as threads:
        found = list(threads.map(lambda seed: play(batcher, model, seed, together=together), range(5)))
    assert model.batch_sizes == [10] * 3
    assert batcher.batches == 4
    for seed, results in enumerate(found):
        alone = ProphetVectorEnv(CountingWorldModel(chunk=CHUNK), counting_starts(), 2, max_episode_steps=None)
        assert_same(results[0], alone.reset(seed=seed))
        rng = np.random.default_rng(seed)
        for result in results[1:]:
            assert_same(result, alone.step(rng.uniform(-1, 1, (2, CHUNK, 7)).astype(np.float32)))


def test_a_lone_session_waits_for_nobody():
    batcher = Batcher(window=5.0)
    began = time.monotonic()
    play(batcher, CountingWorldModel(chunk=CHUNK), 0)
    assert time.monotonic() - began < 5.0
    batcher.stop()


def test_a_batch_is_no_larger_than_asked_and_no_session_is_cut():
    batcher, model = Batcher(window=0.2, most=4), CountingWorldModel(chunk=CHUNK)
    with ThreadPoolExecutor(3) as threads:
        list(threads.map(lambda seed: play(batcher, model, seed, num_envs=2 + 3 * (seed == 2)), range(3)))
    assert max(model.batch_sizes) == 5
    assert set(model.batch_sizes) <= {2, 4, 5}
    batcher.stop()


class Picky(CountingWorldModel):
    """Fails, after it has drawn its noise, where an action is above 0.9."""

    def rollout(self, state, actions, *, generators):
        chunk = super().rollout(state, actions, generators=generators)
        if (actions > 0.9).any():
            raise RuntimeError("too fast")
        return chunk


def test_what_is_wrong_with_one_session_is_no_error_of_another(batcher):
    model, both = Picky(chunk=CHUNK), threading.Barrier(2)
    merged = batcher.merged(model)
    envs = [ProphetVectorEnv(merged, counting_starts(), 1, max_episode_steps=None) for _ in range(2)]
    alone = ProphetVectorEnv(CountingWorldModel(chunk=CHUNK), counting_starts(), 1, max_episode_steps=None)

    def step(number):
        with batcher.session(number):
            envs[number].reset(seed=number)
            both.wait()
            try:
                return envs[number].step(np.full((1, CHUNK, 7), number, np.float32))
            except RuntimeError as error:
                return str(error)

    with ThreadPoolExecutor(2) as threads:
        fine, failed = threads.map(step, range(2))
    assert failed == "too fast"
    assert model.batch_sizes[0] == 2
    alone.reset(seed=0)
    assert_same(fine, alone.step(np.zeros((1, CHUNK, 7), np.float32)))
    with batcher.session(1):  # the failed step counts for nothing
        again = envs[1].step(np.zeros((1, CHUNK, 7), np.float32))
    alone.reset(seed=1)
    assert_same(again, alone.step(np.zeros((1, CHUNK, 7), np.float32)))


def test_a_stand_in_keeps_the_contract_and_the_abilities(batcher):
    from prophet_gym.prophet import tiny_prophet

    merged = batcher.merged(tiny_prophet())
    assert type(merged).__name__ == "SmallProphet"
    assert isinstance(merged, DecodesOnDemand)
    assert isinstance(merged, TracksGripper)
    assert not isinstance(batcher.merged(CountingWorldModel()), DecodesOnDemand)
    assert batcher.merged(None) is None
    # A bare partial in a class is a method from Python 3.14 on.
    assert isinstance(vars(type(merged))["rollout"], staticmethod)
    with batcher.session("check"):
        check_world_model(merged, tolerance=2)


class Looking:
    """Scores a video by one frame that it asks for."""

    when, stride, max_frames = "chunk", 1, 9

    def score(self, videos, instructions):
        raise NotImplementedError

    def score_on_demand(self, footage, instructions):
        frames = footage.look([[length - 1] for length in footage.lengths])
        reward = torch.tensor([float(frame.float().mean()) for frame in frames]) / 256
        return RewardOutput(reward, torch.ones(len(reward), dtype=torch.bool))


def test_a_reward_model_looks_at_the_frames_of_each_session(batcher):
    merged, both = batcher.merged(Looking()), threading.Barrier(3)
    assert isinstance(merged, ScoresOnDemand)

    def score(number):
        def look(wanted):
            assert threading.current_thread() is batcher._thread
            return [torch.full((len(places), 2, 2, 3), 10 * number + places[0], dtype=torch.uint8) for places in wanted]

        with batcher.session(number):
            both.wait()
            return merged.score_on_demand(Footage([number + 1] * 2, [[], []], look), ["a", "b"])

    with ThreadPoolExecutor(3) as threads:
        outputs = list(threads.map(score, range(3)))
    assert [(256 * output.reward).tolist() for output in outputs] == [[11.0 * number] * 2 for number in range(3)]
    assert all(output.scored.tolist() == [True, True] and output.done is None for output in outputs)
    assert batcher.batches == 1
