"""The ceiling from cloning to a report, on a tiny policy and one-chunk dreams in place of the simulator."""

import json
from dataclasses import replace

import pytest

from experiments.ceiling import figures, protocol
from experiments.ceiling import run as experiment
from experiments.reinforce_in_dream import files
from experiments.reinforce_in_dream.protocol import Arm
from prophet_gym.checkpoint import bundled_checkpoints
from prophet_gym.errors import RunInUseError
from prophet_gym.train._run_folder import run_lock

STAND_IN = "Prophet-LIBERO-Object-v0"

pytestmark = pytest.mark.skipif(not bundled_checkpoints().get("libero_small"), reason="no checkpoint is bundled")


@pytest.fixture
def place(tmp_path, record, monkeypatch):
    """Return three updates of two rollouts; dreams end after a chunk, and any success is as wanted."""
    import prophet_gym.envs.vector_env as vector_env

    monkeypatch.setattr(vector_env.ProphetVectorEnv, "_at_horizon", lambda self, row: self._rows[row].elapsed >= 1)
    monkeypatch.setattr(experiment, "ARMS", {"path": protocol.Settings(Arm("fa-grpo", 0.5), mixed=True)})
    monkeypatch.setattr(experiment, "LADDER", (1, 2, 3))
    monkeypatch.setattr(experiment, "WANTED", (0.0, 1.0))
    for index in range(4):
        record(tmp_path / "out" / "experts", index, steps=4, task=3)
    size = replace(
        protocol.SIZE, tasks=(3,), sft_tasks=(3,), policy="benchmarks.toys:tiny", libero=STAND_IN, sft_steps=2,
        sft_batch_size=4, updates=3, groups=1, group_size=2, minibatches=1, point_every=2, final_states=2, num_envs=2,
    )  # fmt: skip
    return files.Place(size, (tmp_path / "out" / "experts",), tmp_path / "out", tmp_path / "logs", workers=0)


def test_it_clones_learns_and_evaluates_once_and_reports(place, monkeypatch):
    args = experiment.Args(demonstrations=2)
    experiment.run_stages(place, replace(args, stage="learn"))
    assert sorted(path.stem for path in (place.out / "path-s0" / "snapshots").iterdir()) == ["00001", "00002", "00003"]
    assert [line["run"] for line in files.read_lines(place.logs / files.EVALUATIONS)] == ["clone-2"]
    experiment.run_stages(place, args)
    known = [experiment.about(line) for line in files.read_lines(place.logs / files.EVALUATIONS)]
    assert known == [
        *(("clone-2", 2, seed) for seed in range(3)),
        ("path-s0", 2, 0),
        *(("path-s0", 3, seed) for seed in range(3)),
    ]
    report = json.loads((place.logs / experiment.REPORT).read_text(encoding="utf-8"))
    assert report["demonstrations"] == 2
    assert report["cloned"]["episodes"] == 6
    assert [(point["update"], point["episodes"]) for point in report["arms"]["path"]["points"]] == [(2, 2), (3, 6)]
    assert report["arms"]["path"]["points"][0]["gain"]["episodes"] == 2
    monkeypatch.setattr(experiment, "episodes_of", None)
    monkeypatch.setattr(experiment, "fit", None)
    experiment.run_stages(place, args)
    monkeypatch.setattr(figures, "RESULTS", place.logs)
    assert "| path | 3 | " in figures.learned()
    assert "from the clone of 2: task 3 " in figures.cloned()


def test_a_clone_is_of_the_first_demonstrations_and_more_are_taken_until_it_succeeds_as_wanted(place, monkeypatch):
    fitted, success = [], {"clone-1": 0.0, "clone-2": 0.2, "clone-3": 0.9}
    monkeypatch.setattr(experiment, "WANTED", (0.3, 0.6))
    monkeypatch.setattr(experiment, "fit", lambda place, run, steps, without: fitted.append((run, without)))
    monkeypatch.setattr(experiment, "evaluate_at", lambda place, run, *_: success[run])
    with pytest.raises(
        ValueError, match=r"no clone succeeds in 30% to 60% of the official states: \{1: 0.0, 2: 0.2, 3"
    ):
        experiment.clone(place, (1, 2, 3), 1)
    assert fitted == [(f"clone-{n}", [f"task_03/episode_{i:05d}" for i in range(n, 4)]) for n in (1, 2, 3)]
    success["clone-2"] = 0.5
    assert experiment.clone(place, (1, 2, 3), 3) == 2
    success.clear()
    assert experiment.clone(place, (1, 2, 3), 1) == 2


def test_an_arm_or_a_number_that_is_not_there_is_refused(place):
    with pytest.raises(ValueError, match=r"arms must be of path and demonstrations of \(1, 2, 3\), got \['other'\]"):
        experiment.run_stages(place, experiment.Args(arms=("other",), demonstrations=2))


def test_two_processes_do_not_learn_in_one_folder(place):
    with run_lock(place.out / "path-s0"), pytest.raises(RunInUseError, match="path-s0 is in use by another run"):
        experiment.learn_arm(place, "path", experiment.ARMS["path"], place.out)
