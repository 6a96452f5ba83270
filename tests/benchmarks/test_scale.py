"""The simulation of larger runs, where the answer is known."""

import json

import pytest

from benchmarks.workers.scale import Args, Phases, Plan, best, main, simulate

EVEN = Phases(group=10.0, update=6.0, weights=1.0, serial=2.0, spread=0.0)


def seconds(plan, phases=EVEN, updates=400):
    return simulate(phases, plan, updates).seconds


def test_one_gpu_does_one_thing_after_the_other():
    found = simulate(EVEN, Plan(1, 0, groups=3), updates=400)
    assert found.seconds == pytest.approx(3 * 10 + 6 + 1, rel=0.01)
    assert found.workers_busy == pytest.approx(30 / 37, rel=0.01)
    assert found.learners_busy == pytest.approx(6 / 37, rel=0.01)


@pytest.mark.parametrize("workers", [2, 4])
def test_groups_are_shared_and_the_serial_part_of_an_update_is_not(workers):
    assert seconds(Plan(workers, 0, 4)) == pytest.approx(4 / workers * 10 + 2 + 4 / workers + 1, rel=0.01)


def test_uneven_groups_wait_for_the_worker_that_has_one_more():
    assert seconds(Plan(2, 1, 3)) == pytest.approx(2 * 10 + 6 + 1, rel=0.01)


def test_staleness_hides_the_shorter_phase():
    phases = Phases(group=10.0, update=15.0, weights=0.0, spread=0.0)
    assert seconds(Plan(1, 1, 2), phases) == pytest.approx(20 + 15, rel=0.01)
    assert seconds(Plan(1, 1, 2, staleness=1), phases) == pytest.approx(20, rel=0.02)
    slow = Phases(group=10.0, update=50.0, weights=0.0, spread=0.0)
    assert seconds(Plan(1, 1, 2, staleness=1), slow) == pytest.approx(50, rel=0.02)
    # The learner is the bottleneck, and more staleness cannot help it.
    assert seconds(Plan(1, 1, 2, staleness=3), slow) == pytest.approx(50, rel=0.02)


def test_uneven_lengths_cost_a_synchronous_run_more_than_one_that_runs_ahead():
    phases = Phases(group=10.0, update=1.0, weights=0.0, spread=0.8)
    even = Phases(group=10.0, update=1.0, weights=0.0, spread=0.0)
    waits = [seconds(Plan(8, 1, 8, staleness=stale), phases) for stale in (0, 2)]
    assert waits[0] > 1.5 * seconds(Plan(8, 1, 8), even)
    assert waits[1] < 0.9 * waits[0]


def test_the_best_share_is_no_worse_than_taking_turns():
    for gpus in (1, 2, 16):
        plan, found = best(EVEN, gpus, 32, 0)
        assert plan.workers + plan.learners == gpus
        assert found.seconds <= simulate(EVEN, Plan(gpus, 0, 32)).seconds


def test_measured_runs_stand_beside_simulated_ones(tmp_path, capsys):
    runs = [{"workers": 1, "groups": 2, "staleness": 0, "updates": 50, "seconds": 27.5, "phases": vars(EVEN)}]
    (tmp_path / "runs.json").write_text(json.dumps({"runs": runs}))
    main(Args(gpus=(1, 8), staleness=(0,), check=tmp_path / "runs.json", json=tmp_path / "workers/scale.json"))
    (row,) = json.loads((tmp_path / "workers/scale.json").read_text())["checked"]
    assert row["measured"] == 27.5
    assert row["simulated"] == pytest.approx(27, rel=0.01)
    assert "1 workers, staleness 0: 27.50 s per update measured" in capsys.readouterr().out
