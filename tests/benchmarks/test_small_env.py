"""The speed benchmark counts frames as it says."""

from benchmarks import small_env
from prophet_gym.envs import ProphetVectorEnv
from prophet_gym.testing import CountingWorldModel, counting_starts


def test_a_step_counts_all_frames_of_all_rows(monkeypatch):
    clock = iter(range(1000))
    monkeypatch.setattr(small_env.time, "perf_counter", lambda: 0.5 * next(clock))
    model = CountingWorldModel(chunk=4)
    envs = ProphetVectorEnv(model, counting_starts(), 3, max_episode_steps=None)
    found = small_env.measure(envs, 3.0, {})
    assert found == {"frames_per_second": 24.0, "step_ms": 500.0, "fastest_step_ms": 500.0, "steps": 6}
    assert model.batch_sizes == [3] * 7  # the first step is not counted


def test_ratios_are_by_the_real_simulators_best_rate():
    rate = lambda value: {"frames_per_second": value}  # noqa: E731
    found = small_env.ratios(
        {"1": rate(30.0), "16": rate(60.0)}, {"light": {"every_frame": {"1": rate(10.0), "2": rate(15.0)}}}, (1, 16)
    )
    assert found == {"light, every_frame, 1 rows": 2.0, "light, every_frame, 16 rows": 4.0}
