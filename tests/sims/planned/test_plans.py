"""Planned scripts in LIBERO: success by actions alone, and failures in every mode that should fail."""

from itertools import islice

import numpy as np
import pytest

from prophet_gym._registration import SUITES
from prophet_gym.sims._recorder import record_views
from prophet_gym.sims.libero import _install as install
from prophet_gym.sims.libero import simulator
from prophet_gym.sims.libero._experts import MODES, SCRIPT_VERSION
from prophet_gym.sims.libero.simulator import LiberoSimulator

pytestmark = [
    pytest.mark.libero,
    pytest.mark.skipif(install.missing() is not None, reason=str(install.missing())),
]


@pytest.fixture(scope="module")
def sim():
    sim = LiberoSimulator("libero_goal", 4, size=64)
    yield sim
    sim.close()


def test_a_change_of_planned_scripts_leaves_recordings_of_the_others_as_they_are(monkeypatch):
    monkeypatch.setattr(simulator, "PLANNED_VERSION", 99)
    versions = {suite: LiberoSimulator.provenance(suite, "light")["script_version"] for suite in SUITES}
    assert versions == {**dict.fromkeys(SUITES, 99), "libero_object": SCRIPT_VERSION}


def test_the_actions_of_an_expert_alone_lead_to_success(sim):
    episode, _ = record_views(sim, 0, 7777, "expert", cameras=())
    assert episode.sim.success[-10:].all()
    # Nothing but the actions moved anything: the same actions from the same state lead to the same end.
    sim.set_state(episode.sim.init_state)
    for action in episode.actions:
        sim.step(action)
    assert sim.success()
    places = [sim.object_positions()[name] for name in episode.sim.object_names]
    np.testing.assert_allclose(places, episode.sim.object_positions[-1], atol=1e-5)


@pytest.mark.parametrize("mode", MODES)
def test_an_episode_of_every_mode_is_a_function_of_its_seed(sim, mode):
    def begin() -> np.ndarray:
        sim.reset(seed=3)
        acting, _ = sim.script(np.random.default_rng(5), mode)
        actions = []
        for action in islice(acting, 25):
            sim.step(action)
            actions.append(action)
        return np.array(actions)

    actions = begin()
    assert actions.shape == (25, 7)
    assert np.isfinite(actions).all()
    np.testing.assert_array_equal(begin(), actions)


def test_a_hand_that_slips_opens_on_the_way_and_ends_there(sim):
    episode, _ = record_views(sim, 1, 7777, "slip", cameras=())
    closed = episode.actions[:, 6] > 0
    assert closed.any()
    assert not closed[-8:].any()
    assert not episode.sim.success[-1]
