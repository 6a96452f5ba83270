"""Forked processes: gymnasium's AsyncVectorEnv forks on Linux, after the parent has computed on several threads."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from prophet_gym.sims.libero import _install as install

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system cannot fork")

HEAVY = """
import gymnasium as gym
import numpy as np
import torch

from prophet_gym.envs import ProphetEnv
from prophet_gym.testing import CountingWorldModel, counting_starts


class Heavy(CountingWorldModel):
    def rollout(self, state, actions, **options):
        assert torch.ones(1 << 20).sin().sum() > 0  # large enough for all threads
        return super().rollout(state, actions, **options)


MODEL = Heavy(chunk=4)


def make():
    return ProphetEnv(MODEL, counting_starts())
"""


def run(code: str, timeout: float = 240) -> str:
    """What a script prints, run without OMP_NUM_THREADS; it and its children are killed when it takes too long."""
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", code],
        env=environment,
        cwd=Path(__file__).parents[2],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            said, complained = process.communicate(timeout=timeout)
        finally:
            # Not `process.kill`: forked children hold the pipes open.
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
    assert process.returncode == 0, complained
    return said


@pytest.mark.slow
def test_the_dream_runs_in_forked_processes_on_default_settings():
    said = run("""
import gymnasium as gym
import prophet_gym

envs = gym.make_vec("Prophet-LIBERO-v0", num_envs=2, vectorization_mode="async")
envs.reset(seed=0)
observation, *_ = envs.step(envs.action_space.sample())
print(observation["image"].shape)
envs.close()
""")
    assert said == "(2, 128, 128, 3)\n"


def test_a_fork_dreams_after_its_parent_did_on_two_threads():
    said = run(
        HEAVY
        + """
torch.set_num_threads(2)
env = make()
env.reset(seed=0)
env.step(env.action_space.sample())
envs = gym.vector.AsyncVectorEnv([make, make], context="fork")
envs.reset(seed=0)
observation, *_ = envs.step(np.zeros(envs.action_space.shape, np.float32))
print(observation["image"].shape, torch.get_num_threads())
envs.close()
"""
    )
    assert said == "(2, 8, 8, 3) 2\n"


LIBERO = """
import gc
import os
import gymnasium as gym
import prophet_gym


def make():
    return gym.make("LIBERO-Object-v0", tasks=[3], size=64, chunk=2)


def fork():
    envs = gym.vector.AsyncVectorEnv([make], context="fork")
    observation, _ = envs.reset(seed=0)
    envs.step(envs.action_space.sample())
    envs.close()
    return observation["image"]
"""
needs_libero = pytest.mark.skipif(install.missing() is not None, reason=str(install.missing()))


@needs_libero
@pytest.mark.libero
@pytest.mark.slow
def test_libero_runs_in_a_fork_and_after_its_parent_drew_says_why_it_cannot():
    said = run(
        LIBERO
        + """
image = fork()
env = make()
observation, _ = env.reset(seed=0)
assert (observation["image"] == image[0]).all()
env.step(env.action_space.sample())
try:
    fork()
except Exception as error:
    print(type(error).__name__, error)
# A fork that inherits an env with pictures may close it, or lose it.
other = make()
other.reset(seed=0)
child = os.fork()
if child == 0:
    env.close()
    del other
    gc.collect()
    os._exit(3)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
env.reset(seed=1)
env.close()
"""
    )
    assert "SimulatorLostError" in said
    assert 'context="spawn"' in said
    assert said.endswith("\n3\n")
