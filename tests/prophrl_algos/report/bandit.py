"""Registers the bandit of `benchmarks.toys`: `--env tests.prophrl_algos.report.bandit:Bandit-v0`."""

import gymnasium as gym

from benchmarks.toys import BanditVectorEnv


def make(num_envs=1, **_):
    return BanditVectorEnv(num_envs)


gym.register("Bandit-v0", vector_entry_point="tests.prophrl_algos.report.bandit:make")
