"""The Gymnasium ids: the dream (`Prophet-*`) and the real simulator (`LIBERO-*`) under one interface.

`-vN` rises when the same seed and actions would give another result.
"""

from dataclasses import dataclass

import gymnasium as gym


@dataclass(frozen=True)
class SuiteId:
    """A LIBERO suite, its part of an id, and the chunks of 8 actions in one of its episodes."""

    name: str
    suite: str
    max_episode_steps: int


SUITE_IDS = (
    SuiteId("Object", "libero_object", 30),
    SuiteId("Spatial", "libero_spatial", 30),
    SuiteId("Goal", "libero_goal", 38),
    SuiteId("10", "libero_10", 65),
)


def register_ids() -> None:
    """Register every id that is not registered yet; entry points are names, so that nothing heavy is imported."""
    dreams = [("Prophet-LIBERO-v0", SUITE_IDS[0]), *((f"Prophet-LIBERO-{s.name}-v0", s) for s in SUITE_IDS)]
    simulators = [(f"LIBERO-{s.name}-v0", s) for s in SUITE_IDS]
    for id_, suite in dreams:
        _register(id_, "prophet_gym.factory:make_env", "prophet_gym.factory:make_vector_env", suite)
    for id_, suite in simulators:
        _register(id_, "prophet_gym.sims.libero:make_env", "prophet_gym.sims.libero:make_vec_env", suite)


def _register(id_: str, entry_point: str, vector_entry_point: str, suite: SuiteId) -> None:
    if id_ not in gym.registry:
        gym.register(
            id_,
            entry_point=entry_point,
            vector_entry_point=vector_entry_point,
            max_episode_steps=suite.max_episode_steps,
            kwargs={"suite": suite.suite},
        )
