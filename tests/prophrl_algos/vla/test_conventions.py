"""What policies say is turned into what envs want, as the published evaluation scripts do it."""

import numpy as np
import pytest
import torch

from prophet_gym.errors import UnknownOptionError
from prophrl_algos.vla._units import affine, env_to_policy, policy_to_env
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
    ],
)
def test_the_gripper_opens_where_the_policy_says_so(benchmark, family, opens, open_command):
    how = convention(benchmark, family)
    assert policy_to_env(said(opens), how)[6] == open_command
    closes = {OPEN: CLOSED, -0.7: 0.7}[opens]
    assert policy_to_env(said(closes), how)[6] == {-1.0: 1.0, 1.0: how.env_gripper.closed}[open_command]


def test_openvla_inverts():
    """normalize_gripper_action then invert_gripper_action on LIBERO."""
    for g in (0.0, 0.3, 0.6, 1.0):
        assert policy_to_env(said(g), convention("libero", "prismatic"))[6] == -np.sign(2 * g - 1)


@pytest.mark.parametrize("how", CONVENTIONS, ids=lambda row: f"{row.benchmark}-{row.family}")
def test_a_demonstration_comes_back_as_the_command_that_it_was(how):
    for gripper in (how.env_gripper.open, how.env_gripper.closed):
        command = said(gripper)
        torch.testing.assert_close(policy_to_env(env_to_policy(command, how), how), command)


def test_policies_of_libero_saw_mirrored_images_and_those_of_bridge_upright_ones():
    assert {row.benchmark for row in CONVENTIONS if row.mirrored} == {"libero"}


def test_quantiles_span_minus_one_to_one_and_masked_numbers_stay():
    statistics = {"q01": torch.tensor([-2.0, 0.0]), "q99": torch.tensor([4.0, 1.0])}
    by = affine("QUANTILES", statistics, eps=0.0)
    assert by.normalise(torch.tensor([[-2.0, 0.0], [4.0, 1.0], [1.0, 0.5]])).tolist() == [[-1, -1], [1, 1], [0, 0]]
    masked = affine("QUANTILES", statistics, eps=0.0, mask=torch.tensor([True, False]))
    assert masked.normalise(torch.tensor([[4.0, 0.25]])).tolist() == [[1.0, 0.25]]


@pytest.mark.parametrize("scaling", ["QUANTILES", "MEAN_STD"])
def test_scales_are_inverted(scaling):
    statistics = {name: torch.tensor(value) for name, value in {"q01": [-1.0], "q99": [3.0], "mean": [0.5]}.items()}
    statistics["std"] = torch.tensor([2.0])
    by = affine(scaling, statistics, eps=1e-6)
    values = torch.linspace(-4, 4, 9)[:, None]
    torch.testing.assert_close(by.undo(by.normalise(values)), values)
    expected = {"QUANTILES": 0.5, "MEAN_STD": 0.75}[scaling]
    assert by.normalise(torch.tensor([2.0])).item() == pytest.approx(expected, abs=1e-5)


def test_an_unknown_row_is_refused():
    with pytest.raises(UnknownOptionError, match=r"unknown convention 'libera with openpi'. Did you mean 'libero with"):
        convention("libera", "openpi")
