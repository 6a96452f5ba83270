"""Check experiments/other_arms: cameras see the tool where the calibration says, and scripts lift the cube."""

import numpy as np
import pytest

pytest.importorskip("robosuite")
from experiments.other_arms.record import ARMS, STEPS, Arm, calibration, make, pixel_errors, record


@pytest.fixture(scope="module", params=ARMS)
def arm(request: pytest.FixtureRequest) -> Arm:
    return Arm(make(request.param))


def test_tool_is_drawn_where_the_calibration_says(arm: Arm) -> None:
    errors = pixel_errors(arm, calibration(arm.env), points=4)
    assert max(errors.values()) <= 1, errors
    assert min(errors.values()) > 0, "no marker was seen"


def test_actions_say_where_the_tool_goes(arm: Arm) -> None:
    episode = record(arm, 10_000 * ARMS.index(arm.env.robots[0].name))  # the first recorded one, which succeeds
    assert episode["action"].shape == (STEPS, 5)
    assert episode["success"].any(), "the cube was never lifted"
    # The tool follows what is asked with a delay of a few steps.
    asked, came = episode["action"][:-3, :3], episode["state"][4:, :3]
    assert np.median(np.linalg.norm(asked - came, axis=1)) < 0.02
