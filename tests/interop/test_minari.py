"""Minari itself records the dream and recovers the env from the data set."""

import gc

import gymnasium as gym
import numpy as np
import pytest

from prophet_gym.envs import (
    EmbedInstruction,
    OneActionPerChunk,
    OneActionPerStep,
    ProphetEnv,
    StackFrames,
    Viewed,
    one_hot_table,
)
from prophet_gym.testing import CountingWorldModel, assert_same, counting_starts

pytest.importorskip("minari")
pytest.importorskip("jax", reason="Minari records with jax: pip install 'minari[create]'")

import minari

from prophet_gym.interop.minari import collector

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*eval_env.*:UserWarning", "ignore::DeprecationWarning", "ignore::ResourceWarning"
)


def test_a_data_set_replays_in_the_env_that_it_recovers(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    gym.register("CountingMinari-v0", entry_point="tests.counting:counting_env", max_episode_steps=3)
    try:
        env = collector(gym.make("CountingMinari-v0", chunk=4))
        for seed in range(2):
            env.reset(seed=seed, options={"task": seed, "start": 2})
            over = False
            while not over:
                *_, terminated, truncated, _ = env.step(env.action_space.sample())
                over = terminated or truncated
        about = {name: "x" for name in ("algorithm_name", "author", "author_email", "code_permalink", "description")}
        env.create_dataset("counting/random-v0", **about)
        env.close()
        data = minari.load_dataset("counting/random-v0")
        assert data.total_steps == 6
        again = data.recover_environment()
        assert again.unwrapped.world_model.chunk == 4
        for seed, episode in enumerate(data):
            assert episode.infos["task"].tolist() == [seed] * 4
            assert episode.infos["executed"].tolist() == [0, 4, 4, 4]
            seen = [again.reset(seed=seed, options={"task": seed, "start": 2})[0]["image"]]
            seen += [again.step(action)[0]["image"] for action in episode.actions]
            assert_same(np.asarray(episode.observations["image"]), np.stack(seen))
        del env, data
        gc.collect()
    finally:
        del gym.registry["CountingMinari-v0"]


TABLE = one_hot_table(start.instruction for start in counting_starts())
WRAPPED = {
    "one action per step": OneActionPerStep,
    "one action per chunk": lambda env: OneActionPerChunk(env, (0, 1), (0,) * 7),
    "stacked": lambda env: Viewed(env, StackFrames(2)),
    "all": lambda env: OneActionPerStep(Viewed(Viewed(env, StackFrames(2)), EmbedInstruction(TABLE))),
}


@pytest.mark.parametrize("name", WRAPPED)
def test_an_env_in_wrappers_is_recorded_and_recovered(tmp_path, monkeypatch, name):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))
    gym.register("CountingMinari-v0", entry_point="tests.counting:counting_env", max_episode_steps=3)
    try:
        env = collector(WRAPPED[name](gym.make("CountingMinari-v0", chunk=np.int64(4), size=(8, 8))))
        env.reset(seed=1, options={"task": 1})
        actions = [env.action_space.sample() for _ in range(9)]
        steps = [env.step(action) for action in actions]
        env.reset(seed=2)
        about = {name: "x" for name in ("algorithm_name", "author", "author_email", "code_permalink", "description")}
        env.create_dataset("counting/wrapped-v0", **about)
        env.close()
        data = minari.load_dataset("counting/wrapped-v0")
        again = data.recover_environment()
        again.reset(seed=1, options={"task": 1})
        for action, step in zip(actions, steps, strict=True):
            assert_same(again.step(action), step)
        first = data[0]
        assert set(first.infos["task"].tolist()) == {1}
        assert first.infos["executed"].tolist()[1:] == [info["executed"] for *_, info in steps][: len(first.rewards)]
        del env, data
        gc.collect()
    finally:
        del gym.registry["CountingMinari-v0"]


def test_an_env_that_cannot_be_recovered_is_refused():
    with pytest.raises(ValueError, match="pass one from gym"):
        collector(ProphetEnv(CountingWorldModel(), counting_starts()))
