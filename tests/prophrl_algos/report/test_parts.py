"""The parts of a report that are pure functions: intervals, axes, curves; and what a run notes of its start."""

import re
import shlex

import numpy as np
import pytest
import tyro
from scipy import stats

from prophet_gym.cli.report._page import sectioned
from prophet_gym.cli.report._plot import Line, chart, short, ticks
from prophet_gym.cli.report._runs import smoothed, t_interval
from prophet_gym.train import _distill, _pretrain, _small
from prophet_gym.train._run_folder import given_options
from prophrl_algos.cli import _sft, _train


def test_intervals_are_those_of_a_t_test():
    table = np.random.default_rng(0).normal(size=(5, 3))
    mean, low, high = t_interval(table)
    for column in range(3):
        found = stats.ttest_1samp(table[:, column], 0).confidence_interval(0.95)
        np.testing.assert_allclose([low[column], high[column]], found)
    np.testing.assert_allclose(mean, table.mean(0))


def test_what_is_missing_does_not_count_and_one_value_has_no_interval():
    mean, low, _ = t_interval(np.array([[1.0, np.nan, np.nan], [3.0, 2.0, np.nan]]))
    np.testing.assert_array_equal(mean, [2, 2, np.nan])
    assert np.isnan(low).tolist() == [False, True, True]


def test_a_mean_over_neighbours_covers_the_truth_and_keeps_few_values_as_they_are():
    truth = np.linspace(0, 1, 200)
    _, low, high = smoothed(truth + np.random.default_rng(0).normal(scale=0.1, size=200))
    inner = slice(10, -10)
    assert 0.85 < ((low < truth) & (truth < high))[inner].mean() <= 1
    few = np.arange(5.0)
    np.testing.assert_array_equal(smoothed(few)[0], few)


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-0.3, 12.7), (1e-9, 3e-9), (0.0, 31e3), (-5.0, -4.9)])
def test_ticks_are_round_and_inside(low, high):
    found = ticks(low, high, 5)
    assert 2 <= len(found) <= 6
    assert all(low - 1e-9 * abs(low) <= tick <= high + 1e-9 * abs(high) for tick in found)
    assert all(len(f"{abs(tick):.6g}".strip("0.").replace(".", "").split("e")[0].rstrip("0")) <= 3 for tick in found)
    assert all(tick == round(tick) for tick in ticks(0.0, 2.0, 6, whole=True))


def test_numbers_are_short():
    told = [short(value) for value in (0.0, 0.123456, -12.0, 12_345.0, 2_500_000.0, float("nan"))]
    assert told == ["0", "0.123", "-12", "12.3k", "2.5M", "nan"]


def test_a_curve_has_a_gap_where_nothing_was_measured_and_stays_on_its_paper():
    x, y = np.arange(5.0), np.array([0.0, 1.0, np.nan, 5.0, np.inf])
    drawn = chart([Line("run", x, y, y - 100, y + 100)], "loss", "update", (0.0, 1.0))
    curve = re.search(r'<path d="([^"]+)" fill="none"', drawn)
    assert curve is not None
    assert curve[1].count("M") == 2
    heights = [float(pair.split()[1]) for pair in re.split("[ML]", curve[1])[1:]]
    assert min(heights) == 8
    assert max(heights) == 166
    assert 'aria-label="loss: run from 0 to inf at update 4"' in drawn


def test_metrics_are_sorted_into_sections_and_the_unknown_are_last():
    found = sectioned(["b/1", "odd", "a", "b/0"], {"One": {"a": "A."}, "Two": {"b/*": "B."}, "None": {"c": "C."}})
    assert list(found) == ["One", "Two", "Other metrics"]
    assert found["Two"] == {"b": ("B.", ["b/0", "b/1"])}


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (_train, "--policy small --tasks 3 5 --resample --config.updates 7 --load.train lora --loggers csv"),
        (_train, "--policy 'my policies:make' --loggers --evaluate-every 2 --truth-env LIBERO-Object-v0"),
        (_sft, "--policy small --data a b --modes --config.steps 5"),
        (_small, "--out x --data a --base bundled --lora-rank 16 --minutes 3.5 --max-episodes 4"),
        (_pretrain, "--base x --data a:2 --out y"),
        (_distill, "--teacher x --data a --out y --sampler-steps 2"),
    ],
)
def test_the_command_that_is_recorded_gives_the_same_arguments(module, words):
    args = tyro.cli(module.Args, args=shlex.split(words))
    assert tyro.cli(module.Args, args=given_options(args)) == args
    assert len(given_options(args)) == len(shlex.split(words))
