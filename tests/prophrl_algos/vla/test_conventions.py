"""What policies say is turned into what envs want, as the published evaluation scripts do it."""

import numpy as np
import pytest
import torch
from scipy.spatial.transform import Rotation

from prophet_gym.errors import UnknownOptionError
from prophrl_algos.vla._units import affine, env_to_policy, normalise, policy_image, policy_to_env, unnormalise
from prophrl_algos.vla.conventions import CONVENTIONS, convention

OPEN, CLOSED = 0.9, 0.1


def said(gripper: float) -> torch.Tensor:
    return torch.tensor([0.01, 0.02, 0.03, 0.1, -0.2, 0.3, gripper])


@pytest.mark.parametrize(
    ("benchmark", "family", "opens", "open_command"),
    [
        ("libero", "prismatic", OPEN, -1.0),
        ("libero", "openpi", -0.7, -1.0),
        ("libero", "smolvla", -0.7, -1.0),
        ("bridge", "prismatic", OPEN, 1.0),
        ("bridge", "openpi", OPEN, 1.0),
        ("simpler-widowx", "prismatic", OPEN, 1.0),
        ("simpler-widowx", "openpi", OPEN, 1.0),
    ],
)
def test_the_gripper_opens_where_the_policy_says_so(benchmark, family, opens, open_command):
    how = convention(benchmark, family)
    assert policy_to_env(said(opens), how)[6] == open_command
    closes = {OPEN: CLOSED, -0.7: 0.7}[opens]
    assert policy_to_env(said(closes), how)[6] == {-1.0: 1.0, 1.0: how.env_gripper.closed}[open_command]


def test_openvla_inverts_and_simpler_does_not():
    """normalize_gripper_action then invert_gripper_action on LIBERO; 2 * (g > 0.5) - 1 on SimplerEnv."""
    for g in (0.0, 0.3, 0.6, 1.0):
        assert policy_to_env(said(g), convention("libero", "prismatic"))[6] == -np.sign(2 * g - 1)
        assert policy_to_env(said(g), convention("simpler-widowx", "prismatic"))[6] == 2.0 * (g > 0.5) - 1.0


@pytest.mark.parametrize("how", CONVENTIONS, ids=lambda row: f"{row.benchmark}-{row.family}")
def test_a_demonstration_comes_back_as_the_command_that_it_was(how):
    for gripper in (how.env_gripper.open, how.env_gripper.closed):
        command = said(gripper)
        torch.testing.assert_close(policy_to_env(env_to_policy(command, how), how), command)


def test_simpler_wants_a_rotation_vector_where_the_policy_gives_angles():
    turned = policy_to_env(said(OPEN), convention("simpler-widowx", "openpi"))[3:6]
    expected = Rotation.from_euler("xyz", [0.1, -0.2, 0.3]).as_rotvec()
    np.testing.assert_allclose(turned, expected, atol=1e-6)
    assert torch.equal(policy_to_env(said(OPEN), convention("bridge", "openpi"))[:6], said(OPEN)[:6])


def test_rotations_agree_with_scipy_and_come_back():
    angles = torch.from_numpy(np.random.default_rng(0).uniform(-1.4, 1.4, (50, 3)))
    how = convention("simpler-widowx", "openpi")
    said = torch.cat([torch.zeros(50, 3), angles, torch.ones(50, 1)], 1)
    vectors = policy_to_env(said, how)
    np.testing.assert_allclose(vectors[:, 3:6], Rotation.from_euler("xyz", angles.numpy()).as_rotvec(), atol=1e-9)
    torch.testing.assert_close(env_to_policy(vectors, how)[:, 3:6], angles)
    assert torch.equal(policy_to_env(torch.zeros(7), how)[:6], torch.zeros(6))


def test_a_picture_of_robosuite_turned_by_half_a_turn_is_an_upright_one_mirrored():
    upside_down = torch.arange(12, dtype=torch.uint8).view(1, 2, 2, 3)
    upright, trained_on = upside_down.flip(1), upside_down.flip(1, 2)
    for family in ("openpi", "prismatic", "smolvla"):
        assert torch.equal(policy_image(upright, convention("libero", family).image), trained_on)
    assert torch.equal(policy_image(upright, convention("bridge", "openpi").image), upright)
    assert torch.equal(policy_image(upside_down, "rotated"), trained_on)


def test_quantiles_span_minus_one_to_one_and_masked_numbers_stay():
    statistics = {"q01": torch.tensor([-2.0, 0.0]), "q99": torch.tensor([4.0, 1.0])}
    by = affine("quantile", statistics, eps=0.0)
    assert normalise(torch.tensor([[-2.0, 0.0], [4.0, 1.0], [1.0, 0.5]]), by).tolist() == [[-1, -1], [1, 1], [0, 0]]
    masked = affine("quantile", statistics, eps=0.0, mask=torch.tensor([True, False]))
    assert normalise(torch.tensor([[4.0, 0.25]]), masked).tolist() == [[1.0, 0.25]]


@pytest.mark.parametrize("scaling", ["quantile", "mean std", "min max", "identity"])
def test_scales_are_inverted(scaling):
    statistics = {name: torch.tensor(value) for name, value in {"q01": [-1.0], "q99": [3.0], "mean": [0.5]}.items()}
    statistics |= {name: torch.tensor(value) for name, value in {"std": [2.0], "min": [-5.0], "max": [5.0]}.items()}
    by = affine(scaling, statistics, eps=1e-6)
    values = torch.linspace(-4, 4, 9)[:, None]
    torch.testing.assert_close(unnormalise(normalise(values, by), by), values)
    expected = {"quantile": 0.5, "mean std": 0.75, "min max": 0.4, "identity": 2.0}[scaling]
    assert normalise(torch.tensor([2.0]), by).item() == pytest.approx(expected, abs=1e-5)


def test_statistics_that_are_not_there_are_named():
    with pytest.raises(ValueError, match=r"'quantile' scaling needs q01 and q99, .* \['mean', 'std'\]"):
        affine("quantile", {"mean": torch.zeros(1), "std": torch.ones(1)}, eps=1e-6)


def test_every_row_names_its_sources_and_an_unknown_one_is_refused():
    assert len({(row.benchmark, row.family) for row in CONVENTIONS}) == len(CONVENTIONS)
    for row in CONVENTIONS:
        assert {"image", "gripper", "env_gripper", "binary", "exec_steps", "scaling"} <= set(row.sources)
    with pytest.raises(UnknownOptionError, match=r"unknown convention 'libera with openpi'. Did you mean 'libero with"):
        convention("libera", "openpi")
